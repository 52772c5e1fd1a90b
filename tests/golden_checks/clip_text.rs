//! `clip_text`: CLIP's text tower.

use candle_core::{DType, Device, Tensor};
use dpsyn::internals::models::clip::{ClipText, ClipTextConfig};

use super::{Case, Outcome, Tolerance, weights};

pub fn check(case: &Case) -> Outcome {
    let config: ClipTextConfig = serde_json::from_value(case.value("/config")?.clone())?;
    let network = match weights::checkpoint(case, "/weights")? {
        Some(checkpoint) => checkpoint.load(DType::F32, &Device::Cpu, ClipText::IGNORED, |vb| {
            ClipText::new(&config, &vb)
        })?,
        None => {
            let (seed, gain) = weights::seed_and_gain(case.value("/weights")?)?;
            let table = case.value("/state_dict")?;
            weights::build(seed, gain, table, &[], |vb| ClipText::new(&config, &vb))?
        }
    };
    let mut seen = Vec::new();
    let out = network.forward_observed(case.tensor("input_ids")?, |index, value| {
        let name = format!("hidden_states.{index}");
        if case.has(&name) {
            seen.push((name, value.clone()));
        }
        Ok(())
    })?;
    check_hidden_states(case, &seen)?;
    check_tensor(case, "last_hidden_state", &out)
}

/// Hidden states are given for the first text or image only; each that is given must have been
/// seen.
pub fn check_hidden_states(case: &Case, seen: &[(String, Tensor)]) -> Outcome {
    for (name, value) in seen {
        check_tensor(case, name, &value.narrow(0, 0, case.tensor(name)?.dim(0)?)?)?;
    }
    let given = case.names();
    let mut given = given
        .iter()
        .filter(|name| name.starts_with("hidden_states."));
    match given.find(|name| !seen.iter().any(|(seen, _)| seen == *name)) {
        None => Ok(()),
        Some(name) => Err(format!("nothing was computed for `{name}`").into()),
    }
}

pub fn check_tensor(case: &Case, name: &str, found: &Tensor) -> Outcome {
    let (expected, shape) = case.f64s(name)?;
    if found.dims() != shape {
        return Err(format!("{name} is {:?}, expected {shape:?}", found.dims()).into());
    }
    let found: Vec<f64> = found.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let tolerance = case.network_tolerance(name, &expected);
    Tolerance::absolute(tolerance).check(name, &found, &expected)
}
