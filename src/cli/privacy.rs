//! `dpsyn privacy`: prints the privacy cost of a plan, or the noise multiplier for a target.

use super::args::PrivacyArguments;
use super::error::CliError;
use crate::config::Settings;
use crate::privacy::{PrivacyConfig, Report};

/// Executes `dpsyn privacy`.
pub(super) fn run(arguments: &PrivacyArguments) -> Result<(), CliError> {
    let report = match &arguments.config {
        Some(path) => {
            let loaded = Settings::load(path, &arguments.set)?;
            let planned = (loaded.populations.len() as u32).saturating_sub(1);
            let mut config = loaded.settings.privacy;
            config.delta = arguments.delta.unwrap_or(config.delta);
            config.adjacency = arguments.adjacency.unwrap_or(config.adjacency);
            let report = Report::new(&config, arguments.iterations.unwrap_or(planned))?;
            match loaded.settings.data.num_samples {
                Some(_) => report.for_truncated_source(),
                None => report,
            }
        }
        None => {
            let config = PrivacyConfig {
                noise_multiplier: arguments.noise_multiplier.clone(),
                epsilon: arguments.epsilon,
                // clap requires delta and iterations here; a missing one would be refused below.
                delta: arguments.delta.unwrap_or(f64::NAN),
                adjacency: arguments.adjacency.unwrap_or_default(),
                unit: crate::privacy::Unit::default(),
                budget: None,
                pad_release_to: None,
            };
            Report::new(&config, arguments.iterations.unwrap_or(0))?
        }
    };
    super::output::print(&report);
    Ok(())
}
