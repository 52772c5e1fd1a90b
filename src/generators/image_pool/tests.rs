use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::embedders::{EmbedderConfig, PixelsConfig};
use crate::generators::{GeneratorSection, ModelConfig};
use crate::images::png;
use crate::progress::Silent;
use crate::streams::{Phase, RngKey};

/// Images in the pool of the tests.
const COUNT: usize = 60;

/// The pixels of an image, whose levels grow with its number: neighbors have close numbers.
fn pixels(index: usize) -> Vec<u8> {
    (0..12).map(|place| (index * 4 + place) as u8).collect()
}

/// Writes a pool of images, a third of each label; returns its section.
fn section(folder: &Path, keys: &str) -> Config {
    let path = folder.join("pool");
    if !path.exists() {
        std::fs::create_dir(&path).unwrap();
        for index in 0..COUNT {
            let image = ImageBatch::new(pixels(index), 1, 2, 2).unwrap();
            let label = ["a", "b", "c"][index % 3];
            // The number is the order of the pool for one label, not for all.
            let name = path.join(format!("{label}_{index:02}.png"));
            std::fs::write(name, png(&image).unwrap()).unwrap();
        }
    }
    let text = format!(
        "path = '{}'\ncache = '{}'\npublic = true\nimage_size = 2\n{keys}",
        path.display(),
        folder.join("cache").display()
    );
    let mut config: Config = toml::from_str(&text).unwrap();
    config.embedder = Some(EmbedderConfig::Pixels(PixelsConfig::default()));
    config
}

fn open(config: &Config) -> OpenedGenerator {
    config.validate().unwrap();
    config.open(&[], &Silent).unwrap()
}

fn requests(count: usize, phase: Phase, condition: u32) -> Vec<SampleRequest> {
    let request = |sample| SampleRequest {
        condition: Condition(condition),
        rng_key: RngKey {
            seed: 5,
            phase,
            iteration: 1,
            repeat: 0,
            sample,
        },
    };
    (0..count as u64).map(request).collect()
}

fn degree(degree: f64) -> Variation {
    Variation {
        degree,
        population: 1,
    }
}

/// The number by which [`pixels`] made each image.
fn numbers(generated: &Generated) -> Vec<usize> {
    generated
        .images
        .iter()
        .map(|image| usize::from(image[0]) / 4)
        .collect()
}

#[test]
fn random_images_are_draws_and_know_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&section(folder.path(), ""));
    let pool = &*opened.generator;
    let requests = requests(40, Phase::Random, 0);
    let drawn = pool.random(&requests).unwrap();
    for (index, image) in drawn.images.iter().enumerate() {
        assert_eq!(image, pixels(usize::from(image[0]) / 4));
        let parameters: Drawn = drawn.parameters(index).read().unwrap();
        // Files are sorted by name, so by label first.
        let number = usize::from(image[0]) / 4;
        assert_eq!(parameters.pool, number % 3 * 20 + number / 3);
        assert_eq!(parameters.sha256.len(), DIGEST_DIGITS);
    }
    // Each sample is a function of its request.
    let some = pool.random(&requests[7..9]).unwrap();
    assert_eq!(numbers(&some), numbers(&drawn)[7..9]);
    let different: std::collections::BTreeSet<usize> = numbers(&drawn).into_iter().collect();
    assert!(different.len() > 20);
}

#[test]
fn variations_are_among_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&section(folder.path(), ""));
    let pool = &*opened.generator;
    let keys = requests(60, Phase::Vary, 0);
    let parents = pool.random(&requests(60, Phase::Random, 0)).unwrap();
    let same = pool.vary(&parents, &keys, degree(1.0)).unwrap();
    assert_eq!(numbers(&same), numbers(&parents));
    let near = pool.vary(&parents, &keys, degree(5.0)).unwrap();
    let mut moved = 0;
    for (parent, image) in numbers(&parents).into_iter().zip(numbers(&near)) {
        // At the ends, the five nearest lie on one side.
        let center = parent.clamp(2, COUNT - 3);
        assert!(center.abs_diff(image) <= 2, "{parent} {image}");
        moved += usize::from(parent != image);
    }
    assert!(moved > 30);
    // A share of 5 of 60, and the pixels in place of the parameters.
    let unknown = Generated::from(parents.images.clone());
    let share = pool.vary(&unknown, &keys, degree(0.083)).unwrap();
    assert_eq!(numbers(&share), numbers(&near));
    let one_by_one = pool
        .vary(&parents.slice(9..10), &keys[9..10], degree(5.0))
        .unwrap();
    assert_eq!(numbers(&one_by_one), numbers(&near)[9..10]);
    // Parameters of another pool do not name an image of this one.
    let foreign = Drawn {
        pool: 3,
        sha256: "0123456789abcdef".to_owned(),
    };
    let foreign = vec![Parameters::of(&foreign).unwrap(); 60];
    let foreign = Generated::new(parents.images.clone(), foreign).unwrap();
    let varied = pool.vary(&foreign, &keys, degree(5.0)).unwrap();
    assert_eq!(numbers(&varied), numbers(&near));
}

