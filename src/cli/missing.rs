//! The artifacts that a configuration requires, those that are missing, and the command that
//! fetches them.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::Settings;
use crate::exit_code::{self, ExitCode};
use crate::fetch::{Catalogue, CatalogueMatch, Content};
use crate::hub::Requirement;

/// An artifact that a configuration refers to, and the exit code if it is missing.
pub(super) type Needed = (Requirement, u8);

/// Missing files that `dpsyn fetch` can download.
#[derive(Debug, Error)]
#[error("{} missing: run `{command}`", listed(paths))]
pub struct MissingArtifacts {
    paths: Vec<PathBuf>,
    command: String,
    code: u8,
}

impl ExitCode for MissingArtifacts {
    /// Returns the code with which opening the first missing file would have ended.
    fn exit_code(&self) -> u8 {
        self.code
    }
}

/// Returns "a is", or "a, b and c are".
pub(super) fn listed(paths: &[PathBuf]) -> String {
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

/// Returns everything that `settings` refer to, in the order in which a run opens it.
pub(super) fn requirements(settings: &Settings) -> Vec<Needed> {
    let data = |path: &Path| (Requirement::path(path), exit_code::DATA);
    let weights = |requirement| (requirement, exit_code::WEIGHTS);
    let mut needed = vec![data(&settings.data.path)];
    needed.extend(
        settings
            .model
            .section()
            .requirements()
            .into_iter()
            .map(weights),
    );
    needed.extend(
        settings
            .embedder
            .embedder
            .requirements()
            .into_iter()
            .map(weights),
    );
    if let Some(evaluation) = &settings.evaluation {
        let own = evaluation.embedder.as_ref();
        let own = own.map(|own| own.requirements()).unwrap_or_default();
        needed.extend(own.into_iter().map(weights));
        needed.extend(evaluation.path().map(data));
    }
    let initial = settings.evolution.initial_samples.as_deref();
    needed.extend(initial.map(|initial| (Requirement::path(initial), exit_code::USAGE)));
    needed
}

/// Refuses if any of `needs` is missing and can be fetched.
///
/// # Errors
/// Returns [`MissingArtifacts`] with all such files and the command.
pub(super) fn check(catalogue: &Catalogue, needs: &[Needed]) -> Result<(), MissingArtifacts> {
    let (mut paths, mut makers, mut first) = (Vec::new(), Vec::new(), None);
    for need in needs {
        let (Requirement::Path(path), code) = need else {
            continue;
        };
        if path.exists() || paths.contains(path) {
            continue;
        }
        if let Some(maker) = catalogue.find_by_path(path) {
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

/// Returns the command that fetches all of `makers`.
fn command(makers: &[CatalogueMatch<'_>]) -> String {
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

/// Quotes a path for a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Returns the command that fetches the foundation model of `settings`, read from `config`.
pub(super) fn model_command(settings: &Settings, config: &Path) -> String {
    let repository = requirements(settings)
        .into_iter()
        .find_map(|(requirement, _)| match requirement {
            Requirement::Repository { id, revision, .. } => Some((id, revision)),
            Requirement::Path(_) => None,
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
        let needs: Vec<Needed> = paths
            .iter()
            .map(|path| (Requirement::path(path), exit_code::DATA))
            .collect();
        check(&Catalogue::built_in().unwrap(), &needs)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_command_names_each_item_once_and_its_root() {
        assert_eq!(
            missing(&["nowhere/data/cookie"]),
            "nowhere/data/cookie is missing: run `dpsyn fetch cats --root nowhere`"
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
                 --root /none`"
            ),
            "{text}"
        );
        assert!(
            missing(&["it's here/data/cookie"])
                .contains(r"`dpsyn fetch cats --root 'it'\''s here'`")
        );
        // Somebody's own files are not ours to get.
        let own = (Requirement::path("my/photos"), exit_code::DATA);
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
