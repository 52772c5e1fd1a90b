//! The shipped quickstart moves from printed glyphs to handwriting.
//!
//! For every population, classifiers trained on its synthetic digits are tested on held-out real
//! ones (`test_images` of data/digits.npz), and the Fréchet distance (FID) to these is computed on
//! the features of the classifiers.
//!
//! `cargo test --release --test quickstart -- --ignored --nocapture` runs the whole quickstart and
//! prints the figures of the README; the test that is not ignored runs a short version.

use std::path::{Path, PathBuf};
use std::process::Command;

use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::images::{Filter, ImageBatch, NpzReader, Resampler, SamplesReader};
use dpsyn::internals::metrics::frechet::Frechet;
use dpsyn::internals::metrics::moments::{Gaussian, Moments};

const SIDE: usize = 32;
/// Number of features of an image: the means of 2×2 pixels.
const FEATURES: usize = SIDE * SIDE / 4;
const CLASSES: usize = 10;

/// Feature vectors and their labels.
struct Set {
    features: Vec<Vec<f64>>,
    labels: Vec<usize>,
}

fn features(image: &[u8]) -> Vec<f64> {
    let mut means = vec![0.0; FEATURES];
    for (index, pixel) in image.chunks_exact(3).enumerate() {
        let (y, x) = (index / SIDE, index % SIDE);
        let light: f64 = pixel.iter().map(|v| f64::from(*v)).sum();
        means[y / 2 * SIDE / 2 + x / 2] += light / (4.0 * 3.0 * 255.0);
    }
    means
}

fn synthetic(path: &Path) -> Set {
    let mut reader = SamplesReader::open(path).unwrap();
    let labels = reader.labels().unwrap();
    let images = reader.read(0..reader.len()).unwrap();
    Set {
        features: images.iter().map(features).collect(),
        labels: labels.into_iter().map(|l| l as usize).collect(),
    }
}

fn held_out() -> Set {
    let path = repository().join("data/digits.npz");
    let mut npz = NpzReader::open(&path).unwrap();
    let (shape, gray) = npz.i64s("test_images").unwrap();
    let (_, labels) = npz.i64s("test_labels").unwrap();
    let pixels = gray.iter().flat_map(|v| [*v as u8; 3]).collect();
    let small = ImageBatch::new(pixels, shape[0], shape[1], shape[2]).unwrap();
    // As the private images are read.
    let resampler = Resampler::new(Filter::Bilinear, (shape[1], shape[2]), (SIDE, SIDE)).unwrap();
    let images = resampler.batch_bytes(&small).unwrap();
    Set {
        features: images.iter().map(features).collect(),
        labels: labels.into_iter().map(|l| l as usize).collect(),
    }
}

fn nearest_neighbor(train: &Set, test: &Set) -> f64 {
    let right = test.features.iter().zip(&test.labels).filter(|(x, label)| {
        let distance = |y: &Vec<f64>| x.iter().zip(y).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let nearest = train
            .features
            .iter()
            .map(distance)
            .enumerate()
            .min_by(|a, b| a.1.total_cmp(&b.1));
        nearest.is_some_and(|(index, _)| train.labels[index] == **label)
    });
    right.count() as f64 / test.labels.len() as f64
}

/// Multinomial logistic regression: full batches, Adam, weight decay 1e-3, 400 steps.
fn logistic_regression(train: &Set, test: &Set) -> f64 {
    let width = FEATURES + 1;
    let scores = |weights: &[f64], x: &[f64]| -> Vec<f64> {
        weights
            .chunks_exact(width)
            .map(|w| w[FEATURES] + w.iter().zip(x).map(|(a, b)| a * b).sum::<f64>())
            .collect()
    };
    let mut weights = vec![0.0; CLASSES * width];
    let (mut mean, mut square) = (weights.clone(), weights.clone());
    let count = train.labels.len() as f64;
    for _ in 0..400 {
        let mut gradient: Vec<f64> = weights.iter().map(|w| 1e-3 * w).collect();
        for (x, label) in train.features.iter().zip(&train.labels) {
            let scores = scores(&weights, x);
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let powers: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let total: f64 = powers.iter().sum();
            for (class, row) in gradient.chunks_exact_mut(width).enumerate() {
                let error = (powers[class] / total - f64::from(u8::from(class == *label))) / count;
                row[FEATURES] += error;
                for (g, v) in row.iter_mut().zip(x) {
                    *g += error * v;
                }
            }
        }
        for (index, g) in gradient.into_iter().enumerate() {
            mean[index] = 0.9 * mean[index] + 0.1 * g;
            square[index] = 0.99 * square[index] + 0.01 * g * g;
            weights[index] -= 0.05 * mean[index] / (square[index].sqrt() + 1e-8);
        }
    }
    let right = test.features.iter().zip(&test.labels).filter(|(x, label)| {
        let scores = scores(&weights, x);
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.is_some_and(|(class, _)| class == **label)
    });
    right.count() as f64 / test.labels.len() as f64
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn gaussian(set: &Set) -> Gaussian {
    let numbers = set.features.iter().flatten().map(|v| *v as f32).collect();
    let mut moments = Moments::new(FEATURES);
    moments
        .push(&Embeddings::new(numbers, FEATURES).unwrap())
        .unwrap();
    moments.finish("digits").unwrap()
}

/// Measures of one population.
#[derive(Debug)]
struct Figures {
    logistic_regression: f64,
    nearest_neighbor: f64,
    fid: f64,
}

/// Runs the quickstart and returns each population's figures.
fn figures(arguments: &[&str]) -> Vec<Figures> {
    let top = tempfile::tempdir().unwrap();
    let out = top.path().join("out");
    let status = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(repository())
        .args(["run", "configs/quickstart.toml", "--device", "cpu", "--out"])
        .arg(&out)
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success());
    let test = held_out();
    let real = Frechet::new(&gaussian(&test)).unwrap();
    println!("population  logistic regression  nearest neighbor    FID");
    (0..)
        .map(|t: u32| out.join(t.to_string()).join("samples.npz"))
        .take_while(|path| path.exists())
        .enumerate()
        .map(|(t, path)| {
            let train = synthetic(&path);
            let found = Figures {
                logistic_regression: logistic_regression(&train, &test),
                nearest_neighbor: nearest_neighbor(&train, &test),
                fid: real.distance(&gaussian(&train)).unwrap(),
            };
            println!(
                "{t:>10}  {:>19.3}  {:>17.3}  {:>5.2}",
                found.logistic_regression, found.nearest_neighbor, found.fid
            );
            found
        })
        .collect()
}

#[test]
fn a_short_run_already_gains() {
    let found = figures(&[
        "--set",
        "evolution.num_samples=240",
        "--set",
        "evolution.variation_degree=[0, 3, 4, 5]",
    ]);
    let (first, last) = (&found[0], &found[found.len() - 1]);
    assert!(
        last.logistic_regression > first.logistic_regression + 0.03
            && last.nearest_neighbor > first.nearest_neighbor + 0.03,
        "{found:?}"
    );
}

#[test]
#[ignore = "minutes: the whole quickstart"]
fn the_whole_quickstart_is_convincing() {
    let found = figures(&[]);
    let (first, last) = (&found[0], &found[found.len() - 1]);
    let best = last.logistic_regression.max(last.nearest_neighbor);
    assert!(best >= 0.75 && last.fid < first.fid, "{found:?}");
}