#[test]
fn classes_draw_and_vary_within_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let keys = "class_labels = { cat = ['a'], dog = ['b', 'c'] }\n";
    let config = section(folder.path(), keys);
    let opened = open(&config);
    let pool = &*opened.generator;
    assert_eq!(pool.num_conditions(), 2);
    let request = ConditionRequest {
        class: Some("dog"),
        rng_key: requests(1, Phase::Condition, 0)[0].rng_key,
    };
    assert_eq!(pool.initial_conditions(&[request]).unwrap(), [Condition(1)]);
    let unknown = ConditionRequest {
        class: Some("cow"),
        ..request
    };
    assert!(pool.initial_conditions(&[unknown]).is_err());
    assert_eq!(pool.describe_conditions(Some("dog")).len(), 2);
    let dogs = pool.random(&requests(50, Phase::Random, 1)).unwrap();
    assert!(numbers(&dogs).iter().all(|number| number % 3 != 0));
    let cats = pool
        .vary(&dogs, &requests(50, Phase::Vary, 0), degree(2.0))
        .unwrap();
    assert!(numbers(&cats).iter().all(|number| number % 3 == 0));
    let free = open(&section(
        folder.path(),
        &format!("{keys}keep_labels = false\n"),
    ));
    let free = free
        .generator
        .vary(&dogs, &requests(50, Phase::Vary, 0), degree(2.0))
        .unwrap();
    assert!(numbers(&free).iter().any(|number| number % 3 != 0));
    assert!(pool.random(&requests(1, Phase::Random, 2)).is_err());
    // A degree must fit every class.
    let vary = |degree| {
        pool.evaluations(Operation::Vary(Variation {
            degree,
            population: 0,
        }))
    };
    assert!(vary(20.0).is_ok());
    let message = vary(21.0).err().unwrap().to_string();
    assert!(message.contains("at most the 20 images"), "{message}");
    let missing = section(folder.path(), "class_labels = { cat = ['x'] }\n");
    let message = missing.open(&[], &Silent).err().unwrap().to_string();
    assert!(
        message.contains("class_labels.cat") && message.contains("`x`"),
        "{message}"
    );
}

#[test]
fn no_image_occurs_twice_where_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&section(folder.path(), "unique = true\n"));
    let pool = &*opened.generator;
    assert_eq!(pool.batch_size(), usize::MAX);
    let different = |generated: &Generated| {
        let mut numbers = numbers(generated);
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    };
    let all = pool.random(&requests(COUNT, Phase::Random, 0)).unwrap();
    assert_eq!(different(&all), COUNT);
    // All variations of one image: the nearest five first, and then ever farther ones.
    let parent = all.slice(0..1);
    let mut parents = parent.clone();
    for _ in 1..20 {
        parents.extend(&parent).unwrap();
    }
    let varied = pool
        .vary(&parents, &requests(20, Phase::Vary, 0), degree(5.0))
        .unwrap();
    assert_eq!(different(&varied), 20);
    let center = numbers(&parent)[0].clamp(10, COUNT - 11);
    assert!(
        numbers(&varied)
            .iter()
            .all(|number| number.abs_diff(center) <= 10)
    );
    // More samples than images: each once before any twice.
    let more = pool.random(&requests(2 * COUNT, Phase::Random, 0)).unwrap();
    assert_eq!(different(&more.slice(0..COUNT)), COUNT);
    assert_eq!(different(&more.slice(COUNT..2 * COUNT)), COUNT);
    let work = |images| PlannedWork {
        operation: Operation::Random,
        images,
        each: 1,
    };
    assert!(pool.preflight(&[work(COUNT as u64)]).is_ok());
    let message = pool
        .preflight(&[work(COUNT as u64 + 1)])
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.starts_with("unique: ") && message.contains("60 images"),
        "{message}"
    );
}

