//! `inception`: FID's preprocessing and network.

use candle_core::{D, DType, Device, Tensor};
use dpsyn::internals::embedders::{Embedder, InceptionEmbedder};
use dpsyn::internals::images::ImageBatch;
use dpsyn::internals::models::inception::{IGNORED, INPUT_SIZE, Inception};

use super::compare::check_bytes;
use super::place::Place;
use super::{Case, Outcome, Tolerance, weights};

pub fn check(case: &Case) -> Outcome {
    let place = Place::get()?;
    let network = match weights::checkpoint(case, "/weights")? {
        Some(checkpoint) => checkpoint.load(place.dtype, &place.device, IGNORED, |vb| {
            Inception::new(&vb)
        })?,
        None => {
            let (seed, gain) = weights::seed_and_gain(case.value("/weights")?)?;
            let table = case.value("/state_dict")?;
            weights::build_at(place, (seed, gain), table, &["fc."], |vb| {
                Inception::new(&vb)
            })?
        }
    };
    let cases = case
        .value("/cases")?
        .as_object()
        .ok_or("`/cases` is no object")?;
    for (name, options) in cases {
        let resolution = options["res"].as_u64().ok_or("a case without `res`")? as usize;
        check_one(case, name, resolution, &network)?;
    }
    Ok(())
}

fn check_one(case: &Case, name: &str, resolution: usize, network: &Inception) -> Outcome {
    let images = case.tensor(&format!("{name}.images"))?;
    let (count, height, width, _) = images.dims4()?;
    let images = ImageBatch::new(images.flatten_all()?.to_vec1()?, count, height, width)?;
    let place = Place::get()?;
    let embedder = InceptionEmbedder::new(network.clone(), resolution, 2, place.device.clone())?;

    // Step by step, to find a divergence where it begins.
    let private = embedder.at_private_size(&images)?;
    let expected = format!("{name}.resized_uint8");
    check_bytes(&expected, private.data(), &case.u8s(&expected)?.0, 0.0)?;
    let input = embedder.network_input(&private)?;
    check_input(case, name, &input.to_device(&Device::Cpu)?)?;

    let mut means = Vec::new();
    network.forward_observed(&input, |layer, value| {
        let key = format!("{name}.mean.{layer}");
        if case.has(&key) {
            let value = value.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            let value = value.flatten_from(2)?;
            means.push((key, value.mean(D::Minus1)?.flatten_all()?.to_vec1::<f64>()?));
        }
        Ok(())
    })?;
    for (key, found) in &means {
        check_values(case, key, found)?;
    }
    let prefix = format!("{name}.mean.");
    let given = case.names();
    let wanted = given.iter().filter(|name| name.starts_with(&prefix));
    for key in wanted {
        if !means.iter().any(|(seen, _)| seen == key) {
            return Err(format!("no layer gives `{key}`").into());
        }
    }

    let features = embedder.embed(&images)?;
    let found: Vec<f64> = features.data().iter().map(|v| f64::from(*v)).collect();
    check_values(case, &format!("{name}.features"), &found)
}

/// `input` is `[n, 3, 299, 299]`, normalized.
fn check_input(case: &Case, name: &str, input: &Tensor) -> Outcome {
    let pixels = ((input.to_dtype(DType::F64)? * 128.0)? + 128.0)?;
    let key = format!("{name}.stage299_channel_mean");
    if case.has(&key) {
        let means: Vec<f64> = pixels.mean((2, 3))?.flatten_all()?.to_vec1()?;
        Tolerance::absolute(1e-4).check(&key, &means, &case.f64s(&key)?.0)?;
    }
    let key = format!("{name}.stage299_first_every_4th_row");
    if case.has(&key) {
        let rows: Vec<u32> = (0..INPUT_SIZE as u32).step_by(4).collect();
        let rows = Tensor::new(rows, input.device())?;
        let found = pixels.narrow(0, 0, 1)?.index_select(&rows, 2)?;
        let found: Vec<f64> = found.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()?;
        Tolerance::absolute(5e-4).check(&key, &found, &case.f64s(&key)?.0)?;
    }
    let key = format!("{name}.normalised_row150_first");
    if case.has(&key) {
        let found = input.narrow(0, 0, 1)?.narrow(2, 150, 1)?;
        let found: Vec<f64> = found.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        Tolerance::absolute(5e-6).check(&key, &found, &case.f64s(&key)?.0)?;
    }
    Ok(())
}

fn check_values(case: &Case, key: &str, found: &[f64]) -> Outcome {
    let (expected, _) = case.f64s(key)?;
    let tolerance = Place::get()?.tolerance(case, key, &expected);
    Tolerance::absolute(tolerance).check(key, found, &expected)
}
