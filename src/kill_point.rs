//! Named points of a run at which a test kills the process.
//!
//! In a build with the feature `insecure-test-noise`, `DPSYN_KILL_AT=<name>` aborts the process
//! when it reaches the point of that name; `<name>:<n>` does so the n-th time. Nothing is flushed
//! and no destructor runs, as if the process had been killed. Without the feature, which only
//! test builds have, [`reach`] does nothing and the variable is not read.

/// A moment between two effects on the result folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillPoint {
    /// The run's folders and ledger exist; nothing is generated.
    RunOpened,
    /// The private embeddings are stored.
    PrivateDataEmbedded,
    /// A variation was added to the running sum of a lookahead shard.
    LookaheadPartial,
    /// A lookahead shard is stored.
    LookaheadShard,
    /// The votes are counted; nothing is charged.
    Counted,
    /// The charge is in the ledger; no noise is drawn.
    Charged,
    /// The noise is drawn; the histogram is not on disk.
    HistogramDrawn,
    /// The histogram is in the private folder and its digest in the ledger; it is not published.
    HistogramRecorded,
    /// The histogram is published.
    HistogramInPlace,
    /// The histogram is on disk and recorded.
    HistogramStored,
    /// A shard of images is stored.
    ImageShard,
    /// `samples.npz` is stored; its pictures are not.
    PopulationStored,
    /// The pictures are written; the unfinished work is not removed.
    PicturesWritten,
    /// The iteration is complete.
    IterationFinished,
}

#[cfg(feature = "insecure-test-noise")]
impl KillPoint {
    /// Every point, in the order in which a run first reaches them.
    pub const ALL: [Self; 14] = [
        Self::RunOpened,
        Self::ImageShard,
        Self::PopulationStored,
        Self::PicturesWritten,
        Self::PrivateDataEmbedded,
        Self::LookaheadPartial,
        Self::LookaheadShard,
        Self::Counted,
        Self::Charged,
        Self::HistogramDrawn,
        Self::HistogramRecorded,
        Self::HistogramInPlace,
        Self::HistogramStored,
        Self::IterationFinished,
    ];

    /// Returns the name for `DPSYN_KILL_AT`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RunOpened => "run-opened",
            Self::PrivateDataEmbedded => "private-data-embedded",
            Self::LookaheadPartial => "lookahead-partial",
            Self::LookaheadShard => "lookahead-shard",
            Self::Counted => "counted",
            Self::Charged => "charged",
            Self::HistogramDrawn => "histogram-drawn",
            Self::HistogramRecorded => "histogram-recorded",
            Self::HistogramInPlace => "histogram-in-place",
            Self::HistogramStored => "histogram-stored",
            Self::ImageShard => "image-shard",
            Self::PopulationStored => "population-stored",
            Self::PicturesWritten => "pictures-written",
            Self::IterationFinished => "iteration-finished",
        }
    }
}

/// Aborts the process if `DPSYN_KILL_AT` names this point; does nothing otherwise.
#[cfg(not(feature = "insecure-test-noise"))]
pub(crate) fn reach(_: KillPoint) {}

/// Aborts the process if `DPSYN_KILL_AT` names this point; does nothing otherwise.
#[cfg(feature = "insecure-test-noise")]
pub(crate) fn reach(point: KillPoint) {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Times that the chosen point was reached.
    static REACHED: AtomicU64 = AtomicU64::new(0);

    let Ok(chosen) = std::env::var("DPSYN_KILL_AT") else {
        return;
    };
    let (name, count) = chosen.split_once(':').unwrap_or((&chosen, "1"));
    if name == point.name() {
        let reached = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
        if count.parse() == Ok(reached) {
            std::process::abort();
        }
    }
}