#[test]
fn the_digest_depends_on_pool_labels_and_embedder() {
    let folder = tempfile::tempdir().unwrap();
    let digest = |config: &Config| open(config).weights_digest.unwrap();
    let plain = section(folder.path(), "");
    let first = digest(&plain);
    assert_eq!(first, digest(&section(folder.path(), "")));
    let labeled = section(folder.path(), "class_labels = { cat = ['a'] }\n");
    assert_ne!(first, digest(&labeled));
    let mut other = plain.clone();
    other.embedder = Some(EmbedderConfig::Pixels(PixelsConfig {
        size: None,
        grayscale: true,
    }));
    assert_ne!(first, digest(&other));
    let image = ImageBatch::new(vec![7; 12], 1, 2, 2).unwrap();
    std::fs::write(plain.path.join("d_1.png"), png(&image).unwrap()).unwrap();
    assert_ne!(first, digest(&section(folder.path(), "")));
}

#[test]
fn damaged_vectors_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let vary = || {
        let opened = open(&section(folder.path(), ""));
        let parents = opened
            .generator
            .random(&requests(9, Phase::Random, 0))
            .unwrap();
        let keys = requests(9, Phase::Vary, 0);
        numbers(&opened.generator.vary(&parents, &keys, degree(7.0)).unwrap())
    };
    let first = vary();
    let set = std::fs::read_dir(folder.path().join("cache"))
        .unwrap()
        .next()
        .unwrap();
    let inside = std::fs::read_dir(set.unwrap().path()).unwrap();
    let vectors = inside.map(|entry| entry.unwrap().path());
    let vectors = { vectors }.find(|path| path.display().to_string().contains("vectors-"));
    let file = vectors.unwrap().join("00000000.rows");
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[300] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    assert_eq!(vary(), first);
    assert_eq!(std::fs::read(&file).unwrap(), whole);
}

#[test]
fn errors_name_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |change: fn(&mut Config)| {
        let mut config = section(folder.path(), "");
        change(&mut config);
        config.validate().err().unwrap()
    };
    let public = refused(|config| config.public = false);
    assert!(public.key == "public" && public.message.contains("public = true"));
    assert_eq!(refused(|config| config.path = "".into()).key, "path");
    assert_eq!(
        refused(|config| config.image_size = 0.into()).key,
        "image_size"
    );
    assert_eq!(
        refused(|config| config.cache = Some("".into())).key,
        "cache"
    );
    let label = refused(|config| {
        config.class_labels = Some(BTreeMap::from([("cat".to_owned(), Vec::new())]));
    });
    assert_eq!(label.key, "class_labels.cat");
    let size = refused(|config| {
        config.embedder = Some(EmbedderConfig::Pixels(PixelsConfig {
            size: Some(0),
            grayscale: false,
        }));
    });
    assert_eq!(size.key, "embedder.size");
    for wrong in [0.0, -1.0, 1.5, f64::NAN, 1e12] {
        let operation = Operation::Vary(degree(wrong));
        assert!(
            section(folder.path(), "")
                .check_operation(operation)
                .is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn numbers_are_labels_and_the_default_embedder_is_fitted_to_the_pool() {
    let text = "path = 'p'\npublic = true\nimage_size = 64\nclass_labels = { x = [3, '4'] }\n";
    let config: Config = toml::from_str(text).unwrap();
    let labels = &config.class_labels.as_ref().unwrap()["x"];
    assert_eq!(labels, &["3", "4"]);
    config.validate().unwrap();
    let EmbedderConfig::Pca(pca) = config.embedder() else {
        panic!("another default");
    };
    assert_eq!((pca.components, pca.size), (64, Some(32)));
    assert_eq!(pca.pool.as_ref().unwrap().path, Path::new("p"));
    let written = toml::to_string(&ModelConfig::ImagePool(config.clone())).unwrap();
    assert!(written.contains("class_labels"), "{written}");
    assert!(toml::from_str::<Config>(&text.replace("public", "pubic")).is_err());
}
