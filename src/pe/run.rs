//! The loop itself. Paper: Algorithm 1 (PE) with Algorithm 2 (the noisy vote) of arXiv 2305.15560.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use candle_core::Device;

use super::lookahead::Lookahead;
use super::offspring::{Lineage, Offspring, global, initial_origins, origins};
use super::{PeError, Plan};
use crate::artifacts::{ClassLayout, Population, RunDir, ShardStore, npz_error, pictures, store};
use crate::config::Settings;
use crate::dataset::PrivateImages;
use crate::embedders::Embedder;
use crate::evaluation::{Evaluation, Evaluator, ReferenceSource, RunImages};
use crate::generators::{Condition, ConditionRequest, Generator, RunPaths};
use crate::images::{NpzError, NpzReader, NpzWriter, SamplesReader};
use crate::privacy::{
    ClassConditions, Fingerprint, Ledger, NoisyHistogram, PrivateFolder, PublicInputs, Sensitive,
    Statement, UniformFallback, release, sha256_hex,
};
use crate::progress::Observer;
use crate::streams::{Phase, RngKey};
use crate::voting::{
    PrivateEmbeddings, SampleEmbeddings, SearchOptions, VotingError, nn_histogram, select,
    threshold,
};

/// A run about to happen: everything is loaded and checked, nothing is spent.
pub struct Run<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// Populations, classes, privacy.
    pub plan: &'a Plan,
    /// The foundation model.
    pub generator: &'a dyn Generator,
    /// What its weights are, for the run's identity; `None` where nobody knows, of a hosted model.
    pub generator_digest: Option<&'a str>,
    /// The space of the vote.
    pub embedder: &'a dyn Embedder,
    /// What its weights are, for the run's identity; `None` where it has none.
    pub embedder_digest: Option<&'a str>,
    /// What the samples that the run starts from are, for the run's identity.
    pub initial_digest: Option<&'a str>,
    /// The figures of each population, if any were asked for.
    pub evaluation: Option<&'a Evaluation<'a>>,
    /// Where nearest neighbours are searched.
    pub device: &'a Device,
    /// Who watches.
    pub observer: &'a dyn Observer,
}

/// What stays open during a run.
struct Session<'a> {
    run: &'a Run<'a>,
    folder: &'a RunDir,
    private: PrivateFolder,
    ledger: Ledger,
    fallbacks: Vec<UniformFallback>,
    /// Which images were used, for the statement.
    selection: String,
    fingerprint: &'a Sensitive<Fingerprint>,
    stamp: bool,
    evaluator: Option<Evaluator<'a>>,
}

impl Run<'_> {
    /// Runs, or goes on with, the whole plan. Returns the path of the last population. An evaluation
    /// compares with `against`, or with the run's own private images.
    ///
    /// # Errors
    /// See [`PeError`]. Whatever was finished before is on disk and is not done again.
    pub fn execute(
        &self,
        folder: &RunDir,
        images: &mut PrivateImages,
        fingerprint: &Sensitive<Fingerprint>,
        against: Option<ReferenceSource>,
    ) -> Result<PathBuf, PeError> {
        let private = PrivateFolder::create(folder.private())?;
        let ledger = Ledger::open(
            folder.root(),
            &self.plan.privacy,
            &sha256_hex(self.identity()?.to_string().as_bytes()),
            &private,
            fingerprint,
        )?;
        // Only now is the folder this process' own.
        folder.sweep()?;
        self.generator.begin_run(&RunPaths {
            root: folder.root().to_owned(),
            work: folder.work(),
            lookahead_degree: self.settings.evolution.lookahead_degree,
        })?;
        crate::atomic::write(&folder.config(), self.resolved()?.as_bytes())
            .map_err(PeError::io(&folder.config()))?;
        let evaluator = match self.evaluation {
            Some(evaluation) => Some(Evaluator::new(evaluation, against, Some(folder.root()))?),
            None => None,
        };
        let mut session = Session {
            run: self,
            folder,
            private,
            ledger,
            fallbacks: Vec::new(),
            selection: images.selection(),
            fingerprint,
            stamp: self.plan.privacy.non_private().is_some(),
            evaluator,
        };
        session.recall_fallbacks()?;
        session.say(&format!(
            "dpsyn {}: run {}",
            env!("CARGO_PKG_VERSION"),
            session.ledger.run_id()
        ))?;
        if let Some(reason) = self.plan.privacy.non_private() {
            session.say(&format!("NOT PRIVATE: {reason}"))?;
        }
        session.state()?;
        let mut population = session.initial()?;
        session.evaluate(0, &population, images)?;
        let mut voters = None;
        for iteration in 1..=self.plan.iterations() {
            population = session.iterate(iteration, &population, images, &mut voters)?;
            session.evaluate(iteration, &population, images)?;
        }
        folder.clear(&folder.work())?;
        let statement = session.state()?;
        session.say(statement.summary())?;
        Ok(folder.samples(self.plan.iterations()))
    }

    fn resolved(&self) -> Result<String, PeError> {
        let text = self.settings.to_toml()?;
        Ok(match self.plan.privacy.non_private() {
            Some(reason) => format!("# NOT PRIVATE: {reason}\n{text}"),
            None => text,
        })
    }

    /// Everything public that the samples depend on.
    fn identity(&self) -> Result<serde_json::Value, PeError> {
        Ok(serde_json::json!({
            // To be raised when the same settings come to mean other samples.
            "algorithm": 1,
            "settings": self.settings.identity()?,
            "model_weights": self.generator_digest,
            "embedder_weights": self.embedder_digest,
            "initial_samples": self.initial_digest,
        }))
    }

    fn seed(&self) -> u64 {
        self.settings.evolution.seed
    }

    fn class_conditional(&self) -> bool {
        self.settings.data.class_conditional
    }
}

