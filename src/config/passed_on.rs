//! Private paths are not passed to programs of the user's: neither as arguments, nor in their
//! environment, nor as the folder that they run in.

use std::path::{Path, PathBuf};

use super::document::Locations;
use super::error::ConfigError;

/// Refuses texts that a model passes to a program and that name private files, and a current folder
/// with private images. `texts` and `private` have their keys, those of `texts` below `[model]`.
///
/// # Errors
/// Returns [`ConfigError::Value`] for the first such text.
pub(super) fn check(
    texts: &[(String, &str)],
    private: &[(&str, &Path)],
    locations: &Locations,
) -> Result<(), ConfigError> {
    if texts.is_empty() {
        return Ok(());
    }
    let private: Vec<(&str, PathBuf)> = private
        .iter()
        .filter(|(_, path)| !path.as_os_str().is_empty())
        .map(|(key, path)| (*key, real(path)))
        .collect();
    let folder = real(Path::new("."));
    let data = private.iter().filter(|(key, _)| *key == "data.path");
    let inside = data.into_iter().any(|(_, data)| folder.starts_with(data));
    if let (true, Some((key, _))) = (inside, texts.first()) {
        let message = "would run in the current folder, which is data.path or lies in it: expected \
                       to be started from another folder, because a generator is public";
        return Err(locations.error(&format!("model.{key}"), message));
    }
    for (key, text) in texts {
        // Paths stand in options (`--mount=src=PATH,dst=/d`, `-v PATH:/d`) and in the variables
        // that are passed by name.
        let variable = match key.contains("environment[") {
            true => std::env::var(text).unwrap_or_default(),
            false => String::new(),
        };
        let separators = ['=', ':', ',', ';', ' '];
        let pieces = text.split(separators).chain(variable.split(separators));
        for part in [*text]
            .into_iter()
            .chain(pieces)
            .filter(|part| !part.is_empty())
        {
            let path = real(Path::new(part));
            if let Some((origin, _)) = private
                .iter()
                .find(|(_, private)| path.starts_with(private))
            {
                let message = format!(
                    "passes {part:?} to a program, which is {origin} or lies in it: expected no \
                     private path, because a generator is public"
                );
                return Err(locations.error(&format!("model.{key}"), message));
            }
        }
    }
    Ok(())
}

/// Returns the absolute path, without symbolic links if it exists.
fn real(path: &Path) -> PathBuf {
    let found = path.canonicalize().or_else(|_| std::path::absolute(path));
    found.unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::sources::ConfigSources;

    fn check(overrides: &[&str]) -> Result<(), String> {
        let text = "[data]\npath = 'private/images'\nimage_size = 8\n[model]\ntype = 'program'\n\
                    command = ['x']\nimage_size = 8\n[embedder]\ntype = 'pixels'\n\
                    [evolution]\nnum_samples = 4\nvariation_degree = 0\niterations = 1\n\
                    [privacy]\nepsilon = 1\ndelta = 1e-3\n[output]\nfolder = 'o'\n";
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        let sources = ConfigSources::new("c.toml".into(), text.into(), &overrides);
        let loaded = Settings::check(&sources.unwrap());
        loaded.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_program_receives_no_private_path() {
        check(&[]).unwrap();
        check(&["model.command=['x', 'private', '--size=3', 'private/other']"]).unwrap();
        for (overrides, key) in [
            (
                ["model.command=['x', 'private/images']"],
                "model.command[1]",
            ),
            (
                ["model.command=['x', '-d=./private/images/a']"],
                "model.command[1]",
            ),
            (
                ["model.environment=['A=private/images']"],
                "model.environment[0]",
            ),
            (["model.command=['x', 'o/private']"], "output.folder"),
            (
                ["model.command=['x', '-v', 'private/images:/d']"],
                "model.command[2]",
            ),
            (
                ["model.command=['x', '--mount=type=bind,src=private/images,dst=/d']"],
                "model.command[1]",
            ),
            (
                ["model.classes={all = ['x', 'private/images/a']}"],
                "model.classes.all",
            ),
            (["data.path=."], "would run in the current folder"),
        ] {
            let text = check(&overrides).unwrap_err();
            assert!(text.contains(key) && text.contains("public"), "{text}");
        }
    }
}
