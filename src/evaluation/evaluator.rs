//! Computes the metrics of sets of samples and writes them to their destination.

use std::path::Path;

use super::context::{CHUNK, Evaluation};
use super::reference::{ReferenceSource, RunImages};
use super::store::{ResultStore, Row, RowsId};
use super::{EvaluationError, Guarded, SampleSetId};
use crate::artifacts::Population;
use crate::metrics::features::{Features, SampleFeatures, fid_subsample};
use crate::metrics::table::{Comparison, settings_key};
use crate::metrics::{
    ComparedSets, EvaluationConfig, FeatureSet, MetricContext, MetricKind, MetricOutput, Reference,
    measure,
};
use crate::privacy::{Fingerprint, Sensitive};
use crate::progress::Unit;

/// Evaluates sets of samples against one reference.
pub struct Evaluator<'a> {
    pub(super) evaluation: &'a Evaluation<'a>,
    /// `None`: the private images of the run.
    pub(super) source: Option<ReferenceSource>,
    /// Features of the reference, once a metric needed them.
    reference: Option<Guarded<Reference>>,
    pub(super) store: ResultStore,
    /// Output of the last check for memorization.
    pub(super) memorization: Option<Guarded<MetricOutput>>,
}

impl<'a> Evaluator<'a> {
    /// Prepares an evaluation against `source`, or against the private images of a run. Results go
    /// to the folder `root`; without one, they only go to the observer.
    ///
    /// # Errors
    /// [`EvaluationError::InUse`] when another process writes metrics there,
    /// [`EvaluationError::Privacy`] when `private/` cannot be used.
    pub fn new(
        evaluation: &'a Evaluation<'a>,
        source: Option<ReferenceSource>,
        root: Option<&Path>,
    ) -> Result<Self, EvaluationError> {
        let public = source.as_ref().is_some_and(ReferenceSource::is_public);
        Ok(Self {
            evaluation,
            source,
            reference: None,
            store: ResultStore::open(root, public)?,
            memorization: None,
        })
    }

    /// Returns true if the reference is private.
    pub(crate) fn is_private(&self) -> bool {
        !self.source.as_ref().is_some_and(ReferenceSource::is_public)
    }

    /// Evaluates a population of a run by the metrics that were not computed before, in the
    /// configured order. The lines go to the observer: marked, if the reference is private.
    ///
    /// A failure that a private reference may have caused ends neither the evaluation nor the run:
    /// the number of releases, which is published, must not depend on private images. It is
    /// reported like a value, with the mark, and the metric has no row; a resumed run computes it
    /// again.
    ///
    /// # Errors
    /// See [`EvaluationError`]; with a private reference, those about samples and the result folder
    /// only.
    pub(crate) fn population(
        &mut self,
        number: u32,
        population: &Population,
        run: RunImages<'_>,
    ) -> Result<(), EvaluationError> {
        let samples = SampleSetId::population(number);
        let metrics = self.missing_metrics(&samples, run.fingerprint)?;
        if metrics.is_empty() {
            return Ok(());
        }
        let Evaluation {
            config, observer, ..
        } = *self.evaluation;
        let total = population.len();
        let times = fid_subsample(total, config.num_fid_samples, config.seed, number);
        let set = metrics.iter().map(|metric| metric.sample_features());
        let set = set.fold(FeatureSet::default(), FeatureSet::union);
        let mut features = SampleFeatures::new(self.evaluation.embedder, set, times);
        observer.begin("embedding samples", Some(total as u64), Unit::Steps);
        for start in (0..total).step_by(CHUNK) {
            let end = (start + CHUNK).min(total);
            features.push(&population.images(start..end)?)?;
            observer.advance(end as u64);
            observer.end_if_cancelled()?;
        }
        observer.end();
        let features = features.finish()?;
        let show = &mut |line: &str| observer.message(line);
        let fingerprint = run.fingerprint;
        if let Err(error) = self.reference(Some(run)) {
            let what = format!("population {number}: the reference could not be evaluated");
            return self.report_private(&what, error, show);
        }
        for &metric in &metrics {
            let computed = self.measure_one(metric, &features);
            match computed {
                Ok(output) => {
                    self.record(&samples, metric, &output, Some(fingerprint), show)?;
                }
                Err(error) => {
                    let what = format!("population {number}: {metric} could not be computed");
                    self.report_private(&what, error, show)?;
                }
            }
        }
        Ok(())
    }

    /// Reports a failure that a private reference may have caused, and returns every other one.
    fn report_private(
        &self,
        what: &str,
        error: EvaluationError,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), EvaluationError> {
        // A failure inside of a stage has not ended it.
        self.evaluation.observer.end();
        if !self.is_private() || !error.may_depend_on_reference() {
            return Err(error);
        }
        let line = format!("{what}, and the run continues without it: {error}");
        self.store.show_private(&Sensitive::new(line), show);
        Ok(())
    }