impl Session<'_> {
    /// A line for the log and for whoever watches. Public facts only.
    fn say(&self, text: &str) -> Result<(), PeError> {
        self.folder.log(text)?;
        self.run.observer.message(text);
        Ok(())
    }

    /// The fallbacks of a run that is resumed, from the histograms that it released.
    fn recall_fallbacks(&mut self) -> Result<(), PeError> {
        for iteration in 1..=self.ledger.charged() {
            let path = self.folder.votes(iteration);
            if !path.exists() {
                continue;
            }
            let layout = self.layout(iteration - 1)?.clone();
            let noisy = read_votes(&path, layout.total() as usize)?;
            let votes = threshold(&noisy.values(), self.run.settings.evolution.threshold);
            for (class, range) in layout.ranges().into_iter().enumerate() {
                if votes
                    .get(range)
                    .unwrap_or_default()
                    .iter()
                    .all(|v| *v <= 0.0)
                {
                    self.fallbacks.push(self.fallback(iteration, class));
                }
            }
        }
        Ok(())
    }

    fn fallback(&self, iteration: u32, class: usize) -> UniformFallback {
        let name = self.run.plan.classes.get(class).cloned();
        UniformFallback {
            iteration,
            class: name.filter(|_| self.run.class_conditional()),
        }
    }

    /// Writes the privacy statement as it stands.
    fn state(&self) -> Result<Statement, PeError> {
        let plan = self.run.plan;
        let layout = plan.layouts.last();
        let total = layout.map_or(0, ClassLayout::total);
        let shares = layout.map_or(&[][..], ClassLayout::counts);
        let conditional = self.run.class_conditional();
        let image_size = self.run.settings.data.image_size;
        let public = PublicInputs {
            private_images: plan.private_images,
            image_size: [image_size, image_size],
            samples: total as usize,
            class_names: if conditional {
                plan.classes.clone()
            } else {
                Vec::new()
            },
            class_shares: shares
                .iter()
                .map(|n| *n as f64 / total.max(1) as f64)
                .collect(),
            conditions: self.declared_conditions(),
            prompts: self.run.generator.prompts().to_vec(),
            selection: self.selection.clone(),
            model_weights_sha256: self.run.generator_digest.map(str::to_owned),
            embedder_weights_sha256: self.run.embedder_digest.map(str::to_owned),
            initial_samples_sha256: self.run.initial_digest.map(str::to_owned),
        };
        let statement = Statement::new(&self.ledger, public, self.fallbacks.clone());
        statement.write(&self.folder.statement())?;
        Ok(statement)
    }

    fn declared_conditions(&self) -> Vec<ClassConditions> {
        let plan = self.run.plan;
        let conditional = self.run.class_conditional();
        plan.classes
            .iter()
            .map(|class| {
                let name = conditional.then(|| class.clone());
                let conditions = match self.run.initial_digest {
                    Some(_) => vec!["those of the initial samples".to_owned()],
                    None => self.run.generator.describe_conditions(name.as_deref()),
                };
                ClassConditions {
                    class: name,
                    conditions,
                }
            })
            .collect()
    }

    fn open(&self, iteration: u32) -> Result<Population, PeError> {
        Population::open(
            &self.folder.samples(iteration),
            self.layout(iteration)?,
            self.run.generator.image_size(),
        )
    }

    fn layout(&self, iteration: u32) -> Result<&ClassLayout, PeError> {
        self.run
            .plan
            .layouts
            .get(iteration as usize)
            .ok_or_else(|| PeError::State(format!("no population {iteration} is planned")))
    }

    fn degree(&self, iteration: u32) -> f64 {
        self.run
            .plan
            .generations
            .get(iteration as usize)
            .map_or(0.0, |generation| generation.variation_degree)
    }

    fn initial(&mut self) -> Result<Population, PeError> {
        let layout = self.layout(0)?.clone();
        if !self.folder.samples(0).exists() {
            self.folder.make(&self.folder.iteration(0))?;
            if self.run.settings.evolution.initial_samples.is_some() {
                self.adopt(&layout)?;
            } else {
                self.draw(&layout)?;
            }
        }
        self.finish(0, &layout)?;
        self.open(0)
    }

    /// Random images, and variations of them if the configuration asks for some.
    fn draw(&self, layout: &ClassLayout) -> Result<(), PeError> {
        let evolution = &self.run.settings.evolution;
        let fold = evolution.initial_fold();
        let base = ClassLayout::of_counts(layout.counts().iter().map(|n| n / fold).collect());
        let conditions = self.conditions(&base)?;
        let offspring = Offspring {
            generator: self.run.generator,
            seed: self.run.seed(),
            iteration: 0,
            variation_degree: self.degree(0),
            origins: vec![Lineage::Random; base.total() as usize],
            conditions: conditions.clone(),
        };
        let units = offspring.make(
            None,
            self.folder.phase(0, "random"),
            "initial population",
            self.run.observer,
        )?;
        if fold == 1 {
            return self.store(0, layout, &units, &conditions);
        }
        let base_path = self.folder.phase(0, "random").join("samples.npz");
        let size = self.run.generator.image_size();
        if !base_path.exists() {
            let scratch = self.folder.phase(0, "random");
            store(
                &base_path,
                &scratch,
                &base,
                size,
                &units,
                &conditions,
                false,
            )?;
        }
        let parents = Population::open(&base_path, &base, size)?;
        let everyone: Vec<Vec<usize>> = base.ranges().into_iter().map(Iterator::collect).collect();
        let origins = initial_origins(&everyone, evolution.initial_variations);
        self.breed(0, layout, &parents, origins, "initial variations")
    }

    /// Somebody's samples in the place of random images.
    fn adopt(&self, layout: &ClassLayout) -> Result<(), PeError> {
        let Some(path) = &self.run.settings.evolution.initial_samples else {
            return Ok(());
        };
        let npz = npz_error(path);
        let initial = InitialSamples::open(path, layout, self.run.generator, self.stamp)?;
        let mut reader = initial.reader;
        let conditions = match initial.conditions {
            Some(conditions) => conditions,
            None => self.conditions(layout)?,
        };
        let units = ShardStore::open(self.folder.phase(0, "adopted"), "u8")?;
        let step = self.run.generator.batch_size().max(1);
        for start in (0..reader.len()).step_by(step) {
            let range = start..(start + step).min(reader.len());
            units.write(&range, reader.read(range.clone()).map_err(&npz)?.data())?;
        }
        self.store(0, layout, &units, &conditions)
    }

    /// The public conditions of an initial population.
    fn conditions(&self, layout: &ClassLayout) -> Result<Vec<Condition>, PeError> {
        let conditional = self.run.class_conditional();
        let mut slots = Vec::with_capacity(layout.total() as usize);
        for (sample, label) in layout.labels().into_iter().enumerate() {
            let class = self.run.plan.classes.get(label as usize);
            slots.push(ConditionRequest {
                class: class.map(String::as_str).filter(|_| conditional),
                rng_key: RngKey {
                    seed: self.run.seed(),
                    phase: Phase::Condition,
                    iteration: 0,
                    repeat: 0,
                    sample: sample as u64,
                },
            });
        }
        Ok(self.run.generator.initial_conditions(&slots)?)
    }

    fn store(
        &self,
        iteration: u32,
        layout: &ClassLayout,
        units: &ShardStore,
        conditions: &[Condition],
    ) -> Result<(), PeError> {
        store(
            &self.folder.samples(iteration),
            &self.folder.phase(iteration, ""),
            layout,
            self.run.generator.image_size(),
            units,
            conditions,
            self.stamp,
        )
    }

    fn breed(
        &self,
        iteration: u32,
        layout: &ClassLayout,
        parents: &Population,
        origins: Vec<Lineage>,
        stage: &str,
    ) -> Result<(), PeError> {
        let conditions: Vec<Condition> = origins
            .iter()
            .map(|origin| match origin {
                Lineage::Variation(parent, _) | Lineage::Elite(parent) => {
                    Condition(parents.condition(*parent))
                }
                Lineage::Random => Condition::UNCONDITIONAL,
            })
            .collect();
        let offspring = Offspring {
            generator: self.run.generator,
            seed: self.run.seed(),
            iteration,
            variation_degree: self.degree(iteration),
            origins,
            conditions,
        };
        let units = offspring.make(
            Some(parents),
            self.folder.phase(iteration, "vary"),
            stage,
            self.run.observer,
        )?;
        self.store(iteration, layout, &units, &offspring.conditions)
    }

    /// Pictures, and the end of the iteration's unfinished work; nothing where that is done already.
    fn finish(&self, iteration: u32, layout: &ClassLayout) -> Result<(), PeError> {
        let folder = self.folder.iteration(iteration);
        let work = self.folder.work().join(iteration.to_string());
        let (grid, plot) = (
            folder.join("grid.png"),
            self.run.settings.output.plot_images,
        );
        let last = folder.join(format!("{}.png", layout.total().saturating_sub(1)));
        if grid.exists() && !work.exists() && (!plot || last.exists()) {
            return Ok(());
        }
        let population = self.open(iteration)?;
        if plot {
            for index in 0..population.len() {
                let path = folder.join(format!("{index}.png"));
                pictures::write(&population.images(index..index + 1)?, self.stamp, &path)?;
            }
        }
        pictures::overview(&population, layout, self.stamp, &grid)?;
        self.folder.clear(&work)?;
        self.say(&format!(
            "population {iteration}: {} samples",
            population.len()
        ))
    }

    /// The figures of a population that is on disk. They go no other way than [`Evaluator`] says.
    fn evaluate(
        &mut self,
        number: u32,
        population: &Population,
        images: &mut PrivateImages,
    ) -> Result<(), PeError> {
        let (Some(evaluation), Some(evaluator)) = (self.run.evaluation, &mut self.evaluator) else {
            return Ok(());
        };
        if !evaluation.config.is_due(number, self.run.plan.iterations()) {
            return Ok(());
        }
        let run = RunImages {
            images,
            fingerprint: self.fingerprint,
            vote: evaluation.shares_vote.then_some(&self.private),
        };
        evaluator.population(number, population, Some(run))
    }

    /// One PE iteration: vote, release, select, vary.
    fn iterate(
        &mut self,
        iteration: u32,
        before: &Population,
        images: &mut PrivateImages,
        voters: &mut Option<PrivateEmbeddings>,
    ) -> Result<Population, PeError> {
        self.folder.make(&self.folder.iteration(iteration))?;
        let parents_layout = self.layout(iteration - 1)?.clone();
        let layout = self.layout(iteration)?.clone();
        let noisy = self.release(iteration, before, &parents_layout, images, voters)?;
        let votes = threshold(&noisy.values(), self.run.settings.evolution.threshold);
        let parents = self.select(iteration, &parents_layout, &layout, &votes)?;
        if !self.folder.samples(iteration).exists() {
            let evolution = &self.run.settings.evolution;
            let origins = origins(
                &global(&parents_layout, &parents),
                evolution.next_variations,
                evolution.keep_selected,
            );
            let stage = format!("population {iteration}");
            self.breed(iteration, &layout, before, origins, &stage)?;
        }
        let folder = self.folder.iteration(iteration);
        let done = folder.join("bottom.png");
        if !done.exists() {
            for (most, name) in [(true, "top.png"), (false, "bottom.png")] {
                let values = noisy.values();
                let path = folder.join(name);
                pictures::by_votes(before, &parents_layout, &values, most, self.stamp, &path)?;
            }
        }
        self.finish(iteration, &layout)?;
        self.open(iteration)
    }

    /// The noisy histogram of `iteration`: from disk if it was released, else voted, charged, drawn, stored.
    fn release(
        &mut self,
        iteration: u32,
        population: &Population,
        layout: &ClassLayout,
        images: &mut PrivateImages,
        voters: &mut Option<PrivateEmbeddings>,
    ) -> Result<NoisyHistogram, PeError> {
        let path = self.folder.votes(iteration);
        if path.exists() {
            let noisy = read_votes(&path, population.len())?;
            self.ledger.confirm_stored(iteration, &noisy)?;
            self.state()?;
            return Ok(noisy);
        }
        let run = self.run;
        let evolution = &run.settings.evolution;
        // First what can fail for the data's sake, then what takes long.
        let voters = match voters {
            Some(voters) => voters,
            None => voters.insert(images.voters(
                run.embedder,
                &self.private,
                self.fingerprint,
                run.observer,
            )?),
        };
        let lookahead = Lookahead {
            generator: run.generator,
            embedder: run.embedder,
            seed: run.seed(),
            iteration,
            degree: evolution.lookahead_degree,
            variation_degree: self.degree(iteration),
        };
        let seen = lookahead.embed(
            population,
            self.folder.phase(iteration, "lookahead"),
            run.observer,
        )?;
        let ranges = layout.ranges();
        let samples = SampleEmbeddings {
            embeddings: &seen,
            class_ranges: &ranges,
        };
        let options = SearchOptions {
            k: evolution.nearest_neighbors as usize,
            metric: evolution.metric,
            device: run.device,
            cancellation: run.observer,
        };
        let counts = nn_histogram(&samples, voters, &options, run.observer);
        let counts = counts.map_err(|error| match error {
            VotingError::Cancelled(_) => PeError::Interrupted,
            other => other.into(),
        })?;
        let charge = self.ledger.charge(iteration)?;
        if charge.is_resumed() {
            self.say(&format!(
                "iteration {iteration}: charged before the run was interrupted, not charged again"
            ))?;
        }
        self.state()?;
        let (threshold_at, stamp) = (evolution.threshold, self.stamp);
        let noisy = release(counts, charge)?.store(
            &mut self.ledger,
            &self.private,
            &path,
            |noisy, file| write_votes(noisy, threshold_at, stamp, file),
        )?;
        let privacy = &run.plan.privacy;
        self.say(&format!(
            "iteration {iteration}: released a noisy histogram; epsilon so far {} at delta {:e} (one {}, {})",
            crate::privacy::round_up(privacy.epsilon_after(iteration, privacy.adjacency()), 3),
            privacy.delta(),
            privacy.unit(),
            privacy.adjacency(),
        ))?;
        Ok(noisy)
    }

    /// Each class' parents.
    fn select(
        &mut self,
        iteration: u32,
        before: &ClassLayout,
        after: &ClassLayout,
        votes: &[f64],
    ) -> Result<Vec<Vec<usize>>, PeError> {
        let evolution = &self.run.settings.evolution;
        let mut parents = Vec::new();
        for (class, (range, count)) in before.ranges().into_iter().zip(after.counts()).enumerate() {
            let mut stream = RngKey {
                seed: self.run.seed(),
                phase: Phase::Select,
                iteration,
                repeat: 0,
                sample: class as u64,
            }
            .rng();
            let chosen = select(
                votes.get(range).unwrap_or_default(),
                (count / evolution.next_fold()) as usize,
                evolution.selection,
                &mut stream,
            );
            if chosen.uniform_fallback {
                let fallback = self.fallback(iteration, class);
                if self.fallbacks.contains(&fallback) {
                    parents.push(chosen.indices);
                    continue;
                }
                let name = self.run.plan.classes.get(class).cloned();
                self.fallbacks.push(fallback);
                self.state()?;
                self.say(&format!(
                    "iteration {iteration}: every noisy count of class {} fell under the threshold; its parents are drawn uniformly (a lower evolution.threshold avoids this)",
                    name.unwrap_or_default()
                ))?;
            }
            parents.push(chosen.indices);
        }
        Ok(parents)
    }
}

