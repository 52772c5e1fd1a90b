//! Computes metrics and writes them where they may be written.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use candle_core::Device;
use sha2::{Digest, Sha256};

use super::Training;
use crate::artifacts::{ArtifactsError, MetricsLock, Population};
use crate::atomic;
use crate::dataset::PrivateImages;
use crate::embedders::Embedder;
use crate::embedders::embed_all;
use crate::images::ImageSource;
use crate::metrics::features::{FeatureAccumulator, Features, SampleFeatures, fid_subsample};
use crate::metrics::inception_score::Classifier;
use crate::metrics::table::{Comparison, FeatureSpace, csv, merged, rows_of, settings_key};
use crate::metrics::{
    ComparedSets, EvaluationConfig, FeatureSet, MetricContext, MetricKind, MetricOutput,
    MetricsError, Reference, Statistics, measure,
};
use crate::pe::PeError;
use crate::privacy::{
    Fingerprint, PrivateEvaluationConsent, PrivateFolder, Sensitive, print_marked_private,
    sha256_hex,
};
use crate::progress::{Observer, Unit};

/// The file of all rows.
pub const METRICS: &str = "metrics.csv";
/// Images of a public reference read at a time.
pub(super) const CHUNK: usize = 512;

/// An evaluation about to happen: everything is opened and checked.
pub struct Evaluation<'a> {
    /// Which figures.
    pub config: &'a EvaluationConfig,
    /// The space of the figures.
    pub embedder: &'a dyn Embedder,
    /// The same in words.
    pub space: FeatureSpace,
    /// Where a figure needs one.
    pub classifier: Option<Classifier>,
    /// Whether it is the vote's, so that the private images need not be embedded twice.
    pub shares_vote: bool,
    /// Where neighbours are searched.
    pub device: &'a Device,
    /// Who watches.
    pub observer: &'a dyn Observer,
}

/// Images or statistics that samples are compared with, and who may see what comes of it.
pub enum ReferenceSource {
    /// Private images, with the fingerprint of their check.
    Private(Box<PrivateImages>, Sensitive<Fingerprint>),
    /// Statistics of private images, with their fingerprint.
    PrivateStatistics(Box<Statistics>, Sensitive<Fingerprint>),
    /// Images that the user declares public.
    Public(Box<ImageSource>),
    /// Statistics that the user declares public.
    PublicStatistics(Box<Statistics>),
}

/// The reference, ready to be compared with.
pub(super) enum PreparedReference {
    Private(Sensitive<Reference>),
    Public(Reference),
}

/// What a metric found, behind the wall unless the reference is public.
pub(super) enum MetricResult {
    Private(Sensitive<MetricOutput>),
    Public(MetricOutput),
}

/// A figure's row and line, written where the figure is known.
struct Row {
    row: String,
    line: String,
}

impl ReferenceSource {
    /// Images of the reference; `None` where a file of statistics does not say.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Private(images, _) => Some(images.len()),
            Self::Public(images) => Some(images.len()),
            Self::PrivateStatistics(statistics, _) | Self::PublicStatistics(statistics) => {
                statistics.count
            }
        }
    }

    /// A reference that is given as statistics, public or not.
    #[must_use]
    pub fn statistics(statistics: Statistics, public: bool) -> Self {
        let statistics = Box::new(statistics);
        if public {
            return Self::PublicStatistics(statistics);
        }
        let gaussian = &statistics.gaussian;
        let bytes =
            |numbers: &[f64]| -> Vec<u8> { numbers.iter().flat_map(|v| v.to_le_bytes()).collect() };
        let parts = [bytes(gaussian.mean()), bytes(&gaussian.covariance())];
        let fingerprint = Fingerprint::of(parts.iter().map(Vec::as_slice));
        Self::PrivateStatistics(statistics, Sensitive::new(fingerprint))
    }

    /// What a private reference's files are named by.
    fn fingerprint(&self) -> Option<&Sensitive<Fingerprint>> {
        match self {
            Self::Private(_, fingerprint) | Self::PrivateStatistics(_, fingerprint) => {
                Some(fingerprint)
            }
            Self::Public(_) | Self::PublicStatistics(_) => None,
        }
    }

    /// Class names of labelled images: declared public.
    #[must_use]
    pub fn classes(&self) -> Option<&[String]> {
        match self {
            Self::Private(images, _) => Some(images.classes()),
            Self::Public(images) => Some(images.classes()),
            Self::PrivateStatistics(..) | Self::PublicStatistics(_) => None,
        }
    }

    /// Images that vectors can be had of; `None` for statistics.
    #[must_use]
    pub fn images(&self) -> Option<usize> {
        match self {
            Self::Private(..) | Self::Public(_) => self.count(),
            Self::PrivateStatistics(..) | Self::PublicStatistics(_) => None,
        }
    }
}

