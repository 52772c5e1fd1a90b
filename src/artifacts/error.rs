//! Errors of the result folder.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::exit_code::{self, ExitCode};
use crate::images::{BatchError, NpzError, PictureError};
use crate::privacy::PrivacyError;

/// A result folder, or a file in it, cannot be used.
#[derive(Debug, Error)]
pub enum ArtifactsError {
    /// A file or folder cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },
    /// An `.npz` file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Npz {
        /// The file.
        path: PathBuf,
        /// The error of the format.
        cause: NpzError,
    },
    /// A PNG cannot be encoded.
    #[error("{}: {cause}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// The error of the encoder.
        cause: PictureError,
    },
    /// Images of different sizes, or of another size than announced.
    #[error("{}: {cause}", path.display())]
    Batch {
        /// The file that was read or is written.
        path: PathBuf,
        /// The sizes.
        cause: BatchError,
    },
    /// The folder is not empty and may not be touched without a flag.
    #[error(
        "{} is not empty: `--resume` continues the run in it, `--fresh` moves it aside and starts \
         a new run",
        path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds files of something else.
    #[error(
        "{} is not empty and holds no run (no config.toml): choose another folder",
        path.display()
    )]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// Another process runs in the folder.
    #[error(
        "{} is in use by another process that runs in it: stop that process, or wait until it ends",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Another process holds the ledger of the run that would be resumed.
    #[error(transparent)]
    Ledger(PrivacyError),
    /// Every name for a moved folder is taken.
    #[error("{}: too many earlier runs beside it: remove some of them", path.display())]
    TooManyMoved {
        /// The folder.
        path: PathBuf,
    },
    /// A samples file does not hold the planned population.
    #[error(
        "{}: {} images of {}x{} where {} of {}x{} were expected",
        path.display(), found.0, found.1, found.2, expected.0, expected.1, expected.2
    )]
    PopulationShape {
        /// The file.
        path: PathBuf,
        /// Images, rows, columns in the file.
        found: (usize, usize, usize),
        /// Images, rows, columns of the plan.
        expected: (usize, usize, usize),
    },
    /// A samples file has no usable `conditions`.
    #[error(
        "{}: `conditions` does not give one non-negative number for each sample",
        path.display()
    )]
    Conditions {
        /// The file.
        path: PathBuf,
    },
    /// A samples file does not give the derivation of its samples.
    #[error(
        "{}: `parent`, `fold`, `origin` and `ancestor` do not give the derivation of each sample",
        path.display()
    )]
    Lineage {
        /// The file.
        path: PathBuf,
    },
    /// The parameters of images are damaged.
    #[error("{}: {message}", path.display())]
    Parameters {
        /// The file.
        path: PathBuf,
        /// Description of the damage.
        message: String,
    },
    /// A votes file is of another population.
    #[error("{}: `lattice` has {found} values where {expected} were expected", path.display())]
    VotesLength {
        /// The file.
        path: PathBuf,
        /// Values in the file.
        found: usize,
        /// Samples of the population.
        expected: usize,
    },
    /// A votes file is of a run with another kind of noise.
    #[error(
        "{}: the array `non_private` shows that it is not of this {run} run: remove the file",
        path.display()
    )]
    VotesStamp {
        /// The file.
        path: PathBuf,
        /// The kind of this run: `private` or `non-private`.
        run: &'static str,
    },
    /// A result depends on a release that the ledger does not have.
    #[error(
        "{} depends on a release for which the ledger has no charge: restore ledger.jsonl, or use \
         another output folder",
        path.display()
    )]
    Uncharged {
        /// The file.
        path: PathBuf,
    },
    /// A shard was damaged, or was written under other settings.
    #[error(
        "{} has {found} bytes where {expected} were expected: remove it and resume",
        path.display()
    )]
    ShardSize {
        /// The file.
        path: PathBuf,
        /// Bytes in the file.
        found: usize,
        /// Bytes that its range of samples takes.
        expected: usize,
    },
    /// Shards that should cover a population leave a gap.
    #[error("{} does not cover all {expected} samples: remove it and resume", path.display())]
    MissingShards {
        /// The folder of the shards.
        path: PathBuf,
        /// Samples of the population.
        expected: usize,
    },
    /// The thread that writes shards panicked.
    #[error("the thread that writes to {} has ended", path.display())]
    WriterEnded {
        /// The folder of the shards.
        path: PathBuf,
    },
    /// The plan has no population of this number.
    #[error("population {0} is not planned")]
    Unplanned(u32),
}

impl ExitCode for ArtifactsError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Ledger(error) => error.exit_code(),
            _ => exit_code::OUTPUT,
        }
    }
}

impl ArtifactsError {
    /// Returns a function for `map_err` that makes an [`ArtifactsError::Io`] about `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            cause: source,
        }
    }

    /// Returns a function for `map_err` that makes an [`ArtifactsError::Npz`] about `path`.
    pub(crate) fn npz(path: &Path) -> impl Fn(NpzError) -> Self + '_ {
        move |source| Self::Npz {
            path: path.to_owned(),
            cause: source,
        }
    }

    /// Returns a function for `map_err` that makes an [`ArtifactsError::Batch`] about `path`.
    pub(crate) fn batch(path: &Path) -> impl Fn(BatchError) -> Self + '_ {
        move |source| Self::Batch {
            path: path.to_owned(),
            cause: source,
        }
    }
}