/// Somebody's samples that can be an initial population.
pub struct InitialSamples {
    reader: SamplesReader<BufReader<File>>,
    /// The model's condition of each sample, if the file has them.
    conditions: Option<Vec<Condition>>,
}

impl InitialSamples {
    /// Opens the file and checks everything but the images' bytes. `stamp`: whether the run is stamped as
    /// not private, as it must be if the samples are.
    ///
    /// # Errors
    /// [`PeError::Npz`], or [`PeError::State`] saying what does not fit.
    pub fn open(
        path: &Path,
        layout: &ClassLayout,
        generator: &dyn Generator,
        stamp: bool,
    ) -> Result<Self, PeError> {
        let npz = npz_error(path);
        let refuse =
            |message: String| Err(PeError::State(format!("{}: {message}", path.display())));
        let mut reader = SamplesReader::open(path).map_err(&npz)?;
        let (height, width) = generator.image_size();
        let found = (reader.len() as u64, reader.height(), reader.width());
        if found != (layout.total(), height, width) {
            return refuse(format!(
                "{} images of {}x{} where {} of {height}x{width} were expected",
                found.0,
                found.1,
                found.2,
                layout.total(),
            ));
        }
        reader.verify().map_err(&npz)?;
        if reader.arrays().has("non_private") && !stamp {
            return refuse(
                "made without privacy, so nothing that comes of it is private (--non-private)"
                    .to_owned(),
            );
        }
        if reader.arrays().has("labels") && reader.labels().map_err(&npz)? != layout.labels() {
            return refuse(format!(
                "`labels` must be 0 for the first class' samples, then 1, and so on: {:?} of each \
                 were expected",
                layout.counts()
            ));
        }
        let mut conditions = None;
        if reader.arrays().has("conditions") {
            let (_, numbers) = reader.arrays().i64s("conditions").map_err(npz)?;
            let accepted: Vec<Condition> = numbers
                .iter()
                .filter_map(|number| u32::try_from(*number).ok().map(Condition))
                .filter(|condition| generator.supports_condition(*condition))
                .collect();
            if accepted.len() as u64 != layout.total() || accepted.len() != numbers.len() {
                return refuse(
                    "`conditions` does not give one label that the model knows for each sample"
                        .to_owned(),
                );
            }
            conditions = Some(accepted);
        }
        Ok(Self { reader, conditions })
    }
}