/// The run's own private images, lent for the moment.
pub(crate) struct RunImages<'a> {
    pub images: &'a mut PrivateImages,
    pub fingerprint: &'a Sensitive<Fingerprint>,
    /// Where the vote's embeddings lie, if the vote is in the same space.
    pub vote: Option<&'a PrivateFolder>,
}

/// What is evaluated: where the samples are, and what they are called.
pub enum SampleSource<'a> {
    /// A population of a run.
    Population(u32, &'a Population),
    /// A file of samples, and its digest.
    File(&'a Path, &'a str),
}

/// Computes figures and puts them where they may be.
pub struct Evaluator<'a> {
    pub(super) evaluation: &'a Evaluation<'a>,
    /// `None`: the run's own images.
    pub(super) against: Option<ReferenceSource>,
    pub(super) known: Option<PreparedReference>,
    /// `None`: rows are not kept.
    pub(super) root: Option<PathBuf>,
    /// `private/` of the root, and `evaluation` in it.
    pub(super) private: Option<(PrivateFolder, PrivateFolder)>,
    asked: PrivateEvaluationConsent,
    /// Digest of a public reference.
    public_digest: Option<String>,
    /// What the last check for memorisation found.
    pub(super) closest: Option<MetricResult>,
    /// Held as long as figures may be written.
    _lock: Option<MetricsLock>,
}

impl<'a> Evaluator<'a> {
    /// Figures go into the folder `root`, or nowhere but to `observer`.
    ///
    /// # Errors
    /// [`PeError::State`] when another process writes figures there, [`PeError::Privacy`] when
    /// `private/` cannot be used.
    pub fn new(
        evaluation: &'a Evaluation<'a>,
        against: Option<ReferenceSource>,
        root: Option<&Path>,
    ) -> Result<Self, PeError> {
        let public = matches!(
            against,
            Some(ReferenceSource::Public(_) | ReferenceSource::PublicStatistics(_))
        );
        let lock = root.map(lock).transpose()?;
        let private = match root {
            Some(root) if !public => {
                let folder = PrivateFolder::create(root.join("private"))?;
                let inside = folder.inside("evaluation")?;
                Some((folder, inside))
            }
            _ => None,
        };
        Ok(Self {
            evaluation,
            against,
            known: None,
            root: root.map(Path::to_owned),
            private,
            asked: PrivateEvaluationConsent::given_by_owner(),
            public_digest: None,
            closest: None,
            _lock: lock,
        })
    }

    /// Evaluates what was not evaluated before, in the configured order. The observer gets the lines about
    /// a public reference, and the marked ones about a private one.
    ///
    /// # Errors
    /// See [`PeError`].
    pub(crate) fn population(
        &mut self,
        number: u32,
        population: &Population,
        mut run: Option<RunImages<'_>>,
    ) -> Result<(), PeError> {
        let samples = SampleSource::Population(number, population);
        let metrics = self.missing(&samples, &mut run)?;
        if metrics.is_empty() {
            return Ok(());
        }
        let times = fid_subsample(
            population.len(),
            self.evaluation.config.num_fid_samples,
            self.evaluation.config.seed,
            number,
        );
        let observer = self.evaluation.observer;
        let mut features =
            SampleFeatures::new(self.evaluation.embedder, of_samples(&metrics), times);
        let total = population.len();
        observer.begin("embedding samples", Some(total as u64), Unit::Steps);
        for start in (0..total).step_by(CHUNK) {
            let end = (start + CHUNK).min(total);
            features.push(&population.images(start..end)?)?;
            observer.advance(end as u64);
            observer.end_if_cancelled()?;
        }
        observer.end();
        let line = &mut |text: &str| observer.message(text);
        self.measure(&samples, &metrics, &features.finish()?, run, line)
    }

