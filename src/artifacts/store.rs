//! Every result of a run: read back if it is on disk, computed and stored otherwise.
//!
//! This is the only place that knows about resuming. A caller says how a result is computed;
//! whether it is computed depends on the files. Results appear whole, so a run that was killed at
//! any moment continues with the first result that is missing.

use std::path::Path;

use super::population::{GeneratedImages, write_population};
use super::shards::ShardStore;
use super::votes::{ReleasedVotes, read_lattice};
use super::{ArtifactsError, ClassLayout, Population, RunDir, pictures};
use crate::atomic;
use crate::kill_point::{KillPoint, reach};
use crate::privacy::{Ledger, PrivacyError, PrivateFolder, UnpublishedHistogram};

/// A phase of an iteration that stores shards of unfinished work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkPhase {
    /// Random images.
    Random,
    /// Images of a file that the run starts from.
    Import,
    /// Variations of parents.
    Vary,
    /// Mean embeddings of lookahead variations.
    Lookahead,
}

impl WorkPhase {
    /// Returns the folder below `.work/<iteration>/` and the extension of the shards. Runs that
    /// earlier versions began have these names, too.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Random => ("random", "u8"),
            Self::Import => ("adopted", "u8"),
            Self::Vary => ("vary", "u8"),
            Self::Lookahead => ("lookahead", "mean"),
        }
    }
}

/// Returns true if the file exists. A file that cannot be examined is an error: taken for absent,
/// it would be made again.
fn exists(path: &Path) -> Result<bool, ArtifactsError> {
    path.try_exists().map_err(ArtifactsError::io(path))
}

/// The stored results of one run.
pub struct RunStore<'a> {
    /// The folder.
    pub dir: &'a RunDir,
    /// The classes of each population.
    pub layouts: &'a [ClassLayout],
    /// Rows and columns of each sample.
    pub image_size: (usize, usize),
    /// Threshold H of the votes of each iteration, beginning with the first.
    pub thresholds: Vec<f64>,
    /// Marks samples, votes and pictures as non-private.
    pub non_private: bool,
}