/// `lattice`: the release itself, exact; `noisy`: the same in votes; `votes`: above the threshold.
fn write_votes(
    noisy: &NoisyHistogram,
    threshold_at: f64,
    stamp: bool,
    file: &mut (impl io::Write + io::Seek),
) -> io::Result<()> {
    let values = noisy.values();
    let shape = [values.len()];
    let write = || -> Result<(), NpzError> {
        let mut writer = NpzWriter::new(file);
        writer.i64s("lattice", &shape, noisy.lattice())?;
        writer.f64s("noisy", &shape, &values)?;
        writer.f64s("votes", &shape, &threshold(&values, threshold_at))?;
        if stamp {
            writer.i64s("non_private", &[1], &[1])?;
        }
        writer.finish()?;
        Ok(())
    };
    write().map_err(io::Error::other)
}

fn read_votes(path: &Path, expected: usize) -> Result<NoisyHistogram, PeError> {
    let npz = npz_error(path);
    let (_, lattice) = NpzReader::open(path)
        .map_err(&npz)?
        .i64s("lattice")
        .map_err(npz)?;
    if lattice.len() != expected {
        return Err(PeError::State(format!(
            "{}: `lattice` has {} values where {expected} were expected",
            path.display(),
            lattice.len()
        )));
    }
    Ok(NoisyHistogram::from_lattice(lattice))
}