    /// Evaluates a file of samples, whose features were collected before. `show` gets the lines, marked
    /// where the reference is private. `training` is for [`MetricKind::Downstream`].
    ///
    /// # Errors
    /// See [`PeError`].
    pub fn file(
        &mut self,
        samples: &SampleSource<'_>,
        features: &Features,
        training: Option<&Training>,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), PeError> {
        for metric in self.evaluation.config.metrics.clone() {
            match (metric, training) {
                (MetricKind::Downstream, Some(training)) => {
                    self.downstream(samples, features.vectors.as_ref(), training, show)?;
                }
                _ => self.measure(samples, &[metric], features, None, show)?,
            }
        }
        Ok(())
    }

    /// The metrics whose rows are not there yet.
    fn missing(
        &mut self,
        samples: &SampleSource<'_>,
        run: &mut Option<RunImages<'_>>,
    ) -> Result<Vec<MetricKind>, PeError> {
        let mut missing = Vec::new();
        for metric in &self.evaluation.config.metrics {
            if !self.has(samples, *metric, run)? {
                missing.push(*metric);
            }
        }
        Ok(missing)
    }

    fn has(
        &mut self,
        samples: &SampleSource<'_>,
        metric: MetricKind,
        run: &mut Option<RunImages<'_>>,
    ) -> Result<bool, PeError> {
        let key = self.key(metric)?;
        if let Some((folder, inside)) = &self.private {
            let name = part(samples, metric, &key);
            let own = run.as_ref().map(|run| run.fingerprint);
            let data = self
                .against
                .as_ref()
                .map_or(own, ReferenceSource::fingerprint);
            let rows = match data {
                Some(data) => inside.read_keyed(&name, data, decode_rows)?,
                None => None,
            };
            return match rows {
                Some(rows) => {
                    // A process may have been killed between the part and the whole.
                    merge(folder, rows)?;
                    Ok(true)
                }
                None => Ok(false),
            };
        }
        let Some(root) = &self.root else {
            return Ok(false);
        };
        let path = root.join(METRICS);
        let rows = read_rows(&path)?;
        let (begin, end) = (format!("{},", samples.name()), format!(",{key}"));
        Ok(rows
            .iter()
            .any(|row| row.starts_with(&begin) && row.ends_with(&end)))
    }

    /// Tells the rows of one comparison from those of another. Of the reference, only what is public.
    pub(super) fn key(&mut self, metric: MetricKind) -> Result<String, PeError> {
        let config = self.evaluation.config;
        let reference = match &mut self.against {
            Some(ReferenceSource::Public(images)) => {
                if self.public_digest.is_none() {
                    self.public_digest = Some(digest(images, self.evaluation.observer)?);
                }
                self.public_digest.clone()
            }
            Some(ReferenceSource::PublicStatistics(statistics)) => Some(digest_of(statistics)),
            _ => None,
        };
        Ok(settings_key(&serde_json::json!([
            metric.name(),
            config.identity(metric),
            self.evaluation.space.digest,
            config.reference,
            reference,
        ])))
    }