    /// Returns the metrics whose rows were not written before.
    fn missing_metrics(
        &mut self,
        samples: &SampleSetId,
        run: &Sensitive<Fingerprint>,
    ) -> Result<Vec<MetricKind>, EvaluationError> {
        let mut missing = Vec::new();
        for &metric in &self.evaluation.config.metrics {
            let settings = self.settings(metric)?;
            let id = self.rows_id(samples, metric, settings, Some(run));
            if !self.store.has(&id)? {
                missing.push(metric);
            }
        }
        Ok(missing)
    }

    /// Returns the digest of everything public that the rows of a metric depend on, beside the
    /// samples.
    pub(super) fn settings(&mut self, metric: MetricKind) -> Result<String, EvaluationError> {
        let Evaluation {
            config, observer, ..
        } = *self.evaluation;
        let reference = match &mut self.source {
            Some(source) => source.public_digest(observer)?,
            None => None,
        };
        Ok(settings_key(&serde_json::json!([
            metric.name(),
            config.identity(metric),
            self.evaluation.space.digest,
            config.reference,
            reference,
        ])))
    }

    fn rows_id<'i>(
        &'i self,
        samples: &'i SampleSetId,
        metric: MetricKind,
        settings: String,
        run: Option<&'i Sensitive<Fingerprint>>,
    ) -> RowsId<'i> {
        RowsId {
            samples,
            metric,
            settings,
            fingerprint: match &self.source {
                Some(source) => source.fingerprint(),
                None => run,
            },
        }
    }

    /// Returns the features of the reference; the first call computes or reads them.
    pub(super) fn reference(
        &mut self,
        run: Option<RunImages<'_>>,
    ) -> Result<&Guarded<Reference>, EvaluationError> {
        let reference = match self.reference.take() {
            Some(reference) => reference,
            None => {
                let features = match (&mut self.source, run) {
                    (Some(source), _) => source.features(self.evaluation, &self.store)?,
                    (None, Some(run)) => run.features(self.evaluation, &self.store)?,
                    (None, None) => return Err(EvaluationError::NoReference),
                };
                features.try_map(Reference::new)?
            }
        };
        Ok(self.reference.insert(reference))
    }

    /// Computes a metric of a file of samples, and records it.
    pub(super) fn measure(
        &mut self,
        samples: &SampleSetId,
        metric: MetricKind,
        features: &Features,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), EvaluationError> {
        let output = self.measure_one(metric, features)?;
        self.record(samples, metric, &output, None, show)?;
        if metric == MetricKind::Memorization {
            self.memorization = Some(output);
        }
        Ok(())
    }

    /// Computes a metric against the reference.
    fn measure_one(
        &mut self,
        metric: MetricKind,
        features: &Features,
    ) -> Result<Guarded<MetricOutput>, EvaluationError> {
        let evaluation = self.evaluation;
        let observer = evaluation.observer;
        observer.end_if_cancelled()?;
        let context = MetricContext {
            config: evaluation.config,
            classifier: evaluation.classifier.as_ref(),
            device: evaluation.device,
            cancellation: observer,
        };
        // The number of private images of the run is known behind the wall only.
        let known = self.source.as_ref().map(ReferenceSource::count);
        let reference = self.reference(None)?;
        observer.begin(metric.name(), Some(1), Unit::Steps);
        let output = reference.try_map_ref(|reference| {
            let sets = ComparedSets {
                samples: features,
                reference,
                reference_images: known.unwrap_or(Some(reference.count())),
            };
            measure(metric, sets, &context)
        });
        observer.end();
        Ok(output?)
    }

    /// Writes and shows the output of a metric. `run` is the fingerprint of the run's private
    /// images.
    pub(super) fn record(
        &mut self,
        samples: &SampleSetId,
        metric: MetricKind,
        output: &Guarded<MetricOutput>,
        run: Option<&Sensitive<Fingerprint>>,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), EvaluationError> {
        let settings = self.settings(metric)?;
        let comparison = Comparison {
            population: samples.name().to_owned(),
            reference: reference_text(self.evaluation.config),
            space: &self.evaluation.space,
            settings: settings.clone(),
        };
        let rows = output.map_ref(|output| -> Vec<Row> {
            let rows = output.values.iter().map(|value| Row {
                csv: value.row(&comparison),
                line: value.line(&comparison),
            });
            rows.collect()
        });
        let id = self.rows_id(samples, metric, settings, run);
        self.store.write(&id, &rows, show)
    }
}

/// Name of the reference in a row.
fn reference_text(config: &EvaluationConfig) -> &str {
    match config.path() {
        Some(_) => &config.reference,
        None => "private images",
    }
}

#[cfg(test)]
#[path = "evaluator_tests.rs"]
mod tests;
