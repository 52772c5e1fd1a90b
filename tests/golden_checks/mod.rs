//! The harness, and which family is checked by which function.

mod case;
mod clip_preprocess;
mod clip_text;
mod clip_vision;
mod compare;
mod containers;
mod dinov2;
mod fid;
mod formats;
mod histogram;
mod image_cases;
mod inception;
mod loader;
mod logistic;
mod pca;
mod place;
mod precision_recall;
mod privacy;
mod pt_layouts;
mod resize;
mod sample;
mod schedule;
mod sd_networks;
mod sd_pipeline;
mod sd_scheduler;
mod unet;
mod weights;

pub use case::Case;
#[allow(unused_imports)]
pub use compare::Tolerance;

use std::path::PathBuf;
use std::process::ExitCode;

/// A check returns the first divergence as text.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;
type Check = fn(&Case) -> Outcome;

/// Families by the longest prefix of the case's name that ends at `_` or at its end.
#[rustfmt::skip]
const CHECKS: &[(&str, Check)] = &[
    ("clip_preprocess", clip_preprocess::check),
    ("clip_text", clip_text::check),
    ("clip_vision", clip_vision::check),
    ("containers", containers::check),
    ("dinov2", dinov2::check),
    ("dinov2_preprocess", dinov2::preprocess),
    ("fid", fid::check),
    ("formats", formats::check),
    ("histogram", histogram::check),
    ("image_cases", image_cases::check),
    ("inception", inception::check),
    ("loader", loader::check),
    ("logistic", logistic::check),
    ("pca", pca::check),
    ("precision_recall", precision_recall::check),
    ("privacy", privacy::check),
    ("pt_layouts", pt_layouts::check),
    ("resize", resize::check),
    ("sample", sample::check),
    ("schedule", schedule::check),
    ("sd_img2img", sd_pipeline::img2img),
    ("sd_scheduler", sd_scheduler::check),
    ("sd_text_encoder", sd_networks::text_encoder),
    ("sd_txt2img", sd_pipeline::txt2img),
    ("sd_unet", sd_networks::unet),
    ("sd_vae", sd_networks::vae),
    ("unet", unet::check),
];

pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let directory = std::env::var_os("DPSYN_GOLDENS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"),
        PathBuf::from,
    );
    let mut names: Vec<String> = match std::fs::read_dir(&directory) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect(),
        Err(error) => {
            println!("FAILED: cannot read {}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
    };
    names.sort();
    if arguments.iter().any(|a| a == "--list") {
        for name in &names {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for name in names {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        let check = CHECKS
            .iter()
            .filter(|(family, _)| {
                name.strip_prefix(family)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            })
            .max_by_key(|(family, _)| family.len());
        let Some((_, check)) = check else {
            println!("skipped {name}: no check knows this family yet");
            skipped += 1;
            continue;
        };
        match Case::open(&directory, &name).and_then(|case| check(&case)) {
            Ok(()) => {
                println!("ok {name}");
                passed += 1;
            }
            Err(error) => {
                println!("FAILED {name}: {error}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 || passed == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