    /// The reference with what the configured metrics need of it.
    pub(super) fn known(
        &mut self,
        run: Option<RunImages<'_>>,
    ) -> Result<PreparedReference, PeError> {
        let evaluation = self.evaluation;
        let needs = evaluation.config.reference_features();
        let (embedder, space) = (evaluation.embedder, &evaluation.space.digest);
        let cache = self.private.as_ref().map(|(_, inside)| inside);
        let prepare = |features: Sensitive<Features>| -> Result<PreparedReference, PeError> {
            Ok(PreparedReference::Private(
                features.try_map(Reference::new)?,
            ))
        };
        match (&mut self.against, run) {
            (None, Some(run)) => {
                let Some(vote) = run.vote else {
                    return prepare(run.images.features(
                        embedder,
                        space,
                        needs,
                        cache,
                        run.fingerprint,
                        evaluation.observer,
                    )?);
                };
                let (embedded, observer) = (run.fingerprint, evaluation.observer);
                let vectors = run.images.embeddings(embedder, vote, embedded, observer)?;
                prepare(vectors.try_map(|vectors| {
                    let mut collector = FeatureAccumulator::new(vectors.dimension(), needs);
                    collector.push(&vectors)?;
                    collector.finish("reference images")
                })?)
            }
            (None, None) => Err(PeError::State(
                "there is no reference to evaluate against".to_owned(),
            )),
            (Some(ReferenceSource::Private(images, fingerprint)), _) => prepare(images.features(
                embedder,
                space,
                needs,
                cache,
                fingerprint,
                evaluation.observer,
            )?),
            (Some(ReferenceSource::PrivateStatistics(statistics, _)), _) => {
                prepare(Sensitive::new(of_statistics(statistics)))
            }
            (Some(ReferenceSource::PublicStatistics(statistics)), _) => Ok(
                PreparedReference::Public(Reference::new(of_statistics(statistics))?),
            ),
            (Some(ReferenceSource::Public(images)), _) => {
                if self.public_digest.is_none() {
                    self.public_digest = Some(digest(images, evaluation.observer)?);
                }
                let digest = self.public_digest.clone().unwrap_or_default();
                let saved = self
                    .root
                    .as_ref()
                    .map(|root| root.join(reference_name(&digest, &evaluation.space)));
                Ok(PreparedReference::Public(Reference::new(public_features(
                    images,
                    evaluation,
                    needs,
                    saved.as_deref(),
                )?)?))
            }
        }
    }

    fn measure(
        &mut self,
        samples: &SampleSource<'_>,
        metrics: &[MetricKind],
        features: &Features,
        mut run: Option<RunImages<'_>>,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), PeError> {
        let evaluation = self.evaluation;
        let count = match (&self.against, &run) {
            (Some(against), _) => against.count(),
            (None, Some(run)) => Some(run.images.len()),
            (None, None) => None,
        };
        // What names the parts of a private reference, apart from what is lent for its features.
        let own = run.as_ref().map(|run| run.fingerprint);
        if self.known.is_none() {
            self.known = Some(self.known(run.take())?);
        }
        for &metric in metrics {
            evaluation.observer.end_if_cancelled()?;
            evaluation
                .observer
                .begin(metric.name(), Some(1), Unit::Steps);
            let with = MetricContext {
                config: evaluation.config,
                classifier: evaluation.classifier.as_ref(),
                device: evaluation.device,
                cancellation: evaluation.observer,
            };
            let find = |reference: &Reference| {
                let sets = ComparedSets {
                    samples: features,
                    reference,
                    reference_images: count,
                };
                measure(metric, sets, &with)
            };
            let found: Result<MetricResult, MetricsError> = match &self.known {
                Some(PreparedReference::Private(known)) => {
                    known.try_map_ref(find).map(MetricResult::Private)
                }
                Some(PreparedReference::Public(known)) => find(known).map(MetricResult::Public),
                None => continue,
            };
            evaluation.observer.end();
            let found = found?;
            self.put(samples, metric, &found, own, show)?;
            if metric == MetricKind::Memorization {
                self.closest = Some(found);
            }
        }
        Ok(())
    }

