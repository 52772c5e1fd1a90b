//! Logistic regression against scikit-learn.

use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::metrics::downstream::{LogisticConfig, LogisticRegression};

use super::{Case, Outcome, Tolerance};

/// Products are float32 here and float64 in scikit-learn.
const LOG_PROBABILITIES: Tolerance = Tolerance {
    absolute: 2e-4,
    relative: 2e-4,
};

pub fn check(case: &Case) -> Outcome {
    let rows = case.value("/rows")?.as_array().ok_or("`rows` is no list")?;
    for (index, row) in rows.iter().enumerate() {
        let classes = row["classes"].as_u64().ok_or("a row without classes")? as usize;
        let config = LogisticConfig {
            l2: row["l2"].as_f64().ok_or("a row without l2")?,
            tolerance: 1e-7,
            ..LogisticConfig::default()
        };
        let (labels, _) = case.f64s(&format!("{index}.labels"))?;
        let labels: Vec<u32> = labels.into_iter().map(|label| label as u32).collect();
        let train = vectors(case, &format!("{index}.train"))?;
        let fitted = LogisticRegression::fit(&train, &labels, classes, &config)?;
        let scores = fitted.scores(&vectors(case, &format!("{index}.test"))?)?;
        let found: Vec<f64> = scores.chunks(classes).flat_map(log_softmax).collect();
        let name = format!("{index}.log_probabilities");
        let (expected, _) = case.f64s(&name)?;
        LOG_PROBABILITIES.check(&name, &found, &expected)?;
    }
    if rows.is_empty() {
        return Err("no row to check".into());
    }
    Ok(())
}

fn vectors(case: &Case, name: &str) -> Result<Embeddings, Box<dyn std::error::Error>> {
    let (values, shape) = case.f64s(name)?;
    let dimension = *shape.last().ok_or("vectors without a shape")?;
    let values = values.into_iter().map(|v| v as f32).collect();
    Ok(Embeddings::new(values, dimension).ok_or("vectors of no shape")?)
}

fn log_softmax(scores: &[f32]) -> Vec<f64> {
    let scores = scores.iter().map(|score| f64::from(*score));
    let largest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.clone().map(|score| (score - largest).exp()).sum();
    scores.map(|score| score - largest - total.ln()).collect()
}
