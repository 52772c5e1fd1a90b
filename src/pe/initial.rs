//! The initial population: random images, variations of them, or the samples of a file.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::error::InitialSamplesError;
use super::offspring::{Offspring, generate_random, initial_derivations};
use super::{PeError, Run};
use crate::artifacts::{
    ArtifactsError, ClassLayout, GeneratedImages, Lineage, Origin, RunStore, WorkPhase,
    read_parameters,
};
use crate::generators::{Condition, ConditionRequest, Generated, Generator, Parameters};
use crate::images::SamplesReader;
use crate::streams::{self, RngKey};

/// RANDOM_API(N_syn): the images of the initial population.
///
/// With `evolution.initial_samples`, they are read from a file. With
/// `evolution.initial_variations`, a share of them are random and the others are variations of
/// those.
///
/// # Errors
/// See [`PeError`].
pub(super) fn random_images(
    run: &Run<'_>,
    store: &RunStore<'_>,
) -> Result<GeneratedImages, PeError> {
    let evolution = &run.plan.evolution;
    let layout = store.layout(0)?;
    if let Some(path) = &evolution.initial_samples {
        return import(run, store, layout, path);
    }
    let fold = evolution.initial_fold();
    let base_layout = ClassLayout::of_counts(layout.counts().iter().map(|n| n / fold).collect());
    let generate = || {
        let conditions = initial_conditions(run, &base_layout)?;
        generate_random(run, conditions, store.shards(0, WorkPhase::Random)?)
    };
    if fold == 1 {
        return generate();
    }
    let base = store.base_population(&base_layout, generate)?;
    let everyone: Vec<Vec<usize>> = base_layout
        .ranges()
        .into_iter()
        .map(Iterator::collect)
        .collect();
    let offspring = Offspring {
        run,
        iteration: 0,
        derivations: initial_derivations(&everyone, evolution.initial_variations),
    };
    offspring.vary(
        &base,
        store.shards(0, WorkPhase::Vary)?,
        "initial variations",
    )
}

/// Copies the samples of a file in place of random images.
fn import(
    run: &Run<'_>,
    store: &RunStore<'_>,
    layout: &ClassLayout,
    path: &Path,
) -> Result<GeneratedImages, PeError> {
    let InitialSamples {
        mut reader,
        conditions,
        parameters,
    } = InitialSamples::open(path, layout, run.generator, store.non_private)?;
    let shards = store.shards(0, WorkPhase::Import)?;
    let step = run.generator.batch_size().max(1);
    for start in (0..reader.len()).step_by(step) {
        let range = start..(start + step).min(reader.len());
        let images = reader.read(range.clone());
        let images = images.map_err(ArtifactsError::npz(path))?;
        let samples = match parameters.get(range.clone()) {
            Some(parameters) => Generated::new(images, parameters.to_vec())?,
            None => images.into(),
        };
        shards.write_images(&range, &samples)?;
    }
    let lineage = |index| Lineage::first(Origin::Initial, index);
    Ok(GeneratedImages {
        shards,
        lineages: (0..reader.len()).map(lineage).collect(),
        conditions: match conditions {
            Some(conditions) => conditions,
            None => initial_conditions(run, layout)?,
        },
    })
}

/// Requests the public condition of each sample of an initial population.
fn initial_conditions(run: &Run<'_>, layout: &ClassLayout) -> Result<Vec<Condition>, PeError> {
    let request = |(sample, label): (usize, i64)| ConditionRequest {
        class: run
            .plan
            .classes
            .get(label as usize)
            .map(String::as_str)
            .filter(|_| run.data.class_conditional),
        rng_key: RngKey {
            seed: run.plan.evolution.seed,
            phase: streams::Phase::Condition,
            iteration: 0,
            repeat: 0,
            sample: sample as u64,
        },
    };
    let labels = layout.labels().into_iter().enumerate();
    let requests: Vec<_> = labels.map(request).collect();
    Ok(run.generator.initial_conditions(&requests)?)
}

/// A file of samples that can be an initial population.
pub struct InitialSamples {
    reader: SamplesReader<BufReader<File>>,
    /// The condition of each sample, if the file has them.
    conditions: Option<Vec<Condition>>,
    /// The parameters of each sample, or nothing if the file has none.
    parameters: Vec<Parameters>,
}

impl InitialSamples {
    /// Opens the file and checks everything, the checksum included. `non_private` says whether
    /// the run is marked as non-private, which it must be if the samples are.
    ///
    /// # Errors
    /// [`InitialSamplesError`].
    pub fn open(
        path: &Path,
        layout: &ClassLayout,
        generator: &dyn Generator,
        non_private: bool,
    ) -> Result<Self, InitialSamplesError> {
        let npz = |source| InitialSamplesError::Npz {
            path: path.to_owned(),
            cause: source,
        };
        let path = || path.to_owned();
        let mut reader = SamplesReader::open(&path()).map_err(npz)?;
        let (height, width) = generator.image_size();
        let expected = (layout.total(), height, width);
        let found = (reader.len() as u64, reader.height(), reader.width());
        if found != expected {
            return Err(InitialSamplesError::Shape {
                path: path(),
                found,
                expected,
            });
        }
        reader.verify().map_err(npz)?;
        if reader.arrays().has("non_private") && !non_private {
            return Err(InitialSamplesError::NonPrivate { path: path() });
        }
        if reader.arrays().has("labels") && reader.labels().map_err(npz)? != layout.labels() {
            return Err(InitialSamplesError::Labels {
                path: path(),
                expected: layout.counts().to_vec(),
            });
        }
        let mut conditions = None;
        if reader.arrays().has("conditions") {
            let (_, numbers) = reader.arrays().i64s("conditions").map_err(npz)?;
            let supported: Vec<Condition> = numbers
                .iter()
                .filter_map(|number| u32::try_from(*number).ok().map(Condition))
                .filter(|condition| condition.0 < generator.num_conditions())
                .collect();
            if supported.len() as u64 != layout.total() || supported.len() != numbers.len() {
                return Err(InitialSamplesError::Conditions { path: path() });
            }
            conditions = Some(supported);
        }
        let parameters = read_parameters(&path(), &mut reader);
        let parameters = parameters.map_err(|error| InitialSamplesError::Parameters {
            message: error.to_string(),
        })?;
        Ok(Self {
            reader,
            conditions,
            parameters,
        })
    }

    /// Refuses samples that the model cannot vary: without parameters, if it varies parameters
    /// only, or with parameters of fonts or parts that it does not have.
    ///
    /// # Errors
    /// [`InitialSamplesError::NoParameters`] or [`InitialSamplesError::Parameters`].
    pub fn check_parameters(
        &self,
        path: &Path,
        generator: &dyn Generator,
        needs_parameters: bool,
    ) -> Result<(), InitialSamplesError> {
        let lacks = |parameters: &Parameters| parameters.is_none();
        let is_missing = self.parameters.is_empty() || self.parameters.iter().any(lacks);
        if needs_parameters && is_missing {
            return Err(InitialSamplesError::NoParameters {
                path: path.to_owned(),
            });
        }
        let conditions = self.conditions.iter().flatten();
        for (sample, (parameters, condition)) in self.parameters.iter().zip(conditions).enumerate()
        {
            generator
                .check_parent(*condition, parameters)
                .map_err(|error| InitialSamplesError::Parameters {
                    message: format!("{}: sample {sample}: {error}", path.display()),
                })?;
        }
        Ok(())
    }
}
