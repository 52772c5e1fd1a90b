//! Artifacts that a configuration refers to.

use std::path::{Path, PathBuf};

/// A file, folder or repository that must be available before a model can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// A file or a folder.
    Path(PathBuf),
    /// A repository of the Hugging Face hub.
    Repository {
        /// `owner/name`.
        id: String,
        /// The commit, tag or branch, if one is configured.
        revision: Option<String>,
        /// The files that are read; of each, the accepted names, the preferred one first.
        files: &'static [&'static [&'static str]],
    },
}

impl Requirement {
    /// Returns the requirement of a file or folder.
    pub fn path(path: impl AsRef<Path>) -> Self {
        Self::Path(path.as_ref().to_owned())
    }
}
