//! The documented exit codes of the program, and the trait by which each error names its own.
//!
//! Each module implements [`ExitCode`] next to its error type, so that a new variant gets its code
//! where it is defined. The command line only passes the number on. 0 is success; after any other
//! code, all finished work is on disk.

/// The command line or the configuration is wrong; nothing was started.
pub const USAGE: u8 = 2;
/// The private images, or a samples file, cannot be read.
pub const DATA: u8 = 3;
/// A checkpoint is missing, incomplete or of another shape.
pub const WEIGHTS: u8 = 4;
/// The privacy core refused: the ledger does not match, or the private images changed.
pub const PRIVACY: u8 = 5;
/// The result folder cannot be used, or a file in it cannot be read or written.
pub const OUTPUT: u8 = 6;
/// The device that `--device` names cannot be used.
pub const DEVICE: u8 = 7;
/// A computation failed: a network, or the search for nearest neighbors.
pub const COMPUTE: u8 = 8;
/// A hosted model failed or refused, or a configured limit of its cost is reached; `--resume`
/// continues the run.
pub const SERVICE: u8 = 9;
/// A download failed, or a downloaded file is damaged; the same command continues.
pub const FETCH: u8 = 10;
/// `dpsyn audit` bounds ε from below by more than the claim: the mechanism has a defect.
pub const AUDIT: u8 = 11;
/// Stopped by Ctrl-C (128 + SIGINT, as shells report it); `--resume` continues the run.
pub const INTERRUPTED: u8 = 130;

/// An error that knows the exit code of the process that it ends.
pub trait ExitCode {
    /// Returns one of the codes of [`crate::exit_code`].
    fn exit_code(&self) -> u8;
}
