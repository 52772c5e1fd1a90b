//! Improved precision and recall against an independent implementation.

use candle_core::Device;
use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::metrics::precision_recall::{precision_recall, radii};
use dpsyn::internals::progress::Silent;

use super::{Case, Outcome, Tolerance};

const RADII: Tolerance = Tolerance {
    absolute: 1e-12,
    relative: 1e-12,
};
/// Shares are quotients of counts.
const SHARES: Tolerance = Tolerance::absolute(1e-15);

pub fn check(case: &Case) -> Outcome {
    let rows = case.value("/rows")?.as_array().ok_or("`rows` is no list")?;
    for row in rows {
        let index = row["index"].as_u64().ok_or("a row without an index")?;
        let k = row["k"].as_u64().ok_or("a row without k")? as usize;
        let real = features(case, &format!("{index}.real"))?;
        let generated = features(case, &format!("{index}.gen"))?;
        for (set, name) in [(&real, "real"), (&generated, "gen")] {
            let name = format!("{index}.k{k}.radii_{name}");
            let (expected, _) = case.f64s(&name)?;
            RADII.check(&name, &radii(set, k, &Device::Cpu)?, &expected)?;
        }
        let found = precision_recall(&real, &generated, k, &Device::Cpu, &Silent)?;
        let share = |key: &str| row[key].as_f64().ok_or(format!("a row without {key}"));
        SHARES.check(
            &format!("{index}, k = {k}: precision and recall"),
            &[found.precision, found.recall],
            &[share("precision")?, share("recall")?],
        )?;
    }
    if rows.is_empty() {
        return Err("no row to check".into());
    }
    Ok(())
}

fn features(case: &Case, name: &str) -> Result<Embeddings, Box<dyn std::error::Error>> {
    let (features, shape) = case.f64s(name)?;
    let dimension = *shape.last().ok_or("features without a shape")?;
    let features = features.into_iter().map(|v| v as f32).collect();
    Ok(Embeddings::new(features, dimension).ok_or("features of no shape")?)
}
