//! What a configuration needs, what of it is missing, and which command gets it.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{ModelConfig, Settings};
use crate::exit_code::{self, ExitCode};
use crate::fetch::{Catalogue, Content, Maker};

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
    code: u8,
}

impl ExitCode for MissingArtifacts {
    /// The code of the first missing file: what opening it would have ended with.
    fn exit_code(&self) -> u8 {
        self.code
    }
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
    let mut needs = vec![path(&settings.data.path, exit_code::DATA)];
    match &settings.model {
        ModelConfig::ImprovedDiffusion(config) => {
            needs.push(path(&config.checkpoint, exit_code::WEIGHTS));
        }
        ModelConfig::StableDiffusion(config) => {
            needs.push(match Path::new(&config.checkpoint).is_dir() {
                true => path(Path::new(&config.checkpoint), exit_code::WEIGHTS),
                false => Requirement::Repository {
                    id: config.checkpoint.clone(),
                    revision: config.revision().map(str::to_owned),
                },
            });
        }
        ModelConfig::OpenAiImages(_) => {}
    }
    let weights = settings.embedder.weights();
    needs.extend(weights.map(|weights| path(weights, exit_code::WEIGHTS)));
    if let Some(evaluation) = &settings.evaluation {
        let own = evaluation.embedder.as_ref().and_then(|own| own.weights());
        needs.extend(own.map(|weights| path(weights, exit_code::WEIGHTS)));
        needs.extend(
            evaluation
                .path()
                .map(|reference| path(reference, exit_code::DATA)),
        );
    }
    let initial = settings.evolution.initial_samples.as_deref();
    needs.extend(initial.map(|initial| path(initial, exit_code::USAGE)));
    needs
}

/// Refuses if any of `needs` is missing that can be fetched, naming all of them and the command.
///
/// # Errors
/// [`MissingArtifacts`].
pub(super) fn check(catalogue: &Catalogue, needs: &[Requirement]) -> Result<(), MissingArtifacts> {
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
    })
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

/// The command that fetches the foundation model of `settings`, which were read from `config`.
pub(super) fn model_command(settings: &Settings, config: &Path) -> String {
    let repository = requirements(settings)
        .into_iter()
        .find_map(|requirement| match requirement {
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
    match item {
        Some(item) => format!("dpsyn fetch {}", item.name),
        None => format!("dpsyn fetch --for {}", quoted(config)),
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
                code: exit_code::DATA,
            })
            .collect();
        check(&Catalogue::built_in().unwrap(), &needs)
            .unwrap_err()
            .to_string()
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
            code: exit_code::DATA,
        };
        assert!(check(&Catalogue::built_in().unwrap(), &[own]).is_ok());
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
