//! Family `resize`: clean-fid's bicubic resizer.

use dpsyn::internals::images::resize_bicubic_float;

use super::case::fail;
use super::compare::{Tolerance, check_bytes};
use super::{Case, Outcome};

pub fn check(case: &Case) -> Outcome {
    let mut names: Vec<&str> = case
        .names()
        .into_iter()
        .filter_map(|name| name.strip_suffix(".input"))
        .collect();
    names.sort_unstable();
    if names.is_empty() {
        return fail(format!("{}: no tensor is named `<name>.input`", case.name));
    }
    for name in names {
        check_one(case, name)?;
    }
    Ok(())
}

fn check_one(case: &Case, name: &str) -> Outcome {
    let (input, shape) = case.f64s(&format!("{name}.input"))?;
    let [height, width, channels] = shape[..] else {
        return fail(format!("{name}.input has shape {shape:?}, not HWC"));
    };
    let pixels: Vec<f32> = input.iter().map(|value| *value as f32).collect();
    let (out_height, out_width) = output_size(case, name)?;
    let found = resize_bicubic_float(&pixels, height, width, channels, out_height, out_width)?;
    let found: Vec<f64> = found.iter().map(|value| f64::from(*value)).collect();

    let tolerance = Tolerance::absolute(
        case.json["float32_vs_independent_float64"][name]["suggest_abs_tol"]
            .as_f64()
            .unwrap_or(5e-4),
    );
    let mut checked = false;
    let whole = format!("{name}.output");
    if case.has(&whole) {
        tolerance.check(&whole, &found, &case.f64s(&whole)?.0)?;
        checked = true;
    }
    let rows = format!("{name}.output_every_4th_row");
    if case.has(&rows) {
        let every_4th: Vec<f64> = found
            .chunks_exact(out_width * channels)
            .step_by(4)
            .flatten()
            .copied()
            .collect();
        tolerance.check(&rows, &every_4th, &case.f64s(&rows)?.0)?;
        checked = true;
    }
    let rounded = format!("{name}.output_uint8");
    if case.has(&rounded) {
        let bytes: Vec<u8> = found.iter().map(|v| v.round_ties_even() as u8).collect();
        check_bytes(&rounded, &bytes, &case.u8s(&rounded)?.0, 0.0)?;
        checked = true;
    }
    if !checked {
        return fail(format!("{name} has no output to compare with"));
    }
    Ok(())
}

/// Rows and columns of the output: its tensor's, or what the json says when only some rows are
/// kept.
fn output_size(case: &Case, name: &str) -> Result<(usize, usize), Box<dyn std::error::Error>> {
    if let Ok(output) = case.tensor(&format!("{name}.output")) {
        let (height, width, _) = output.dims3()?;
        return Ok((height, width));
    }
    let size = case
        .value("/cases")?
        .as_array()
        .and_then(|cases| cases.iter().find(|entry| entry["name"] == name))
        .map(|entry| &entry["output_size_wh"])
        .ok_or_else(|| format!("the json does not list `{name}`"))?;
    match (size[0].as_u64(), size[1].as_u64()) {
        (Some(width), Some(height)) => Ok((height as usize, width as usize)),
        _ => Err(format!("`output_size_wh` of `{name}` is {size}").into()),
    }
}