    /// Writes and shows what a metric found, where its reference lets it.
    pub(super) fn put(
        &mut self,
        samples: &SampleSource<'_>,
        metric: MetricKind,
        found: &MetricResult,
        own: Option<&Sensitive<Fingerprint>>,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), PeError> {
        let settings = self.key(metric)?;
        let name = part(samples, metric, &settings);
        let of = Comparison {
            population: samples.name(),
            reference: reference_text(self.evaluation.config),
            space: &self.evaluation.space,
            settings,
        };
        let write = |found: &MetricOutput| -> Vec<Row> {
            let written = found.values.iter().map(|figure| Row {
                row: figure.row(&of),
                line: figure.line(&of),
            });
            written.collect()
        };
        match found {
            MetricResult::Private(found) => {
                let figures = found.map_ref(write);
                if let Some((folder, inside)) = &self.private {
                    let rows = figures.map_ref(|all| {
                        all.iter()
                            .map(|figure| figure.row.clone())
                            .collect::<Vec<_>>()
                    });
                    let data = self
                        .against
                        .as_ref()
                        .map_or(own, ReferenceSource::fingerprint);
                    if let Some(data) = data {
                        inside.write_keyed(&name, data, &rows, encode_rows)?;
                    }
                    merge(folder, rows)?;
                }
                let lines = |all: &Vec<Row>| all.iter().map(|figure| figure.line.clone()).collect();
                print_marked_private(&self.asked, &figures, lines, show);
            }
            MetricResult::Public(found) => {
                let figures = write(found);
                if let Some(root) = &self.root {
                    let path = root.join(METRICS);
                    let rows = figures.iter().map(|figure| figure.row.clone()).collect();
                    let rows = merged(read_rows(&path)?, rows);
                    atomic::write(&path, csv(&rows).as_bytes()).map_err(PeError::io(&path))?;
                }
                figures.iter().for_each(|figure| show(&figure.line));
            }
        }
        Ok(())
    }
}

impl SampleSource<'_> {
    /// The first field of a row.
    fn name(&self) -> String {
        match self {
            Self::Population(number, _) => number.to_string(),
            Self::File(path, _) => path.display().to_string(),
        }
    }

    /// What names a file.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Population(number, _) => number.to_string(),
            Self::File(_, digest) => digest.chars().take(16).collect(),
        }
    }
}

/// The reference as a row names it.
fn reference_text(config: &EvaluationConfig) -> &str {
    match config.path() {
        Some(_) => &config.reference,
        None => "private images",
    }
}

/// What the figures need of the samples.
fn of_samples(metrics: &[MetricKind]) -> FeatureSet {
    let needs = metrics.iter().map(|metric| metric.sample_features());
    needs.fold(FeatureSet::default(), FeatureSet::union)
}

/// The name of a file of rows.
fn part(samples: &SampleSource<'_>, metric: MetricKind, key: &str) -> String {
    format!("figures-{}-{metric}-{key}", samples.key())
}

/// The name under which a public reference's statistics are kept: its images, their size, the embedder.
fn reference_name(digest: &str, space: &FeatureSpace) -> String {
    let parts = format!("{digest} {} {}", space.resolution, space.digest);
    let name: String = sha256_hex(parts.as_bytes()).chars().take(32).collect();
    format!("reference-{name}.npz")
}

fn of_statistics(statistics: &Statistics) -> Features {
    let count = statistics.count.unwrap_or(0);
    Features {
        count,
        moment_count: count,
        gaussian: Some(statistics.gaussian.clone()),
        vectors: None,
    }
}

fn digest_of(statistics: &Statistics) -> String {
    let mut hasher = Sha256::new();
    let covariance = statistics.gaussian.covariance();
    for value in statistics.gaussian.mean().iter().chain(&covariance) {
        hasher.update(value.to_le_bytes());
    }
    let bytes = hasher.finalize();
    sha256_hex(&bytes)
}

/// SHA-256 over a public set's images.
fn digest(images: &mut ImageSource, observer: &dyn Observer) -> Result<String, PeError> {
    let mut hasher = Sha256::new();
    let (total, mut done) = (images.len(), 0);
    observer.begin("reading the reference", Some(total as u64), Unit::Steps);
    images.for_each_batch(CHUNK, |batch| {
        hasher.update(batch.data());
        done += batch.len();
        observer.advance(done as u64);
        observer.end_if_cancelled().map_err(PeError::from)
    })?;
    observer.end();
    let bytes = hasher.finalize();
    Ok(sha256_hex(&bytes))
}

