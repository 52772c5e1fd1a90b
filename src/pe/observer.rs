//! How a run tells what it is doing, and how it is told to stop.

/// Who watches a run. Only public facts reach an observer: stages, counts of finished work, messages.
/// The one exception is what [`crate::privacy::print_marked_private`] shows of an evaluation that was asked for;
/// so an observer writes to a terminal, not into the result folder.
pub trait Observer: Sync {
    /// A stage of `total` steps begins.
    fn begin(&self, stage: &str, total: u64);
    /// So many steps of the stage, which has just begun, were done by an earlier run.
    fn resume(&self, done: u64);
    /// So many steps of the stage are done.
    fn advance(&self, done: u64);
    /// The stage is over.
    fn end(&self);
    /// Something worth a line.
    fn line(&self, text: &str);
    /// Whether the user wants the run to stop after the current unit.
    fn interrupted(&self) -> bool;
}
