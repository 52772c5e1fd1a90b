//! Everything that an evaluation needs beside the sets that it compares.

use candle_core::Device;

use crate::embedders::Embedder;
use crate::metrics::EvaluationConfig;
use crate::metrics::inception_score::Classifier;
use crate::metrics::table::FeatureSpace;
use crate::progress::Observer;

/// Images read at a time: enough to occupy an embedder, few enough for the memory.
pub(crate) const CHUNK: usize = 512;

/// A validated evaluation: everything is opened and checked.
pub struct Evaluation<'a> {
    /// Metrics and their settings.
    pub config: &'a EvaluationConfig,
    /// Embedder of the metrics.
    pub embedder: &'a dyn Embedder,
    /// Description of the embedder.
    pub space: FeatureSpace,
    /// Classifier of the Inception Score, if it is one of the metrics.
    pub classifier: Option<Classifier>,
    /// True if the vote uses the same embedder, so that private images are embedded once.
    pub shares_vote: bool,
    /// Device of nearest-neighbor searches and of training.
    pub device: &'a Device,
    /// Receives progress and messages, and is checked for cancellation.
    pub observer: &'a dyn Observer,
}
