//! A failure that private images cause stays with their owner.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::Device;

use super::*;
use crate::artifacts::{
    ArtifactsError, ClassLayout, Existing, GeneratedImages, Lineage, Origin, RunDir, RunStore,
    WorkPhase,
};
use crate::dataset::PrivateImages;
use crate::embedders::{Embedder, EmbedderError, Embeddings};
use crate::generators::Condition;
use crate::images::{DataConfig, ImageBatch, ImageSource, png};
use crate::metrics::table::FeatureSpace;
use crate::progress::{Cancellation, Progress, Silent};

/// Pixels of an image, which has 2 × 2 pixels.
const LEN: usize = 12;

/// The first two levels; a white pixel at the beginning has no finite vector.
struct FirstLevels;

impl Embedder for FirstLevels {
    fn dimension(&self) -> usize {
        2
    }

    fn batch_size(&self) -> usize {
        10
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        let level = |level: u8| match level {
            255 => f32::NAN,
            level => f32::from(level),
        };
        let data = images
            .iter()
            .flat_map(|image| [level(image[0]), level(image[1])]);
        Ok(Embeddings::new(data.collect(), 2).unwrap())
    }
}

/// Keeps the lines for the owner.
#[derive(Default)]
struct Owner(Mutex<Vec<String>>);

impl Progress for Owner {
    fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn resume(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn message(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Cancellation for Owner {
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Writes images of the given first levels and describes them.
fn data(folder: &Path, levels: &[u8]) -> DataConfig {
    fs::create_dir_all(folder).unwrap();
    for (index, level) in levels.iter().enumerate() {
        let mut pixels = vec![index as u8 * 7; LEN];
        pixels[0] = *level;
        let image = ImageBatch::new(pixels, 1, 2, 2).unwrap();
        fs::write(folder.join(format!("a_{index}.png")), png(&image).unwrap()).unwrap();
    }
    let config = serde_json::json!({
        "path": folder, "image_size": 2, "class_conditional": false,
    });
    serde_json::from_value(config).unwrap()
}

/// The files outside of `private/` with their bytes.
fn public_files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.insert(path.clone(), fs::read(path).unwrap());
            } else if path != root.join("private") {
                folders.push(path);
            }
        }
    }
    files
}

struct Outcome {
    result: Result<(), EvaluationError>,
    lines: Vec<String>,
    /// Everything outside of `private/`, to see if it changed.
    changed: bool,
    private_rows: Option<String>,
}

/// Evaluates a population of eight samples against images with these first levels, which are
/// private or declared public.
fn evaluate(metrics: &[MetricKind], levels: &[u8], public: bool) -> Outcome {
    let top = tempfile::tempdir().unwrap();
    let (dir, _) = RunDir::prepare(&top.path().join("out"), Existing::Refuse, |_| {
        Ok::<_, ArtifactsError>(())
    })
    .unwrap();
    let layouts = [ClassLayout::of_counts(vec![8])];
    let store = RunStore {
        dir: &dir,
        layouts: &layouts,
        image_size: (2, 2),
        thresholds: Vec::new(),
        non_private: false,
    };
    let generate = || {
        let shards = store.shards(0, WorkPhase::Random)?;
        let pixels: Vec<u8> = (0..8 * LEN).map(|i| (i * i % 200) as u8).collect();
        shards.write(&(0..8), &pixels)?;
        Ok::<_, EvaluationError>(GeneratedImages {
            shards,
            conditions: vec![Condition(0); 8],
            lineages: (0..8)
                .map(|index| Lineage::first(Origin::Random, index))
                .collect(),
        })
    };
    let population = store.population(0, generate).unwrap();
    let config = data(&top.path().join("data"), levels);
    let mut images = PrivateImages::open(&config).unwrap();
    let fingerprint = images.check(&Silent).unwrap().fingerprint;
    let source =
        public.then(|| ReferenceSource::public_images(ImageSource::open(&config).unwrap()));
    let owner = Owner::default();
    let evaluation = Evaluation {
        config: &EvaluationConfig::with_metrics(metrics.to_vec()),
        embedder: &FirstLevels,
        space: FeatureSpace {
            embedder: "first levels".to_owned(),
            resolution: 2,
            dtype: "f32",
            digest: "space".to_owned(),
        },
        classifier: None,
        shares_vote: false,
        device: &Device::Cpu,
        observer: &owner,
    };
    let mut evaluator = Evaluator::new(&evaluation, source, Some(dir.root())).unwrap();
    let before = public_files(dir.root());
    let run = RunImages {
        images: &mut images,
        fingerprint: &fingerprint,
        vote: None,
    };
    let result = evaluator.population(0, &population, run);
    let lines = owner.0.lock().unwrap().clone();
    Outcome {
        result,
        lines,
        changed: public_files(dir.root()) != before,
        private_rows: fs::read_to_string(dir.private().join("metrics.csv")).ok(),
    }
}

const MARK: &str = "[private, not for release] population 0: ";

#[test]
fn private_images_without_finite_features_do_not_end_the_run() {
    let outcome = evaluate(&[MetricKind::Fid], &[3, 50, 90, 255], false);
    outcome.result.unwrap();
    assert!(!outcome.changed && outcome.private_rows.is_none());
    let [line] = &outcome.lines[..] else {
        panic!("{:?}", outcome.lines)
    };
    assert!(
        line.starts_with(MARK) && line.contains("not all finite"),
        "{line}"
    );
    // Without the white image, the same evaluation succeeds.
    let outcome = evaluate(&[MetricKind::Fid], &[3, 50, 90, 254], false);
    outcome.result.unwrap();
    assert!(outcome.private_rows.unwrap().contains("0,fid,"));
}

#[test]
fn a_metric_that_fails_on_private_images_leaves_the_others() {
    // Three neighbors need four images, and the configuration is checked before a run only.
    let metrics = [MetricKind::PrecisionRecall, MetricKind::Fid];
    let outcome = evaluate(&metrics, &[3, 50, 90], false);
    outcome.result.unwrap();
    assert!(!outcome.changed);
    let rows = outcome.private_rows.unwrap();
    assert!(
        rows.contains("0,fid,") && !rows.contains("precision"),
        "{rows}"
    );
    let [failed, fid] = &outcome.lines[..] else {
        panic!("{:?}", outcome.lines)
    };
    assert!(
        failed.starts_with(MARK) && failed.contains("precision-recall"),
        "{failed}"
    );
    assert!(
        fid.starts_with("[private, not for release] 0: fid "),
        "{fid}"
    );
}

#[test]
fn a_failure_of_a_public_reference_is_an_error() {
    let outcome = evaluate(&[MetricKind::Fid], &[3, 50, 90, 255], true);
    assert!(matches!(outcome.result, Err(EvaluationError::Metrics(_))));
    assert!(outcome.lines.is_empty(), "{:?}", outcome.lines);
}
