//! `dpsyn extend`: more iterations on a finished run, as a run of its own.
//!
//! The new run begins with the last population of the finished one and has its configuration and
//! its noise multiplier, of a list the last one. Its claim includes all charges of the finished
//! run.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::args::ExtendArguments;
use super::core_dumps;
use super::error::CliError;
use super::extend_error::ExtendError;
use super::missing::{quoted, requirements};
use super::run::{Job, execute};
use crate::artifacts::{ArtifactsError, Existing, RunDir};
use crate::config::{ConfigError, ConfigSources, Loaded, Settings};
use crate::exit_code;
use crate::hub::Requirement;
use crate::pe::PeError;
use crate::privacy::{EarlierRun, RecordedRun};

/// Executes `dpsyn extend`.
pub(super) fn run(arguments: &ExtendArguments) -> Result<(), CliError> {
    core_dumps::forbid()?;
    let folder = arguments.folder.as_path();
    let config = config_of(folder);
    let (finished, loaded) = read_finished(folder, &config)?;
    if finished.noise_multiplier() == 0.0 && !arguments.non_private {
        let folder = folder.to_owned();
        return Err(ExtendError::NonPrivate { folder }.into());
    }
    let loaded = extended(arguments, &config, &finished, loaded)?;
    check_out(arguments, &loaded.settings.output.folder, &finished)?;
    check_paths(&loaded.settings, &config)?;
    let existing = match arguments.resume {
        true => Existing::Resume,
        false => Existing::Refuse,
    };
    let executed = execute(Job {
        loaded,
        config: &config,
        device: &arguments.device,
        existing,
        dry_run: arguments.dry_run,
        non_private: arguments.non_private,
        extends: Some(&finished),
    });
    // Its samples were read, and file systems may record that.
    let timed = RunDir::set_times_of_run(folder);
    executed?;
    Ok(timed?)
}

/// Returns the path of the complete configuration of a run.
fn config_of(folder: &Path) -> PathBuf {
    RunDir::of_finished(folder).private().join("config.toml")
}

/// Reads the ledger and the configuration of a finished run, and checks that it is one.
fn read_finished(folder: &Path, config: &Path) -> Result<(RecordedRun, Loaded), CliError> {
    let dir = RunDir::of_finished(folder);
    let path = || folder.to_owned();
    let recorded = RecordedRun::read(folder, &dir.private()).map_err(PeError::from)?;
    let recorded = recorded.ok_or_else(|| ExtendError::NotARun { folder: path() })?;
    let planned = recorded.planned();
    // The folder of unfinished work is removed last of all.
    let work_left = exists(&dir.work())? || !exists(&dir.samples(planned))?;
    if !recorded.is_complete() || work_left {
        let command = format!(
            "dpsyn run {} --out {} --resume",
            quoted(config),
            quoted(folder)
        );
        return Err(ExtendError::Unfinished {
            folder: path(),
            released: recorded.released(),
            planned,
            command,
        }
        .into());
    }
    if !exists(config)? {
        return Err(ExtendError::NoConfig {
            path: config.to_owned(),
            folder: path(),
        }
        .into());
    }
    let loaded = Settings::load(config, &[])?;
    let found = loaded.populations.len().saturating_sub(1);
    if found != planned as usize {
        return Err(ExtendError::OtherConfig {
            path: config.to_owned(),
            found,
            planned,
        }
        .into());
    }
    Ok((recorded, loaded))
}

/// Returns the configuration of the extension, with the overrides of the command line.
fn extended(
    arguments: &ExtendArguments,
    config: &Path,
    finished: &RecordedRun,
    loaded: Loaded,
) -> Result<Loaded, CliError> {
    let folder = arguments.folder.as_path();
    let samples = RunDir::of_finished(folder).samples(finished.planned());
    let last = loaded.populations.last().map(|spec| spec.num_samples);
    let mut settings = loaded.settings;
    let evolution = settings
        .evolution
        .extended(arguments.iterations, samples.clone());
    settings.evolution = evolution.map_err(|error| loaded.locations.invalid("evolution", error))?;
    settings.privacy.noise_multiplier = Some(finished.noise_multiplier().into());
    settings.privacy.epsilon = None;
    settings.output.folder = beside(folder)?;
    // As text, so that overrides are merged, checked and reported as those of `dpsyn run`.
    let name = format!("the extension of {}", config.display());
    let lists = settings.model.section().schedules_by_key();
    let keys = lists.iter().map(|(key, _)| key.as_str());
    let text = with_last_values(settings.to_toml()?, keys)?;
    let sources = ConfigSources::new(name, text, &arguments.set)?;
    let mut loaded = Settings::check(&sources)?;
    check_fixed(&loaded, arguments.iterations, &samples, last)?;
    if let Some(out) = &arguments.out {
        loaded.settings.output.folder.clone_from(out);
        loaded.check_passed_on()?;
    }
    Ok(loaded)
}

/// Replaces lists of `[model]` by their last elements: a schedule goes on with its last value.
/// `keys` are below the section, such as `members[1].variation_degree`.
fn with_last_values<'a>(
    text: String,
    keys: impl Iterator<Item = &'a str>,
) -> Result<String, ConfigError> {
    let unreadable = |error: &dyn std::fmt::Display| ConfigError::Text {
        place: "the configuration of the finished run".to_owned(),
        message: error.to_string(),
    };
    let mut table: toml::Table = text.parse().map_err(|error| unreadable(&error))?;
    for key in keys {
        let mut place = table.get_mut("model");
        for part in key.split(['.', '[']) {
            let index = part.strip_suffix(']').map(str::parse::<usize>);
            place = match (place, index) {
                (Some(value), Some(Ok(index))) => value.get_mut(index),
                (Some(value), _) => value.get_mut(part),
                (None, _) => None,
            };
        }
        if let Some(value) = place
            && let Some(last) = value.as_array().and_then(|list| list.last()).cloned()
        {
            *value = last;
        }
    }
    toml::to_string(&table).map_err(|error| unreadable(&error))
}

