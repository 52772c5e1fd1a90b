//! `unet`: the improved-diffusion network, with every block's activations.

use candle_core::{DType, Device, Tensor};
use dpsyn::internals::models::improved_diffusion::timestep_embedding;

use super::place::Place;
use super::{Case, Outcome, Tolerance, weights};

pub fn check(case: &Case) -> Outcome {
    let place = Place::get()?;
    let unet = weights::build_unet(case, place, "/config", "/weights", "/state_dict")?;
    let x = &place.put(case.tensor("x")?)?;
    let labels = if case.has("y") {
        Some(labels(case.tensor("y")?)?)
    } else {
        None
    };
    let mut index = 0;
    while case.has(&format!("out_{index}")) {
        let timesteps: Vec<f32> = case.tensor(&format!("timesteps_{index}"))?.to_vec1()?;

        let name = format!("timestep_embedding_{index}");
        if case.has(&name) {
            let (expected, shape) = case.f64s(&name)?;
            let dim = *shape.last().ok_or("an embedding without dimensions")?;
            let found: Vec<f64> = timestep_embedding(&timesteps, dim)
                .into_iter()
                .map(f64::from)
                .collect();
            let given = case.network_tolerance(&name, &expected);
            Tolerance::absolute(given).check(&name, &found, &expected)?;
        }

        let mut seen = Vec::new();
        let out = unet.forward_observed(x, &timesteps, labels.as_deref(), |block, value| {
            let name = format!("act_{index}.{block}");
            if case.has(&name) {
                seen.push((name, value.clone()));
            }
            Ok(())
        })?;
        for (name, value) in &seen {
            // Activations are given for the first images only.
            let images = case.tensor(name)?.dim(0)?;
            check_tensor(case, name, &value.narrow(0, 0, images)?)?;
        }
        let given = case.names();
        let prefix = format!("act_{index}.");
        for name in given.iter().filter(|name| name.starts_with(&prefix)) {
            if !seen.iter().any(|(seen, _)| seen == name) {
                return Err(format!("nothing was computed for `{name}`").into());
            }
        }
        check_tensor(case, &format!("out_{index}"), &out)?;
        index += 1;
    }
    if index == 0 {
        return Err("the case has no `out_0`".into());
    }
    Ok(())
}

fn labels(y: &Tensor) -> Result<Vec<u32>, Box<dyn std::error::Error>> {
    Ok(y.to_dtype(DType::U32)?.to_vec1()?)
}

fn check_tensor(case: &Case, name: &str, found: &Tensor) -> Outcome {
    let (expected, shape) = case.f64s(name)?;
    if found.dims() != shape {
        return Err(format!("{name} is {:?}, expected {shape:?}", found.dims()).into());
    }
    let found = found.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let found: Vec<f64> = found.flatten_all()?.to_vec1()?;
    tolerance(case, Place::get()?, name, &expected).check(name, &found, &expected)
}

fn tolerance(case: &Case, place: &Place, name: &str, expected: &[f64]) -> Tolerance {
    Tolerance::absolute(place.tolerance(case, name, expected))
}
