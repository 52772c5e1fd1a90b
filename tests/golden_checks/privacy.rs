//! ε and σ against values solved with 60 digits.

use dpsyn::internals::privacy::{Adjacency, epsilon, noise_multiplier};
use serde_json::Value;

use super::{Case, Outcome};

const RELATIVE: f64 = 1e-6;

pub fn check(case: &Case) -> Outcome {
    let mut checked = 0;
    for family in ["epsilon", "epsilon_edge_cases", "noise_multiplier"] {
        // A case may hold only some of the families; none at all is caught below.
        let Some(rows) = case.json.get(family) else {
            continue;
        };
        let rows = rows
            .as_array()
            .ok_or_else(|| format!("`{family}` is no list"))?;
        for (index, row) in rows.iter().enumerate() {
            check_row(family, row).map_err(|error| format!("{family}[{index}] {row}: {error}"))?;
            checked += 1;
        }
    }
    if checked == 0 {
        return Err("no row to check".into());
    }
    Ok(())
}

fn check_row(family: &str, row: &Value) -> Outcome {
    let releases = row["num_steps"]
        .as_u64()
        .and_then(|steps| u32::try_from(steps).ok())
        .ok_or("`num_steps` is no count")?;
    let delta = number(row, "delta")?;
    let (found, key) = if family == "noise_multiplier" {
        let target = number(row, "epsilon")?;
        let found = noise_multiplier(target, releases, delta, Adjacency::AddRemove)?;
        (found, "noise_multiplier")
    } else {
        let sigma = number(row, "noise_multiplier")?;
        let found = epsilon(sigma, releases, delta, Adjacency::AddRemove)?;
        (found, "epsilon")
    };
    let exact = format!("{key}_exact");
    let expected = match row.get(&exact) {
        Some(_) => number(row, &exact)?,
        None => number(row, key)?,
    };
    if found == expected {
        return Ok(());
    }
    // Never below, up to the last digit of the expected value itself.
    let allowed = RELATIVE * expected.abs();
    if found < expected * (1.0 - 1e-14) {
        return Err(format!("{key}: found {found:e}, below {expected:e}: the unsafe side").into());
    }
    if (found - expected).abs() <= allowed {
        return Ok(());
    }
    Err(format!("{key}: found {found:e}, expected {expected:e}, allowed {allowed:e}").into())
}

/// A number, or the text `inf`.
fn number(row: &Value, key: &str) -> Result<f64, Box<dyn std::error::Error>> {
    let value = &row[key];
    value
        .as_f64()
        .or_else(|| value.as_str()?.parse().ok())
        .ok_or_else(|| format!("`{key}` is {value}, no number").into())
}
