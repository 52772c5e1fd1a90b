//! [`ExtendError`]: the reasons for which a run is not extended.

use std::path::PathBuf;

use thiserror::Error;

use super::missing::listed;
use crate::exit_code::{self, ExitCode};

/// The reason why `dpsyn extend` refused. Nothing was written.
#[derive(Debug, Error)]
pub enum ExtendError {
    /// The folder has no ledger.
    #[error(
        "{} is not the result folder of a run: expected ledger.jsonl in it",
        folder.display()
    )]
    NotARun {
        /// The folder.
        folder: PathBuf,
    },
    /// Releases, populations or pictures are missing.
    #[error(
        "{} is not finished ({released} of {planned} releases are made): finish it by `{command}` \
         before you extend it",
        folder.display()
    )]
    Unfinished {
        /// The folder.
        folder: PathBuf,
        /// Releases whose histogram was drawn.
        released: u32,
        /// Planned releases.
        planned: u32,
        /// The command that finishes the run.
        command: String,
    },
    /// The private folder lacks the complete configuration, as after earlier versions.
    #[error(
        "{} is missing: `dpsyn run CONFIG --out {} --resume` with the configuration of the run \
         writes it",
        path.display(), folder.display()
    )]
    NoConfig {
        /// The configuration.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// The configuration has another number of iterations than the ledger.
    #[error(
        "{} is for {found} iterations, but ledger.jsonl for {planned}: restore the result folder \
         with its private folder",
        path.display()
    )]
    OtherConfig {
        /// The configuration.
        path: PathBuf,
        /// Its iterations.
        found: usize,
        /// Planned releases.
        planned: u32,
    },
    /// The run had no noise, and there was no `--non-private`.
    #[error(
        "{} is a run without noise, and so is every run that begins with its samples: expected \
         --non-private",
        folder.display()
    )]
    NonPrivate {
        /// The folder.
        folder: PathBuf,
    },
    /// The new folder is that of the finished run.
    #[error(
        "{} is the folder of the finished run, which is not changed: expected another folder for \
         --out",
        folder.display()
    )]
    SameFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// The new folder is not empty.
    #[error(
        "{} is not empty: `--resume` continues an interrupted extension in it, and --out names \
         another folder",
        out.display()
    )]
    Occupied {
        /// The output folder.
        out: PathBuf,
    },
    /// `--resume` with the folder of another run.
    #[error(
        "{} holds a run that is no extension of {}: expected its extension, or another folder for \
         --out",
        out.display(), folder.display()
    )]
    NoExtension {
        /// The output folder.
        out: PathBuf,
        /// The folder of the finished run.
        folder: PathBuf,
    },
    /// Files with relative paths do not exist.
    #[error(
        "{} missing: relative paths in {} are relative to the folder in which the run was started; \
         start the command there, or replace them by --set (`dpsyn fetch --for {}` there downloads \
         weights that were removed)",
        listed(paths), config.display(), config.display()
    )]
    Missing {
        /// The files and folders.
        paths: Vec<PathBuf>,
        /// The configuration.
        config: PathBuf,
        /// The exit code with which opening the first one would have ended.
        code: u8,
    },
}

impl ExitCode for ExtendError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NonPrivate { .. } => exit_code::USAGE,
            Self::Missing { code, .. } => *code,
            _ => exit_code::OUTPUT,
        }
    }
}