/// The features of a public set. Its statistics are kept at `saved` and found there again.
fn public_features(
    images: &mut ImageSource,
    evaluation: &Evaluation<'_>,
    needs: FeatureSet,
    saved: Option<&Path>,
) -> Result<Features, PeError> {
    let only_moments = needs.moments && !needs.vectors;
    if let Some(path) = saved.filter(|path| only_moments && path.exists()) {
        return Ok(of_statistics(&Statistics::open(path)?));
    }
    let mut collector = FeatureAccumulator::new(evaluation.embedder.dimension(), needs);
    let (observer, total, mut done) = (evaluation.observer, images.len(), 0);
    observer.begin("embedding the reference", Some(total as u64), Unit::Steps);
    images.for_each_batch(CHUNK, |batch| {
        collector.push(&embed_all(evaluation.embedder, &batch)?)?;
        done += batch.len();
        observer.advance(done as u64);
        observer.end_if_cancelled().map_err(PeError::from)
    })?;
    observer.end();
    let features = collector.finish("reference images")?;
    if let (Some(path), Some(gaussian)) = (saved, &features.gaussian) {
        let statistics = Statistics {
            gaussian: gaussian.clone(),
            count: Some(features.count),
            resolution: Some(evaluation.space.resolution),
            embedder: Some(evaluation.space.digest.clone()),
        };
        let mut bytes = io::Cursor::new(Vec::new());
        statistics
            .write(&mut bytes)
            .map_err(ArtifactsError::npz(path))?;
        atomic::write(path, bytes.get_ref()).map_err(PeError::io(path))?;
    }
    Ok(features)
}

fn lock(root: &Path) -> Result<MetricsLock, PeError> {
    let lock = MetricsLock::acquire(root).map_err(PeError::io(root))?;
    lock.ok_or_else(|| {
        PeError::State(format!(
            "another process is writing figures into {}: wait for it, or choose another folder",
            root.display()
        ))
    })
}

/// The rows of a `metrics.csv` that may be read by everybody.
fn read_rows(path: &Path) -> Result<Vec<String>, PeError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(rows_of(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(PeError::io(path)(error)),
    }
}

/// Adds rows to `private/metrics.csv`.
fn merge(folder: &PrivateFolder, rows: Sensitive<Vec<String>>) -> Result<(), PeError> {
    let all = match folder.read_back(METRICS, decode_rows)? {
        Some(before) => before.zip(rows, merged),
        None => rows.map(|rows| merged(Vec::new(), rows)),
    };
    folder.write_sensitive(METRICS, &all, encode_rows)?;
    Ok(())
}

// As an encoder of `Sensitive<Vec<String>>`, it must take what is behind the wall.
#[allow(clippy::ptr_arg)]
fn encode_rows(rows: &Vec<String>, file: &mut dyn Write) -> io::Result<()> {
    file.write_all(csv(rows).as_bytes())
}

fn decode_rows(file: &mut dyn Read) -> io::Result<Vec<String>> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(rows_of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(digest: &str, resolution: usize) -> FeatureSpace {
        FeatureSpace {
            embedder: "pixels".to_owned(),
            resolution,
            dtype: "f32",
            digest: digest.to_owned(),
        }
    }

    #[test]
    fn statistics_are_kept_under_what_they_are_of() {
        let name = reference_name("data", &space("embedder", 32));
        assert!(name.starts_with("reference-") && name.ends_with(".npz"));
        for other in [
            reference_name("datb", &space("embedder", 32)),
            reference_name("data", &space("embedder", 64)),
            reference_name("data", &space("another", 32)),
        ] {
            assert_ne!(name, other);
        }
    }

    #[test]
    fn rows_behind_the_wall_are_merged_and_kept() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        let row = |text: &str| Sensitive::new(vec![text.to_owned()]);
        merge(&folder, row("1,fid,2.5")).unwrap();
        merge(&folder, row("0,fid,3.5")).unwrap();
        merge(&folder, row("1,fid,2.5")).unwrap();
        let text = std::fs::read_to_string(folder.path().join(METRICS)).unwrap();
        assert!(text.ends_with("settings\n0,fid,3.5\n1,fid,2.5\n"), "{text}");
    }
}
