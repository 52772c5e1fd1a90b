//! The inputs of a run, which the whole algorithm shares.

use candle_core::Device;

use super::Plan;
use crate::embedders::Embedder;
use crate::evaluation::Evaluation;
use crate::generators::Generator;
use crate::images::DataConfig;
use crate::privacy::{Budget, Fingerprint, PadPeriod, Sensitive, sha256_hex};
use crate::progress::Observer;

/// A validated run. Inputs are loaded; no privacy budget has been charged.
pub struct Run<'a> {
    /// Populations, classes, privacy, and the `[evolution]` section.
    pub plan: &'a Plan,
    /// The public inputs that a resumed run must share.
    pub identity: &'a RunIdentity,
    /// The text of `config.toml`, which is published.
    pub public_config: &'a str,
    /// The complete configuration with all defaults, for `private/config.toml`.
    pub private_config: &'a Sensitive<String>,
    /// `[data]`.
    pub data: &'a DataConfig,
    /// The budget of the data set, and the fingerprint by which it knows the images.
    pub budget: Option<(&'a Budget, &'a Sensitive<Fingerprint>)>,
    /// Pads the time of work with private data (`privacy.pad_release_to`).
    pub pad_release_to: Option<&'a PadPeriod>,
    /// Also writes every sample as PNG (`output.plot_images`).
    pub plot_images: bool,
    /// The foundation model.
    pub generator: &'a dyn Generator,
    /// The embedding space of the vote.
    pub embedder: &'a dyn Embedder,
    /// The same embedding space for the private images, on a device on which the vector of an image
    /// does not depend on its place in a batch.
    pub private_embedder: &'a dyn Embedder,
    /// Name of that device, for the log.
    pub private_device: &'a str,
    /// The metrics of each population, if any are configured.
    pub evaluation: Option<&'a Evaluation<'a>>,
    /// The device of the nearest-neighbor search.
    pub device: &'a Device,
    /// Receives progress and requests cancellation.
    pub observer: &'a dyn Observer,
}

/// The public inputs that the samples depend on. The ledger keeps their digest, so that a run is
/// never resumed with others.
#[derive(Debug, Clone)]
pub struct RunIdentity {
    /// The settings that affect samples, as JSON.
    pub settings: serde_json::Value,
    /// SHA-256 of the weights of the foundation model; `None` for a hosted model.
    pub model_weights: Option<String>,
    /// SHA-256 of the weights of the embedder; `None` where it has none.
    pub embedder_weights: Option<String>,
    /// SHA-256 of the file of initial samples; `None` where the run starts from random images.
    pub initial_samples: Option<String>,
    /// Rules that follow from other inputs, see [`Plan::identity`]; `None` if there are none.
    pub plan: Option<serde_json::Value>,
}

impl RunIdentity {
    /// Version of the meaning of the settings; to be raised when equal settings yield other
    /// samples.
    const ALGORITHM: u32 = 1;

    /// Returns the SHA-256 of all inputs.
    pub(super) fn digest(&self) -> String {
        let mut inputs = serde_json::json!({
            "algorithm": Self::ALGORITHM,
            "settings": self.settings,
            "model_weights": self.model_weights,
            "embedder_weights": self.embedder_weights,
            "initial_samples": self.initial_samples,
        });
        if let Some(plan) = &self.plan {
            inputs["plan"] = plan.clone();
        }
        sha256_hex(inputs.to_string().as_bytes())
    }
}
