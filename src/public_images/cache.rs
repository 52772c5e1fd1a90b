//! The folder of what is computed once from public images, and the keys of its files.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::PublicImagesError;

/// Returns a key: the SHA-256 of everything that a result depends on, and of the version of the
/// program, which may compute it differently.
#[must_use]
pub fn key_of(inputs: &serde_json::Value) -> [u8; 32] {
    let inputs = serde_json::json!([env!("CARGO_PKG_VERSION"), inputs]);
    Sha256::digest(inputs.to_string()).into()
}

/// Returns the folder of all caches: `chosen` if there is one, else `dpsyn/pools` in
/// `XDG_CACHE_HOME` or in `.cache` of the home folder.
pub(super) fn root(chosen: Option<&Path>) -> Result<PathBuf, PublicImagesError> {
    let caches = std::env::var_os("XDG_CACHE_HOME");
    let home = std::env::home_dir();
    root_of(chosen, caches.map(PathBuf::from), home).ok_or(PublicImagesError::NoCache)
}

fn root_of(
    chosen: Option<&Path>,
    caches: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    if let Some(chosen) = chosen {
        return Some(chosen.to_owned());
    }
    let given = |folder: &PathBuf| !folder.as_os_str().is_empty();
    // A relative path in the variable is to be ignored (XDG Base Directory Specification).
    let caches = caches.filter(|folder| given(folder) && folder.is_absolute());
    let caches = caches.or_else(|| Some(home.filter(given)?.join(".cache")))?;
    Some(caches.join("dpsyn").join("pools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_folder_wins_over_the_users() {
        let path = |text: &str| Some(PathBuf::from(text));
        let chosen = Path::new("c");
        assert_eq!(root_of(Some(chosen), path("/x"), path("/h")), path("c"));
        assert_eq!(
            root_of(None, path("/x"), path("/h")),
            path("/x/dpsyn/pools")
        );
        for relative in [None, path(""), path("x")] {
            let found = root_of(None, relative, path("/h"));
            assert_eq!(found, path("/h/.cache/dpsyn/pools"));
        }
        assert_eq!(root_of(None, None, path("")), None);
    }

    #[test]
    fn keys_depend_on_the_inputs() {
        let key = |text: &str| key_of(&serde_json::json!([text, 3]));
        assert_eq!(key("a"), key("a"));
        assert_ne!(key("a"), key("b"));
    }
}