/// Refuses overrides of the keys that make the run an extension. `last` is the number of samples
/// in the last population of the finished run.
fn check_fixed(
    loaded: &Loaded,
    iterations: u32,
    samples: &Path,
    last: Option<u64>,
) -> Result<(), ConfigError> {
    let evolution = &loaded.settings.evolution;
    if evolution.initial_samples.as_deref() != Some(samples) {
        let message = format!(
            "an extension begins with the last population of the finished run, {}: remove the \
             override, or start another run by `dpsyn run`",
            samples.display()
        );
        return Err(loaded.locations.error("evolution.initial_samples", message));
    }
    if evolution.iterations != Some(iterations) {
        let message = "expected no override: --iterations is the number of further iterations";
        return Err(loaded.locations.error("evolution.iterations", message));
    }
    let first = loaded.populations.first().map(|spec| spec.num_samples);
    if let (Some(first), Some(last)) = (first, last)
        && first != last
    {
        let message = format!(
            "{first} in the initial population: expected {last}, the samples of the last \
             population of the finished run, and in a list the numbers of the {iterations} further \
             ones after it"
        );
        return Err(loaded.locations.error("evolution.num_samples", message));
    }
    Ok(())
}

/// Returns `<folder>-extended`, beside the folder.
fn beside(folder: &Path) -> Result<PathBuf, ArtifactsError> {
    let named = match folder.file_name() {
        Some(_) => folder.to_owned(),
        // `.` and `..`.
        None => fs::canonicalize(folder).map_err(ArtifactsError::io(folder))?,
    };
    let mut name = OsString::from(named.file_name().unwrap_or_default());
    name.push("-extended");
    Ok(named.with_file_name(name))
}

/// Refuses the folder of the finished run as output, one that is not empty, and to resume another
/// run than an extension.
fn check_out(
    arguments: &ExtendArguments,
    out: &Path,
    finished: &RecordedRun,
) -> Result<(), CliError> {
    let folder = arguments.folder.as_path();
    if let (Ok(out), Ok(same)) = (fs::canonicalize(out), fs::canonicalize(folder))
        && out == same
    {
        let folder = folder.to_owned();
        return Err(ExtendError::SameFolder { folder }.into());
    }
    if !arguments.resume && !arguments.dry_run {
        RunDir::examine(out, Existing::Refuse).map_err(|error| match error {
            ArtifactsError::NotEmpty { path } => ExtendError::Occupied { out: path }.into(),
            other => CliError::from(other),
        })?;
    }
    if arguments.resume
        && let Some(carried) = EarlierRun::carried_by(out).map_err(PeError::from)?
    {
        // Runs without noise carry no charges; their identity includes the initial samples.
        let carries = |run: &EarlierRun| carried.iter().any(|known| known.run_id == run.run_id);
        if !finished.charges().iter().all(carries) {
            return Err(ExtendError::NoExtension {
                out: out.to_owned(),
                folder: folder.to_owned(),
            }
            .into());
        }
    }
    Ok(())
}

/// Refuses relative paths that lead nowhere, as they do in another working folder than that of the
/// finished run.
fn check_paths(settings: &Settings, config: &Path) -> Result<(), ExtendError> {
    let budget = settings.privacy.budget.as_ref();
    let budget = budget.map(|path| (Requirement::path(path), exit_code::PRIVACY));
    let (mut paths, mut first) = (Vec::new(), None);
    for (requirement, code) in requirements(settings).into_iter().chain(budget) {
        if let Requirement::Path(path) = requirement
            && path.is_relative()
            && !path.exists()
            && !paths.contains(&path)
        {
            paths.push(path);
            first.get_or_insert(code);
        }
    }
    match first {
        None => Ok(()),
        Some(code) => Err(ExtendError::Missing {
            paths,
            config: config.to_owned(),
            code,
        }),
    }
}

/// Returns true if the path exists; one that cannot be examined is an error.
fn exists(path: &Path) -> Result<bool, ArtifactsError> {
    path.try_exists().map_err(ArtifactsError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_model_go_on_with_their_last_value() {
        let text = "[model]\nrespacing = [\"1\", \"2\"]\nsizes = [8, 9]\n[model.steps]\nfont = [1, 3]\n\
                    [[model.members]]\nname = \"a\"\n[[model.members]]\ndegree = [5, 6.5]\n";
        let keys = [
            "respacing",
            "steps.font",
            "members[1].degree",
            "members[7].x",
        ];
        let extended = with_last_values(text.to_owned(), keys.into_iter()).unwrap();
        let table: toml::Table = extended.parse().unwrap();
        let expected = "[model]\nrespacing = \"2\"\nsizes = [8, 9]\n[model.steps]\nfont = 3\n\
                        [[model.members]]\nname = \"a\"\n[[model.members]]\ndegree = 6.5\n";
        assert_eq!(table, expected.parse().unwrap());
        assert!(with_last_values("x".to_owned(), [].into_iter()).is_err());
    }
}