impl RunStore<'_> {
    /// Returns the classes of a population.
    ///
    /// # Errors
    /// [`ArtifactsError::Unplanned`].
    pub fn layout(&self, number: u32) -> Result<&ClassLayout, ArtifactsError> {
        let layout = self.layouts.get(number as usize);
        layout.ok_or(ArtifactsError::Unplanned(number))
    }

    /// Returns the threshold H of an iteration.
    fn threshold(&self, iteration: u32) -> Result<f64, ArtifactsError> {
        let index = (iteration as usize).checked_sub(1);
        let threshold = index.and_then(|index| self.thresholds.get(index));
        threshold
            .copied()
            .ok_or(ArtifactsError::Unplanned(iteration))
    }

    /// Opens the shards of a phase.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn shards(&self, iteration: u32, phase: WorkPhase) -> Result<ShardStore, ArtifactsError> {
        let (folder, extension) = phase.names();
        let folder = self.dir.phase(iteration, folder);
        self.dir.make(&folder)?;
        ShardStore::open(folder, extension)
    }

    /// Returns population `number`: read back, or generated and stored.
    ///
    /// # Errors
    /// Those of `generate`, or an [`ArtifactsError`].
    pub fn population<E: From<ArtifactsError>>(
        &self,
        number: u32,
        generate: impl FnOnce() -> Result<GeneratedImages, E>,
    ) -> Result<Population, E> {
        self.dir.make(&self.dir.iteration(number))?;
        let (path, scratch) = (self.dir.samples(number), self.dir.phase(number, ""));
        let layout = self.layout(number)?;
        self.generated_or_read(&path, &scratch, layout, self.non_private, generate)
    }

    /// Returns the random images that an initial population is derived from. They are part of the
    /// unfinished work and are removed with it.
    ///
    /// # Errors
    /// Those of `generate`, or an [`ArtifactsError`].
    pub fn base_population<E: From<ArtifactsError>>(
        &self,
        layout: &ClassLayout,
        generate: impl FnOnce() -> Result<GeneratedImages, E>,
    ) -> Result<Population, E> {
        let folder = self.dir.phase(0, WorkPhase::Random.names().0);
        let path = folder.join("samples.npz");
        self.generated_or_read(&path, &folder, layout, false, generate)
    }

    fn generated_or_read<E: From<ArtifactsError>>(
        &self,
        path: &Path,
        scratch: &Path,
        layout: &ClassLayout,
        non_private: bool,
        generate: impl FnOnce() -> Result<GeneratedImages, E>,
    ) -> Result<Population, E> {
        let size = self.image_size;
        if !exists(path)? {
            let generated = generate()?;
            write_population(path, scratch, layout, size, &generated, non_private)?;
            reach(KillPoint::PopulationStored);
        }
        Ok(Population::open(path, layout, size)?)
    }

    /// Returns the votes of `iteration`: read back and confirmed in the ledger, or drawn, stored
    /// and published.
    ///
    /// A histogram that was drawn cannot be read before it is on disk ([`UnpublishedHistogram`]).
    /// One that an earlier process drew and recorded but did not publish is published.
    ///
    /// # Errors
    /// Those of `draw`, an [`ArtifactsError`], or a [`PrivacyError`] of the ledger, for example
    /// where the stored histogram is not the one that was charged.
    pub fn released_votes<E: From<ArtifactsError> + From<PrivacyError>>(
        &self,
        iteration: u32,
        ledger: &mut Ledger,
        private: &PrivateFolder,
        draw: impl FnOnce(&mut Ledger) -> Result<UnpublishedHistogram, E>,
    ) -> Result<ReleasedVotes, E> {
        let path = self.dir.votes(iteration);
        let threshold = self.threshold(iteration)?;
        if let Some(released) = self.stored_votes(iteration)? {
            ledger.confirm_published(iteration, released.histogram())?;
            return Ok(released);
        }
        self.dir.make(&self.dir.iteration(iteration))?;
        if let Some(released) = self.publish_drawn(iteration, ledger, private)? {
            return Ok(released);
        }
        let drawn = draw(ledger)?;
        reach(KillPoint::HistogramDrawn);
        let noisy = drawn.store(ledger, private, &path, |noisy, file| {
            let votes = ReleasedVotes::new(noisy.clone(), threshold, false);
            votes.write(self.non_private, file)
        })?;
        reach(KillPoint::HistogramStored);
        Ok(ReleasedVotes::new(noisy, threshold, false))
    }

    /// Publishes the histogram of a process that ended between recording and publishing it. Returns
    /// `None` if there is none: it is then drawn again, with the same noise.
    fn publish_drawn(
        &self,
        iteration: u32,
        ledger: &Ledger,
        private: &PrivateFolder,
    ) -> Result<Option<ReleasedVotes>, ArtifactsError> {
        let drawn = private.drawn_votes(iteration);
        if !ledger.is_drawn(iteration) || !exists(&drawn)? {
            return Ok(None);
        }
        let samples = self.layout(iteration.saturating_sub(1))?.total() as usize;
        let Ok(noisy) = read_lattice(&drawn, samples, self.non_private) else {
            // Damaged. The repeated draw is compared with the record.
            return Ok(None);
        };
        if ledger.confirm_published(iteration, &noisy).is_err() {
            return Ok(None);
        }
        let (path, threshold) = (self.dir.votes(iteration), self.threshold(iteration)?);
        atomic::publish(&drawn, &path).map_err(ArtifactsError::io(&path))?;
        Ok(Some(ReleasedVotes::new(noisy, threshold, true)))
    }

    /// Returns the votes of `iteration` if they were released, not compared with the ledger.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`]; [`ArtifactsError::VotesLength`]; [`ArtifactsError::VotesStamp`].
    pub fn stored_votes(&self, iteration: u32) -> Result<Option<ReleasedVotes>, ArtifactsError> {
        let path = self.dir.votes(iteration);
        if !exists(&path)? {
            return Ok(None);
        }
        let samples = self.layout(iteration.saturating_sub(1))?.total() as usize;
        let noisy = read_lattice(&path, samples, self.non_private)?;
        Ok(Some(ReleasedVotes::new(
            noisy,
            self.threshold(iteration)?,
            true,
        )))
    }

    /// Compares the ledger with everything in the folder that depends on a release, before anything
    /// is said about the run: a statement must not claim less than what lies beside it.
    ///
    /// # Errors
    /// The [`PrivacyError`] of a histogram that the ledger does not have, or has with other values;
    /// [`ArtifactsError::Uncharged`] for a population of an iteration that was not charged.
    pub fn check_releases<E: From<ArtifactsError> + From<PrivacyError>>(
        &self,
        ledger: &Ledger,
    ) -> Result<(), E> {
        for iteration in self.dir.iterations()? {
            if iteration == 0 {
                continue;
            }
            let (votes, samples) = (self.dir.votes(iteration), self.dir.samples(iteration));
            if iteration > ledger.charged() {
                for path in [votes, samples] {
                    if exists(&path)? {
                        return Err(ArtifactsError::Uncharged { path }.into());
                    }
                }
            } else if let Some(released) = self.stored_votes(iteration)? {
                ledger.confirm_published(iteration, released.histogram())?;
            }
        }
        Ok(())
    }

    /// Writes the pictures of the samples of `before` with the most and the fewest noisy votes.
    ///
    /// # Errors
    /// [`ArtifactsError`].
    pub fn vote_pictures(
        &self,
        iteration: u32,
        before: &Population,
        released: &ReleasedVotes,
    ) -> Result<(), ArtifactsError> {
        let folder = self.dir.iteration(iteration);
        // The last of the two; with it, both are there.
        if folder.join("bottom.png").exists() {
            return Ok(());
        }
        let (layout, votes) = (self.layout(iteration.saturating_sub(1))?, released.noisy());
        for (order, name) in [
            (pictures::Order::MostVotes, "top.png"),
            (pictures::Order::FewestVotes, "bottom.png"),
        ] {
            let picture = pictures::by_votes(before, layout, &votes, order)?;
            pictures::write(&picture, self.non_private, &folder.join(name))?;
        }
        Ok(())
    }

    /// Writes the pictures of a population, each sample's own if `plot_images`, and removes its
    /// unfinished work. Returns false where an earlier process did all of that.
    ///
    /// # Errors
    /// [`ArtifactsError`].
    pub fn finish(
        &self,
        number: u32,
        population: &Population,
        plot_images: bool,
    ) -> Result<bool, ArtifactsError> {
        let folder = self.dir.iteration(number);
        let work = self.dir.work().join(number.to_string());
        let grid = folder.join("grid.png");
        let last = folder.join(format!("{}.png", population.len().saturating_sub(1)));
        if grid.exists() && !work.exists() && (!plot_images || last.exists()) {
            return Ok(false);
        }
        if plot_images {
            for index in 0..population.len() {
                let image = population.images(index..index + 1)?;
                let path = folder.join(format!("{index}.png"));
                pictures::write(&image, self.non_private, &path)?;
            }
        }
        let overview = pictures::overview(population, self.layout(number)?)?;
        pictures::write(&overview, self.non_private, &grid)?;
        reach(KillPoint::PicturesWritten);
        self.dir.clear(&work)?;
        Ok(true)
    }
}
