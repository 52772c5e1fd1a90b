//! What a configuration needs, what of it is missing, and which command gets it.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::exit::{CliError, codes};
use crate::config::{ModelConfig, Settings};
use crate::evolution::EvolutionError;
use crate::fetch::{Catalogue, Content, Maker};
use crate::generators::GeneratorError;
use crate::hub::FilesError;

/// Something that a configuration needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Requirement {
    /// A file or folder.
    Path {
        /// Where.
        path: PathBuf,
        /// The exit code if it is missing.
        code: u8,
    },
    /// A repository of the hub.
    Repository {
        /// `owner/name`.
        id: String,
        /// Its revision, if one is given.
        revision: Option<String>,
    },
}

/// Files that are missing and can be fetched.
#[derive(Debug, Error)]
#[error("{} missing: `{command}` gets {}", listed(paths), if paths.len() == 1 { "it" } else { "them" })]
pub struct MissingArtifacts {
    paths: Vec<PathBuf>,
    command: String,
    /// The exit code.
    pub(super) code: u8,
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let verb = if paths.len() == 1 { "is" } else { "are" };
    match names.split_last() {
        Some((last, [])) => format!("{last} {verb}"),
        Some((last, others)) => format!("{} and {last} {verb}", others.join(", ")),
        None => String::new(),
    }
}

/// Everything that `settings` name, in the order in which a run opens it.
pub(super) fn requirements(settings: &Settings) -> Vec<Requirement> {
    let path = |path: &Path, code: u8| Requirement::Path {
        path: path.to_owned(),
        code,
    };
    let mut needs = vec![path(&settings.data.path, codes::DATA)];
    match &settings.model {
        ModelConfig::ImprovedDiffusion(config) => {
            needs.push(path(&config.checkpoint, codes::WEIGHTS));
        }
        ModelConfig::StableDiffusion(config) => {
            needs.push(match Path::new(&config.checkpoint).is_dir() {
                true => path(Path::new(&config.checkpoint), codes::WEIGHTS),
                false => Requirement::Repository {
                    id: config.checkpoint.clone(),
                    revision: config.revision().map(str::to_owned),
                },
            });
        }
        ModelConfig::OpenAiImages(_) => {}
    }
    let weights = settings.embedder.weights();
    needs.extend(weights.map(|weights| path(weights, codes::WEIGHTS)));
    if let Some(evaluation) = &settings.evaluation {
        let own = evaluation.embedder.as_ref().and_then(|own| own.weights());
        needs.extend(own.map(|weights| path(weights, codes::WEIGHTS)));
        needs.extend(
            evaluation
                .path()
                .map(|reference| path(reference, codes::DATA)),
        );
    }
    let initial = settings.evolution.initial_samples.as_deref();
    needs.extend(initial.map(|initial| path(initial, codes::USAGE)));
    needs
}

/// Refuses if any of `needs` is missing that can be fetched, naming all of them and the command.
///
/// # Errors
/// [`CliError::MissingArtifacts`].
pub(super) fn check(needs: &[Requirement]) -> Result<(), CliError> {
    let catalogue = Catalogue::built_in()?;
    let (mut paths, mut makers, mut first) = (Vec::new(), Vec::new(), None);
    for need in needs {
        let Requirement::Path { path, code } = need else {
            continue;
        };
        if path.exists() || paths.contains(path) {
            continue;
        }
        if let Some(maker) = catalogue.maker(path) {
            makers.push(maker);
            paths.push(path.clone());
            first.get_or_insert(*code);
        }
    }
    let Some(code) = first else {
        return Ok(());
    };
    Err(MissingArtifacts {
        paths,
        command: command(&makers),
        code,
    }
    .into())
}

/// What to type to get all of `makers`.
fn command(makers: &[Maker<'_>]) -> String {
    let mut roots: Vec<(&Path, Vec<&str>)> = Vec::new();
    for maker in makers {
        let name = maker.item.name.as_str();
        match roots.iter_mut().find(|(root, _)| *root == maker.root) {
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push(name),
            None => roots.push((&maker.root, vec![name])),
        }
    }
    let commands: Vec<String> = roots
        .iter()
        .map(|(root, names)| {
            let root = match root.as_os_str().is_empty() {
                true => String::new(),
                false => format!(" --root {}", quoted(root)),
            };
            format!("dpsyn fetch {}{root}", names.join(" "))
        })
        .collect();
    commands.join(" && ")
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Adds the command that gets the model to an error which says that the hub may not be asked.
pub(super) fn with_command(error: CliError, settings: &Settings, config: &Path) -> CliError {
    let of_the_hub = matches!(
        &error,
        CliError::Run(EvolutionError::Generator(GeneratorError::Files(
            FilesError::Offline { .. }
        )))
    );
    if !of_the_hub {
        return error;
    }
    let repository = requirements(settings)
        .into_iter()
        .find_map(|need| match need {
            Requirement::Repository { id, revision } => Some((id, revision)),
            Requirement::Path { .. } => None,
        });
    let catalogue = Catalogue::built_in().ok();
    let item = catalogue.as_ref().and_then(|catalogue| {
        let (id, revision) = repository.as_ref()?;
        catalogue.items().iter().find(|item| match &item.content {
            Content::Hub(hub) => hub.repo == *id && Some(&hub.revision) == revision.as_ref(),
            _ => false,
        })
    });
    let command = match item {
        Some(item) => format!("dpsyn fetch {}", item.name),
        None => format!("dpsyn fetch --for {}", quoted(config)),
    };
    CliError::Fetchable {
        error: Box::new(error),
        command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::stable_diffusion;

    fn missing(paths: &[&str]) -> String {
        let needs: Vec<Requirement> = paths
            .iter()
            .map(|path| Requirement::Path {
                path: PathBuf::from(path),
                code: codes::DATA,
            })
            .collect();
        check(&needs).unwrap_err().to_string()
    }

    #[test]
    fn the_command_names_each_item_once_and_its_root() {
        assert_eq!(
            missing(&["nowhere/data/cookie"]),
            "nowhere/data/cookie is missing: `dpsyn fetch cats --root nowhere` gets it"
        );
        let text = missing(&[
            "nowhere/data/cookie",
            "nowhere/data/doudou",
            "nowhere/weights/ViT-B-32.pt",
            "/none/weights/ViT-B-32.pt",
        ]);
        assert!(
            text.ends_with(
                "`dpsyn fetch cats clip-vit-b-32 --root nowhere && dpsyn fetch clip-vit-b-32 \
                 --root /none` gets them"
            ),
            "{text}"
        );
        assert!(
            missing(&["it's here/data/cookie"])
                .contains(r"`dpsyn fetch cats --root 'it'\''s here'`")
        );
        // Somebody's own files are not ours to get.
        let own = Requirement::Path {
            path: PathBuf::from("my/photos"),
            code: codes::DATA,
        };
        assert!(check(&[own]).is_ok());
    }

    /// The catalogue says again what the loader asks for, so that people can read it there.
    #[test]
    fn the_catalogue_has_what_stable_diffusion_reads() {
        let catalogue = Catalogue::built_in().unwrap();
        let item = catalogue.get("stable-diffusion-v1-4").unwrap();
        let Content::Hub(hub) = &item.content else {
            panic!("{item:?}");
        };
        let config: stable_diffusion::Config = toml::from_str("prompts = 'a'").unwrap();
        assert_eq!(hub.repo, config.checkpoint);
        assert_eq!(Some(hub.revision.as_str()), config.revision());
        assert_eq!(hub.files, stable_diffusion::FILES);
    }
}
