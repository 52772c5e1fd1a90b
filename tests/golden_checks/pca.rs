//! Principal components and projections against numpy.

use dpsyn::internals::embedders::{Covariance, Embedder, PcaEmbedder};
use dpsyn::internals::images::ImageBatch;
use dpsyn::{PixelsConfig, PixelsEmbedder};

use super::{Case, Outcome, Tolerance};

/// Sums are exact here and rounded in numpy; the projection is float32.
const EXACT: Tolerance = Tolerance {
    absolute: 1e-9,
    relative: 1e-9,
};
const PROJECTED: Tolerance = Tolerance {
    absolute: 1e-3,
    relative: 1e-5,
};

pub fn check(case: &Case) -> Outcome {
    let rows = case.value("/rows")?.as_array().ok_or("`rows` is no list")?;
    for (index, row) in rows.iter().enumerate() {
        let flag = |name: &str| row[name].as_bool().ok_or("a row without a flag");
        let (grayscale, whiten) = (flag("grayscale")?, flag("whiten")?);
        let count = row["components"]
            .as_u64()
            .ok_or("a row without components")? as usize;
        let public = images(case, &format!("{index}.public"))?;
        let config = PixelsConfig {
            size: None,
            grayscale,
        };
        let pixels = || PixelsEmbedder::new(&config, (public.height(), public.width()));
        let values = pixels()?.embed(&public)?;
        let mut covariance = Covariance::new(values.dimension(), if grayscale { 3 } else { 1 });
        covariance.push(values.data());
        let components = covariance.components(count)?;
        let expected = |name: &str| case.f64s(&format!("{index}.{name}"));
        EXACT.check("mean", components.mean(), &expected("mean")?.0)?;
        let (mut directions, mut variances) = (Vec::new(), Vec::new());
        for (direction, variance) in components.iter() {
            directions.extend_from_slice(direction);
            variances.push(variance);
        }
        EXACT.check("variances", &variances, &expected("variances")?.0)?;
        // A direction is as exact as the difference to the next variance permits.
        let tolerance = Tolerance::absolute(1e-8);
        tolerance.check("components", &directions, &expected("components")?.0)?;
        let embedder = PcaEmbedder::new(pixels()?, &components, whiten)?;
        let projected = embedder.embed(&images(case, &format!("{index}.others"))?)?;
        let projected: Vec<f64> = projected.data().iter().map(|v| f64::from(*v)).collect();
        PROJECTED.check("projected", &projected, &expected("projected")?.0)?;
    }
    if rows.is_empty() {
        return Err("no row to check".into());
    }
    Ok(())
}

fn images(case: &Case, name: &str) -> Result<ImageBatch, Box<dyn std::error::Error>> {
    let (data, shape) = case.u8s(name)?;
    match shape.as_slice() {
        [count, height, width, 3] => Ok(ImageBatch::new(data, *count, *height, *width)?),
        other => Err(format!("{name} has the shape {other:?}").into()),
    }
}
