//! One run: opens folder and ledger, executes the algorithm, closes.

use std::path::PathBuf;

use super::algorithm::private_evolution;
use super::disclosure::Disclosure;
use super::{PeError, Run};
use crate::artifacts::{ArtifactsError, RunDir, RunStore};
use crate::atomic;
use crate::dataset::{PrivateData, PrivateImages};
use crate::evaluation::{Evaluator, ReferenceSource};
use crate::generators::RunPaths;
use crate::kill_point::{KillPoint, reach};
use crate::privacy::{Fingerprint, Ledger, PrivateFolder, Sensitive};

impl Run<'_> {
    /// Executes the whole plan in `dir`, or what is left of it. Returns the path of the last
    /// population. Metrics compare with `reference`, or with the private images of the run if
    /// that is `None`.
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
        if let Some((budget, images)) = self.budget {
            budget.admit(&ledger, images)?;
        }
        // The ledger is locked from here on, so temporary files belong to killed processes.
        dir.sweep()?;
        dir.set_times()?;
        self.generator.begin_run(&RunPaths {
            root: dir.root().to_owned(),
            work: dir.work(),
            lookahead_degrees: self.plan.each(|rules| rules.lookahead_degree),
        })?;
        atomic::write(&dir.config(), self.config_text().as_bytes())
            .map_err(ArtifactsError::io(&dir.config()))?;
        folder.write_sensitive("config.toml", self.private_config, |text, file| {
            file.write_all(text.as_bytes())
        })?;
        let mut evaluator = match self.evaluation {
            Some(evaluation) => Some(Evaluator::new(evaluation, reference, Some(dir.root()))?),
            None => None,
        };
        let store = RunStore {
            dir,
            layouts: &self.plan.layouts,
            image_size: self.generator.image_size(),
            thresholds: self.plan.thresholds.clone(),
            non_private: self.plan.privacy.non_private().is_some(),
        };
        store.check_releases::<PeError>(&ledger)?;
        let mut disclosure = Disclosure::begin(self, &store, &ledger)?;
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
        if let Some((budget, _)) = self.budget {
            budget.close(&ledger)?;
        }
        Ok(dir.samples(self.plan.iterations()))
    }

    /// Returns the text of `config.toml`.
    fn config_text(&self) -> String {
        match self.plan.privacy.non_private() {
            Some(reason) => format!("# NOT PRIVATE: {reason}\n{}", self.public_config),
            None => self.public_config.to_owned(),
        }
    }
}
