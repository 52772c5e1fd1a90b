//! Progress reports and cancellation, the same pair of traits for every long operation.

use thiserror::Error;

/// The prefix of every line on a terminal about a private value.
pub const PRIVATE_MARK: &str = "[private, not for release]";

/// Unit in which a stage counts its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Finished pieces of work: images, epochs, passes.
    Steps,
    /// Bytes read, checked or transferred.
    Bytes,
}

/// Receives progress of one stage at a time.
///
/// Only public facts may be reported: stages, counts of finished work, messages. There are two
/// exceptions, both marked with [`PRIVATE_MARK`]: lines of
/// [`crate::privacy::print_marked_private`], and stages whose counts depend on the number of
/// private images ([`Progress::begin_private`]). An implementation therefore writes to a terminal
/// or to the private folder, never into the published part of a result folder.
pub trait Progress: Sync {
    /// Begins a stage; `total` is `None` where the amount of work is unknown in advance.
    fn begin(&self, stage: &str, total: Option<u64>, unit: Unit);
    /// Begins a stage like [`Progress::begin`] whose counts depend on the number of private images.
    /// Every line about the stage begins with [`PRIVATE_MARK`].
    fn begin_private(&self, stage: &str, total: Option<u64>, unit: Unit) {
        self.begin(&format!("{PRIVATE_MARK} {stage}"), total, unit);
    }
    /// Reports work of the stage that an earlier run finished. Called right after
    /// [`Progress::begin`].
    fn resume(&self, done: u64);
    /// Reports how much of the stage is done, earlier runs included.
    fn advance(&self, done: u64);
    /// Ends the stage.
    fn end(&self);
    /// Reports one line of text.
    fn message(&self, text: &str);
}

/// A request to stop after the current unit of work, for instance by Ctrl-C.
pub trait Cancellation: Sync {
    /// Returns true once cancellation was requested; it then stays true.
    fn is_cancelled(&self) -> bool;

    /// Fails if cancellation was requested.
    ///
    /// # Errors
    /// [`Cancelled`].
    fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            return Err(Cancelled);
        }
        Ok(())
    }
}

/// The operation stopped because the user requested it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("interrupted")]
pub struct Cancelled;

/// Progress and cancellation together, as one trait object. Implemented for every type that has
/// both.
pub trait Observer: Progress + Cancellation {
    /// Ends the stage and fails if cancellation was requested.
    ///
    /// # Errors
    /// [`Cancelled`].
    fn end_if_cancelled(&self) -> Result<(), Cancelled> {
        self.check().inspect_err(|_| self.end())
    }
}

impl<T: Progress + Cancellation> Observer for T {}

/// Discards progress and is never cancelled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn resume(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn message(&self, _: &str) {}
}

impl Cancellation for Silent {
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Is cancelled from the start, for tests of what stops.
#[cfg(test)]
pub(crate) struct AlwaysCancelled;

#[cfg(test)]
impl Cancellation for AlwaysCancelled {
    fn is_cancelled(&self) -> bool {
        true
    }
}
