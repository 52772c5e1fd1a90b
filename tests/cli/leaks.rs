//! Nothing that is derived from private images leaves but through the mechanism.

use dpsyn::internals::images::SamplesReader;

use crate::support::{CLASSES, PER_CLASS, World, private_image, released};

/// The votes before noise, computed here from the released samples and the private images.
fn clean_counts(world: &World, iteration: usize) -> Vec<u64> {
    let path = world.path(&format!("out/{}/samples.npz", iteration - 1));
    let mut reader = SamplesReader::open(&path).unwrap();
    let images = reader.read(0..reader.len()).unwrap();
    let samples: Vec<&[u8]> = images.iter().collect();
    let per_class = samples.len() / CLASSES.len();
    let mut counts = vec![0; samples.len()];
    for class in 0..CLASSES.len() {
        for index in 0..PER_CLASS {
            let private = private_image(class, index);
            let nearest = (class * per_class..(class + 1) * per_class)
                .min_by_key(|sample| {
                    samples[*sample]
                        .iter()
                        .zip(&private)
                        .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
                        .sum::<u64>()
                })
                .unwrap();
            counts[nearest] += 1;
        }
    }
    counts
}

/// Every spelling in which a vector of counts could end up in a file.
fn spellings(counts: &[u64]) -> Vec<Vec<u8>> {
    let bytes = |encode: &dyn Fn(u64) -> Vec<u8>| counts.iter().flat_map(|c| encode(*c)).collect();
    let mut all: Vec<Vec<u8>> = vec![
        bytes(&|c| (c as i64).to_le_bytes().to_vec()),
        bytes(&|c| (c as i32).to_le_bytes().to_vec()),
        bytes(&|c| (c as u16).to_le_bytes().to_vec()),
        bytes(&|c| vec![c as u8]),
        bytes(&|c| (c as f64).to_le_bytes().to_vec()),
        bytes(&|c| (c as f32).to_le_bytes().to_vec()),
        bytes(&|c| ((c << 20) as i64).to_le_bytes().to_vec()),
    ];
    for separator in [",", ", ", " ", "\n", ";", "\t"] {
        for decimal in ["", ".0"] {
            let text: Vec<String> = counts.iter().map(|c| format!("{c}{decimal}")).collect();
            all.push(text.join(separator).into_bytes());
        }
    }
    all
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[test]
fn clean_counts_appear_in_no_released_file_and_on_no_stream() {
    let world = World::new();
    // Twenty samples a class: no chance that twenty counts stand in a row by accident.
    let output = world.run(&[
        "--set",
        "evolution.lookahead_degree=0",
        "--set",
        "evolution.num_samples=40",
    ]);
    assert!(output.status.success());
    let mut places = released(&world.path("out"));
    places.push(("standard output".into(), output.stdout));
    places.push(("standard error".into(), output.stderr));
    for iteration in 1..=3 {
        let counts = clean_counts(&world, iteration);
        assert_eq!(
            counts.iter().sum::<u64>() as usize,
            CLASSES.len() * PER_CLASS
        );
        for class in counts.chunks(counts.len() / CLASSES.len()) {
            for spelling in spellings(class) {
                for (place, bytes) in &places {
                    assert!(
                        !contains(bytes, &spelling),
                        "iteration {iteration}'s clean counts are in {}",
                        place.display()
                    );
                }
            }
        }
    }
}

/// The search above can find something: without noise, the counts are what is released.
#[test]
fn without_noise_the_same_search_finds_them() {
    let world = World::new();
    world.succeed(&[
        "--set",
        "evolution.lookahead_degree=0",
        "--non-private",
        "--set",
        "privacy.noise_multiplier=0",
    ]);
    let counts = clean_counts(&world, 1);
    let places = released(&world.path("out"));
    let found = spellings(&counts)
        .iter()
        .any(|spelling| places.iter().any(|(_, bytes)| contains(bytes, spelling)));
    assert!(found);
}

#[test]
fn no_private_image_is_copied_into_the_released_folder() {
    let world = World::new();
    world.succeed(&[]);
    let places = released(&world.path("out"));
    for class in 0..CLASSES.len() {
        for index in 0..PER_CLASS {
            let image = private_image(class, index);
            for (place, bytes) in &places {
                assert!(!contains(bytes, &image), "{}", place.display());
            }
        }
    }
}
