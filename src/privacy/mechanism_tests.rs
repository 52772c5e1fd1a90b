use super::*;
use crate::privacy::lattice::LATTICE_BITS;
use crate::privacy::noise_source::{NoiseOrigin, TestNoise};
use crate::privacy::{Adjacency, ClientVotes, NonPrivateConsent, PrivacyConfig, Unit};

fn config(noise_multiplier: f64) -> PrivacyConfig {
    PrivacyConfig {
        noise_multiplier: Some(noise_multiplier.into()),
        epsilon: None,
        delta: 1e-5,
        adjacency: Adjacency::AddRemove,
        unit: Unit::Image,
        budget: None,
        pad_release_to: None,
    }
}

fn charge(noise_multiplier: f64, nearest_neighbors: u32) -> Charge {
    let consent = (noise_multiplier == 0.0).then(NonPrivateConsent::given);
    let privacy = config(noise_multiplier)
        .resolve(1, nearest_neighbors, None, consent)
        .unwrap();
    let noise = match privacy.lattice_sigma(1).unwrap() {
        None => Noise::Nothing,
        Some(sigma) => Noise::DiscreteGaussian {
            sigma,
            key: NoiseOrigin::OperatingSystem.new_key().unwrap(),
        },
    };
    Charge::new(1, false, noise, Unit::Image, nearest_neighbors, "0")
}

fn votes(votes: &[u64]) -> Sensitive<VoteCounts> {
    Sensitive::new(VoteCounts::of_images(votes, 1))
}

#[test]
fn without_noise_the_counts_come_out() {
    let counts = votes(&[0, 1, 1_000_000_007]);
    let unpublished = release(counts, charge(0.0, 1)).unwrap();
    assert_eq!(unpublished.histogram.values(), [0.0, 1.0, 1_000_000_007.0]);
}

#[test]
fn noise_has_the_promised_size_in_votes() {
    // Standard deviation σ√k = 2·√9 = 6 over 40,000 bins of 100 votes, from the operating system:
    // the mean's standard error is 0.03 and the standard deviation's 0.0212. The bounds are six of
    // them, so the test fails by chance less than once in 10^8 runs.
    let counts = votes(&[100; 40_000]);
    let values = release(counts, charge(2.0, 9)).unwrap().histogram.values();
    let mean = values.iter().sum::<f64>() / 40_000.0;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 40_000.0;
    assert!((mean - 100.0).abs() < 0.18, "{mean}");
    assert!((variance.sqrt() - 6.0).abs() < 0.127, "{variance}");
}

#[test]
fn two_runs_have_different_noise() {
    let values = |()| {
        let counts = votes(&[5; 8]);
        release(counts, charge(1.0, 1)).unwrap().histogram
    };
    assert_ne!(values(()), values(()));
}

#[test]
fn noise_does_not_depend_on_the_counts() {
    // Neighboring histograms with the same random bits differ by exactly the votes.
    let sigma = BigUint::from(1u32 << LATTICE_BITS);
    let noisy = |votes: &[u64]| {
        let counts = VoteCounts::of_images(votes, 1);
        add_noise(counts.lattice(), &sigma, &mut TestNoise::new(7, 1)).unwrap()
    };
    let (with, without) = (noisy(&[3, 0, 5]), noisy(&[3, 0, 4]));
    assert_eq!(with[..2], without[..2]);
    assert_eq!(with[2] - without[2], 1 << LATTICE_BITS);
}

#[test]
fn counts_past_every_bound_are_cut_off() {
    let histogram = release(votes(&[u64::MAX]), charge(0.0, 1))
        .unwrap()
        .histogram;
    assert_eq!(histogram.lattice(), [i64::MAX]);
    assert_eq!(clamp(&-(BigInt::from(1u32) << 70u32)), i64::MIN);
}

#[test]
fn votes_of_another_unit_are_not_released() {
    let refused = |counts: VoteCounts, expected: &str| {
        let mut charge = charge(1.0, 1);
        if expected.contains("samples") {
            charge.unit = Unit::Client;
        }
        let error = release(Sensitive::new(counts), charge).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let clients = [ClientVotes::from([(0, 3)])];
    let of_clients = |bins: usize| VoteCounts::of_clients(bins, &clients);
    refused(
        of_clients(2),
        "the votes are those of one client, but one image is charged",
    );
    let many = MOST_BINS_OF_CLIENTS as usize + 1;
    refused(
        of_clients(many),
        "1048577 samples: expected at most 1048576",
    );
    let images = VoteCounts::of_images(&[3, 0], 1);
    let mut charge = charge(1.0, 1);
    charge.unit = Unit::Client;
    assert!(release(Sensitive::new(images), charge).is_err());
}
