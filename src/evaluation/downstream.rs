//! Downstream accuracy: a classifier is trained on samples and tested on the reference, which it
//! never sees before the test.

use super::evaluator::Evaluator;
use super::reference::ReferenceSource;
use super::{EvaluationError, Guarded, SampleSetId};
use crate::embedders::Embeddings;
use crate::images::ImageBatch;
use crate::metrics::downstream::{
    Accuracy, AccuracyCounter, ClassifierKind, Cnn, CnnConfig, DownstreamError, LabeledImages,
    LogisticConfig, LogisticRegression, predict_nearest,
};
use crate::metrics::{MetricKind, MetricOutput, MetricValue, MetricsError, missing_features};
use crate::progress::Unit;

/// Training set of a classifier, beside the feature vectors.
pub struct Training {
    /// Class of each sample, as an index into the classes of the reference.
    pub labels: Vec<u32>,
    /// All samples, for a classifier of pixels.
    pub images: Option<ImageBatch>,
}

/// Predicted classes of the reference images, one list for each trained classifier.
type Predictions = Vec<Vec<u32>>;

impl Evaluator<'_> {
    /// Trains on samples, tests on the reference, and records the accuracy.
    ///
    /// # Errors
    /// See [`EvaluationError`].
    pub(super) fn downstream(
        &mut self,
        samples: &SampleSetId,
        vectors: Option<&Embeddings>,
        training: &Training,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), EvaluationError> {
        let kind = self.evaluation.config.downstream.classifier;
        let predictions = match kind {
            ClassifierKind::Logistic => self.predict_by_regression(vectors, training)?,
            ClassifierKind::Cnn => self.predict_by_networks(training)?,
            ClassifierKind::NearestNeighbor => self.predict_by_neighbors(vectors, training)?,
        };
        let source = self.labeled_source()?;
        let reference = source.count().into();
        let labels = source.labels().ok_or_else(unprepared)?;
        let output = predictions.zip(labels).try_map(
            |(predictions, labels)| -> Result<MetricOutput, MetricsError> {
                let accuracy = accuracy(&predictions, &labels)?;
                Ok(MetricOutput::from(vec![MetricValue {
                    name: "downstream-accuracy",
                    value: accuracy.mean().unwrap_or(f64::NAN),
                    interval: None,
                    samples: training.labels.len(),
                    reference,
                    details: details(kind, &accuracy),
                }]))
            },
        )?;
        self.record(samples, MetricKind::Downstream, &output, None, show)
    }

    /// Returns the reference, which has labeled images.
    fn labeled_source(&mut self) -> Result<&mut ReferenceSource, EvaluationError> {
        Ok(self.source.as_mut().ok_or_else(unprepared)?)
    }

    /// Number of classes of the reference.
    fn classes(&mut self) -> Result<usize, EvaluationError> {
        let classes = self.labeled_source()?.classes().map(<[_]>::len);
        Ok(classes.ok_or_else(unprepared)?)
    }

    fn predict_by_regression(
        &mut self,
        vectors: Option<&Embeddings>,
        training: &Training,
    ) -> Result<Guarded<Predictions>, EvaluationError> {
        let classes = self.classes()?;
        let vectors = vectors.ok_or_else(unprepared)?;
        let settings = LogisticConfig::default();
        let model = LogisticRegression::fit(vectors, &training.labels, classes, &settings)
            .map_err(MetricsError::from)?;
        let predictions = self.reference(None)?.try_map_ref(|reference| {
            let vectors = reference.vectors().ok_or_else(unprepared)?;
            Ok::<_, MetricsError>(vec![model.predict(vectors)?])
        })?;
        Ok(predictions)
    }

    fn predict_by_neighbors(
        &mut self,
        vectors: Option<&Embeddings>,
        training: &Training,
    ) -> Result<Guarded<Predictions>, EvaluationError> {
        let vectors = vectors.ok_or_else(unprepared)?;
        let (device, observer) = (self.evaluation.device, self.evaluation.observer);
        let predictions = self.reference(None)?.try_map_ref(|reference| {
            let queries = reference.vectors().ok_or_else(unprepared)?;
            let predicted = predict_nearest(vectors, &training.labels, queries, device, observer)?;
            Ok::<_, MetricsError>(vec![predicted])
        })?;
        Ok(predictions)
    }

    fn predict_by_networks(
        &mut self,
        training: &Training,
    ) -> Result<Guarded<Predictions>, EvaluationError> {
        let observer = self.evaluation.observer;
        let classes = self.classes()?;
        let networks = self.train_networks(LabeledImages {
            images: training.images.as_ref().ok_or_else(unprepared)?,
            labels: &training.labels,
            classes,
        })?;
        let none = Guarded::Public(vec![Vec::new(); networks.len()]);
        let source = self.labeled_source()?;
        let predictions = source.fold_images("testing", observer, none, |predictions, batch| {
            for (predictions, network) in predictions.iter_mut().zip(&networks) {
                predictions.extend(network.predict(batch)?);
            }
            Ok(())
        })?;
        Ok(predictions.ok_or_else(unprepared)?)
    }

    /// Trains one network for each seed.
    fn train_networks(&self, set: LabeledImages<'_>) -> Result<Vec<Cnn>, EvaluationError> {
        let (config, observer) = (self.evaluation.config, self.evaluation.observer);
        let settings = CnnConfig::default();
        let seeds = config.downstream.seeds;
        let train = |index: u32| {
            let stage = format!("training, seed {} of {seeds}", index + 1);
            observer.begin(&stage, Some(settings.epochs as u64), Unit::Steps);
            let seed = config.seed.wrapping_add(u64::from(index));
            let trained = Cnn::train(&settings, set, seed, self.evaluation.device, observer);
            observer.end();
            Ok(trained.map_err(MetricsError::from)?)
        };
        (0..seeds).map(train).collect()
    }
}

fn unprepared() -> MetricsError {
    missing_features(MetricKind::Downstream).into()
}

fn accuracy(predictions: &Predictions, labels: &[u32]) -> Result<Accuracy, DownstreamError> {
    let run = |predictions: &Vec<u32>| {
        let mut counter = AccuracyCounter::default();
        counter.add(predictions, labels)?;
        counter.accuracy().ok_or(DownstreamError::Empty)
    };
    Ok(Accuracy {
        runs: predictions.iter().map(run).collect::<Result<_, _>>()?,
        test_images: labels.len(),
    })
}

fn details(classifier: ClassifierKind, accuracy: &Accuracy) -> String {
    match (classifier, accuracy.standard_deviation()) {
        (ClassifierKind::Logistic, _) => {
            "logistic regression on the embeddings; the same for every seed".to_owned()
        }
        (ClassifierKind::NearestNeighbor, _) => {
            "class of the nearest sample in the space of the embeddings".to_owned()
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
    fn accuracy_is_computed_for_each_seed() {
        let predictions = vec![vec![0, 1, 1, 0], vec![0, 0, 0, 0]];
        let found = accuracy(&predictions, &[0, 1, 1, 1]).unwrap();
        assert_eq!(found.runs, [0.75, 0.25]);
        let text = details(ClassifierKind::Cnn, &found);
        assert!(
            text.contains("mean of 2 seeds; standard deviation 0.353553"),
            "{text}"
        );
        assert!(accuracy(&predictions, &[0]).is_err());
    }
}
