//! A classifier trained on samples, tested on the reference. It never sees the reference before the test.

use super::evaluator::{
    CHUNK, Evaluator, MetricResult, PreparedReference, ReferenceSource, SampleSource,
};
use crate::embedders::Embeddings;
use crate::images::ImageBatch;
use crate::metrics::downstream::{
    Accuracy, ClassifierKind, Cnn, CnnConfig, DownstreamError, LabeledImages, LogisticConfig,
    LogisticRegression, Tally,
};
use crate::metrics::{MetricKind, MetricOutput, MetricValue, MetricsError, missing_features};
use crate::pe::PeError;
use crate::privacy::Sensitive;
use crate::progress::Unit;

/// What a classifier learns from, beside vectors.
pub struct Training {
    /// The class of each sample, as a place among the reference's classes.
    pub labels: Vec<u32>,
    /// All samples, for a classifier of pixels.
    pub images: Option<ImageBatch>,
}

/// What each trained classifier says of each reference image.
type Answers = Vec<Vec<u32>>;

impl Evaluator<'_> {
    /// Trains on samples and tests on the reference.
    ///
    /// # Errors
    /// See [`PeError`].
    pub(super) fn downstream(
        &mut self,
        samples: &SampleSource<'_>,
        vectors: Option<&Embeddings>,
        training: &Training,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), PeError> {
        let metric = MetricKind::Downstream;
        let unprepared = || MetricsError::from(missing_features(metric));
        let against = self.against.as_ref().ok_or_else(unprepared)?;
        let classes = against.classes().ok_or_else(unprepared)?.len();
        let (config, images) = (self.evaluation.config, against.images());
        let figure = |predicted: &Answers, labels: &[u32]| -> Result<MetricOutput, MetricsError> {
            let accuracy = accuracy(predicted, labels)?;
            Ok(MetricOutput::from(vec![MetricValue {
                name: "downstream-accuracy",
                value: accuracy.mean().unwrap_or(f64::NAN),
                interval: None,
                samples: training.labels.len(),
                reference: images.into(),
                details: details(config.downstream.classifier, &accuracy),
            }]))
        };
        let found = match config.downstream.classifier {
            ClassifierKind::Logistic => {
                let vectors = vectors.ok_or_else(unprepared)?;
                let settings = LogisticConfig::default();
                let model = LogisticRegression::fit(vectors, &training.labels, classes, &settings)
                    .map_err(MetricsError::from)?;
                if self.known.is_none() {
                    self.known = Some(self.known(None)?);
                }
                let test = |vectors: Option<&Embeddings>| -> Result<Answers, MetricsError> {
                    let vectors = vectors.ok_or_else(unprepared)?;
                    Ok(vec![model.predict(vectors)?])
                };
                match (&self.known, &self.against) {
                    (
                        Some(PreparedReference::Private(reference)),
                        Some(ReferenceSource::Private(of, _)),
                    ) => {
                        let answers = reference.try_map_ref(|known| test(known.vectors()))?;
                        MetricResult::Private(private(answers, of.labels(), figure)?)
                    }
                    (Some(PreparedReference::Public(known)), Some(ReferenceSource::Public(of))) => {
                        MetricResult::Public(figure(&test(known.vectors())?, of.labels())?)
                    }
                    _ => return Err(unprepared().into()),
                }
            }
            ClassifierKind::Cnn => {
                let pixels = training.images.as_ref().ok_or_else(unprepared)?;
                let models = self.networks(LabeledImages {
                    images: pixels,
                    labels: &training.labels,
                    classes,
                })?;
                let observer = self.evaluation.observer;
                let test = |answers: &mut Answers, batch: &ImageBatch| {
                    for (answers, model) in answers.iter_mut().zip(&models) {
                        answers.extend(model.predict(batch)?);
                    }
                    Ok::<_, MetricsError>(())
                };
                let mut answers: Answers = vec![Vec::new(); models.len()];
                match &mut self.against {
                    Some(ReferenceSource::Private(of, fingerprint)) => {
                        let mut answers = Sensitive::new(answers);
                        of.each(fingerprint, "testing", observer, |batch| {
                            Ok::<_, PeError>(
                                answers.try_extend_with(batch, |all, batch| test(all, &batch))?,
                            )
                        })?;
                        MetricResult::Private(private(answers, of.labels(), figure)?)
                    }
                    Some(ReferenceSource::Public(of)) => {
                        of.for_each_batch(CHUNK, |batch| {
                            test(&mut answers, &batch)?;
                            observer.end_if_cancelled().map_err(PeError::from)
                        })?;
                        MetricResult::Public(figure(&answers, of.labels())?)
                    }
                    _ => return Err(unprepared().into()),
                }
            }
        };
        self.put(samples, metric, &found, None, show)
    }

    /// A network for each seed.
    fn networks(&self, set: LabeledImages<'_>) -> Result<Vec<Cnn>, PeError> {
        let (config, observer) = (self.evaluation.config, self.evaluation.observer);
        let settings = CnnConfig::default();
        let seeds = config.downstream.seeds;
        let train = |run: u32| {
            observer.begin(
                &format!("training, seed {} of {seeds}", run + 1),
                Some(settings.epochs as u64),
                Unit::Steps,
            );
            let trained = Cnn::train(
                &settings,
                set,
                config.seed.wrapping_add(u64::from(run)),
                self.evaluation.device,
                observer,
            );
            observer.end();
            Ok(trained.map_err(MetricsError::from)?)
        };
        (0..seeds).map(train).collect()
    }
}

/// Compares answers with labels behind the wall.
fn private(
    answers: Sensitive<Answers>,
    labels: &Sensitive<Vec<u32>>,
    figure: impl Fn(&Answers, &[u32]) -> Result<MetricOutput, MetricsError>,
) -> Result<Sensitive<MetricOutput>, MetricsError> {
    let labels = labels.map_ref(Vec::clone);
    let both = answers.zip(labels, |answers, labels| (answers, labels));
    both.try_map(|(answers, labels)| figure(&answers, &labels))
}

fn accuracy(answers: &Answers, labels: &[u32]) -> Result<Accuracy, DownstreamError> {
    let run = |answers: &Vec<u32>| {
        let mut tally = Tally::default();
        tally.add(answers, labels)?;
        tally.accuracy().ok_or(DownstreamError::Empty)
    };
    Ok(Accuracy {
        runs: answers.iter().map(run).collect::<Result<_, _>>()?,
        test_images: labels.len(),
    })
}

fn details(classifier: ClassifierKind, accuracy: &Accuracy) -> String {
    match (classifier, accuracy.standard_deviation()) {
        (ClassifierKind::Logistic, _) => {
            "logistic regression on the embeddings; the same for every seed".to_owned()
        }
        (ClassifierKind::Cnn, None) => "cnn on pixels; 1 seed".to_owned(),
        (ClassifierKind::Cnn, Some(deviation)) => format!(
            "cnn on pixels; mean of {} seeds; standard deviation {deviation:.6}",
            accuracy.runs.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_are_of_each_seed() {
        let answers = vec![vec![0, 1, 1, 0], vec![0, 0, 0, 0]];
        let found = accuracy(&answers, &[0, 1, 1, 1]).unwrap();
        assert_eq!(found.runs, [0.75, 0.25]);
        let text = details(ClassifierKind::Cnn, &found);
        assert!(
            text.contains("mean of 2 seeds; standard deviation 0.353553"),
            "{text}"
        );
        assert!(accuracy(&answers, &[0]).is_err());
    }
}
