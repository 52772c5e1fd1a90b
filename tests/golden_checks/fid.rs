//! The Fréchet distance against clean-fid's.

use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::metrics::frechet::Frechet;
use dpsyn::internals::metrics::moments::{Gaussian, Moments};

use super::{Case, Outcome, Tolerance};

/// clean-fid takes means in float32, which alone moves its result by up to 1e-6.
const DISTANCE: Tolerance = Tolerance {
    absolute: 1e-5,
    relative: 1e-6,
};
/// Means of float32 features in float32.
const MEAN: Tolerance = Tolerance {
    absolute: 2e-6,
    relative: 2e-6,
};
const COVARIANCE: Tolerance = Tolerance {
    absolute: 1e-12,
    relative: 1e-12,
};

pub fn check(case: &Case) -> Outcome {
    let rows = case.value("/rows")?.as_array().ok_or("`rows` is no list")?;
    for row in rows {
        let name = row["name"].as_str().ok_or("a row without a name")?;
        let expected = row["cleanfid"].as_f64().ok_or("a row without a distance")?;
        let first = gaussian(case, name, 1)?;
        let second = gaussian(case, name, 2)?;
        let found = [
            Frechet::new(&first)?.distance(&second)?,
            Frechet::new(&second)?.distance(&first)?,
        ];
        DISTANCE.check(name, &found, &[expected; 2])?;
        // As when statistics are given: the mean that clean-fid had.
        if case.has(&format!("{name}.sigma1")) {
            let given = |side| -> Result<Gaussian, Box<dyn std::error::Error>> {
                let (mean, _) = case.f64s(&format!("{name}.mu{side}"))?;
                let (sigma, _) = case.f64s(&format!("{name}.sigma{side}"))?;
                Ok(Gaussian::new(mean, &sigma)?)
            };
            let found = Frechet::new(&given(1)?)?.distance(&given(2)?)?;
            DISTANCE.check(&format!("{name} from statistics"), &[found], &[expected])?;
        }
    }
    if rows.is_empty() {
        return Err("no row to check".into());
    }
    Ok(())
}

/// Of one side's features, and its mean and covariance compared where they are given.
fn gaussian(case: &Case, name: &str, side: usize) -> Result<Gaussian, Box<dyn std::error::Error>> {
    let (features, shape) = case.f64s(&format!("{name}.feats{side}"))?;
    let dimension = *shape.last().ok_or("features without a shape")?;
    let features = features.into_iter().map(|v| v as f32).collect();
    let features = Embeddings::new(features, dimension).ok_or("features of no shape")?;
    let mut moments = Moments::new(dimension);
    moments.push(&features)?;
    let gaussian = moments.finish("features")?;
    let (mean, _) = case.f64s(&format!("{name}.mu{side}"))?;
    MEAN.check(&format!("{name}.mu{side}"), gaussian.mean(), &mean)?;
    let sigma = format!("{name}.sigma{side}");
    if case.has(&sigma) {
        let (expected, _) = case.f64s(&sigma)?;
        COVARIANCE.check(&sigma, &gaussian.covariance(), &expected)?;
    }
    Ok(gaussian)
}
