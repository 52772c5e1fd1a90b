//! One run: opens folder and ledger, executes the algorithm, closes.

use std::path::PathBuf;

use candle_core::Device;

use super::algorithm::private_evolution;
use super::disclosure::Disclosure;
use super::{PeError, Plan};
use crate::artifacts::{ArtifactsError, RunDir, RunStore};
use crate::atomic;
use crate::dataset::{PrivateData, PrivateImages};
use crate::embedders::Embedder;
use crate::evaluation::{Evaluation, Evaluator, ReferenceSource};
use crate::generators::{Generator, RunPaths};
use crate::kill_point::{KillPoint, reach};
use crate::privacy::{Fingerprint, Ledger, PrivateFolder, Sensitive, sha256_hex};
use crate::progress::Observer;

/// A validated run. Inputs are loaded; no privacy budget has been charged.
pub struct Run<'a> {
    /// Populations, classes, privacy, and the `[evolution]` section.
    pub plan: &'a Plan,
    /// The public inputs that a resumed run must share.
    pub identity: &'a RunIdentity,
    /// The configuration with all defaults, for `config.toml`.
    pub resolved_config: &'a str,
    /// Whether classes are told apart by name (`data.class_conditional`).
    pub class_conditional: bool,
    /// Rows and columns of each private image (`data.image_size`).
    pub private_image_size: usize,
    /// Whether every sample is also written as PNG (`output.plot_images`).
    pub plot_images: bool,
    /// The foundation model.
    pub generator: &'a dyn Generator,
    /// The embedding space of the vote.
    pub embedder: &'a dyn Embedder,
    /// The metrics of each population, if any are configured.
    pub evaluation: Option<&'a Evaluation<'a>>,
    /// The device of the nearest-neighbor search.
    pub device: &'a Device,
    /// Receives progress and requests cancellation.
    pub observer: &'a dyn Observer,
}

/// The public inputs that the samples depend on. The ledger keeps their digest, so that a run is never
/// resumed with others.
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
}

impl RunIdentity {
    /// Version of the meaning of the settings; to be raised when equal settings yield other samples.
    const ALGORITHM: u32 = 1;

    /// Returns the SHA-256 of all inputs.
    fn digest(&self) -> String {
        let inputs = serde_json::json!({
            "algorithm": Self::ALGORITHM,
            "settings": self.settings,
            "model_weights": self.model_weights,
            "embedder_weights": self.embedder_weights,
            "initial_samples": self.initial_samples,
        });
        sha256_hex(inputs.to_string().as_bytes())
    }
}

impl Run<'_> {
    /// Executes the whole plan in `dir`, or what is left of it. Returns the path of the last population.
    /// Metrics compare with `reference`, or with the private images of the run if that is `None`.
    ///
    /// # Errors
    /// See [`PeError`]. Results that were finished before are on disk and are not computed again.
    pub fn execute(
        &self,
        dir: &RunDir,
        images: &mut PrivateImages,
        fingerprint: &Sensitive<Fingerprint>,
        reference: Option<ReferenceSource>,
    ) -> Result<PathBuf, PeError> {
        let folder = PrivateFolder::create(dir.private())?;
        let mut ledger = Ledger::open(
            dir.root(),
            &self.plan.privacy,
            &self.identity.digest(),
            &folder,
            fingerprint,
        )?;
        // The ledger is locked from here on, so temporary files belong to killed processes.
        dir.sweep()?;
        self.generator.begin_run(&RunPaths {
            root: dir.root().to_owned(),
            work: dir.work(),
            lookahead_degree: self.plan.evolution.lookahead_degree,
        })?;
        atomic::write(&dir.config(), self.config_text().as_bytes())
            .map_err(ArtifactsError::io(&dir.config()))?;
        let mut evaluator = match self.evaluation {
            Some(evaluation) => Some(Evaluator::new(evaluation, reference, Some(dir.root()))?),
            None => None,
        };
        let store = RunStore {
            dir,
            layouts: &self.plan.layouts,
            image_size: self.generator.image_size(),
            threshold: self.plan.evolution.threshold,
            non_private: self.plan.privacy.non_private().is_some(),
        };
        let mut disclosure = Disclosure::begin(self, &store, images.selection(), &ledger)?;
        reach(KillPoint::RunOpened);
        let mut data = PrivateData::new(images, fingerprint, &folder);
        private_evolution(
            self,
            &store,
            &mut data,
            &mut ledger,
            &mut disclosure,
            &mut evaluator,
        )?;
        dir.clear(&dir.work())?;
        disclosure.finish(&ledger)?;
        Ok(dir.samples(self.plan.iterations()))
    }

    /// Returns the text of `config.toml`.
    fn config_text(&self) -> String {
        match self.plan.privacy.non_private() {
            Some(reason) => format!("# NOT PRIVATE: {reason}\n{}", self.resolved_config),
            None => self.resolved_config.to_owned(),
        }
    }
}
