//! The audit finds each of several broken mechanisms, and does not accuse the correct one.
//!
//! All audits have confidence 1 − 10⁻⁶, so the correct mechanism fails its test with at most that
//! probability. The number of trials is such that each defect is missed with less than that.

use std::sync::{Arc, OnceLock};

use serde_json::json;

use super::error::AuditError;
use super::mechanism::{Mechanism, Observation, Transcript, World};
use super::run::{AuditOptions, Findings, Knowledge, Method, run_trials};
use super::votes::{Subject, VoteMechanism, Worlds, votes_of_an_image};
use crate::embedders::{PixelsConfig, PixelsEmbedder};
use crate::privacy::{
    Adjacency, PrivacyConfig, PublicCanaries, ResolvedPrivacy, Trial, Unit, VoteCounts,
    with_repeated_noise,
};
use crate::progress::Silent;
use crate::schedule::Schedule;
use crate::voting::Metric;

const CLAIM: f64 = 4.0;
const DELTA: f64 = 1e-5;
const SIZE: usize = 8;
const OPTIONS: AuditOptions = AuditOptions {
    trials: 10_000,
    canaries: 200,
    confidence: 1.0 - 1e-6,
    seed: 0,
};

fn embedder() -> PixelsEmbedder {
    PixelsEmbedder::new(&PixelsConfig::default(), (SIZE, SIZE)).unwrap()
}

/// Terms with ε = [`CLAIM`] after one release in which each image has two votes.
fn terms(adjacency: Adjacency) -> ResolvedPrivacy {
    resolve(adjacency, None)
}

fn resolve(adjacency: Adjacency, noise_multiplier: Option<f64>) -> ResolvedPrivacy {
    let config = PrivacyConfig {
        noise_multiplier: noise_multiplier.map(Schedule::from),
        epsilon: noise_multiplier.is_none().then_some(CLAIM),
        delta: DELTA,
        adjacency,
        unit: Unit::default(),
        budget: None,
        pad_release_to: None,
    };
    config.resolve(1, 2, None, None).unwrap()
}

fn subject(embedder: &PixelsEmbedder, adjacency: Adjacency) -> Subject<'_> {
    Subject {
        privacy: terms(adjacency),
        embedder,
        embedder_name: "pixels".to_owned(),
        metric: Metric::L2,
        classes: Vec::new(),
        image_size: SIZE,
        threshold: Some(0.0),
    }
}

/// The worlds of replace-one adjacency, voted once for all tests.
fn worlds() -> &'static Worlds {
    static WORLDS: OnceLock<Worlds> = OnceLock::new();
    WORLDS.get_or_init(|| prepare(Adjacency::ReplaceOne))
}

fn prepare(adjacency: Adjacency) -> Worlds {
    let embedder = embedder();
    let subject = subject(&embedder, adjacency);
    Worlds::prepare(&subject, OPTIONS.canaries, OPTIONS.seed, &Silent).unwrap()
}

fn findings(worlds: &Worlds, mechanism: &dyn Mechanism) -> Findings {
    let knowledge = Knowledge {
        score: &worlds.score,
        canaries: &worlds.canaries,
    };
    run_trials(mechanism, &knowledge, DELTA, &OPTIONS, &Silent).unwrap()
}

/// A mechanism with a defect: a function of the world and the number of the run.
struct Broken<F>(F);

impl<F> Mechanism for Broken<F>
where
    F: Fn(World, u64) -> Result<Observation, AuditError> + Sync,
{
    fn observe(&self, world: World, trial: u64) -> Result<Observation, AuditError> {
        (self.0)(world, trial)
    }
}

/// Asserts that the audit finds the defect by `method`; returns all findings.
#[track_caller]
fn found(
    method: Method,
    observe: impl Fn(World, u64) -> Result<Observation, AuditError> + Sync,
) -> Findings {
    let findings = findings(worlds(), &Broken(observe));
    let bound = findings.bound(method).unwrap();
    assert!(bound.epsilon > CLAIM, "{findings:?}");
    findings
}

/// The observation of the correct mechanism with these terms.
fn correct(world: World, trial: u64, privacy: &ResolvedPrivacy) -> Result<Observation, AuditError> {
    VoteMechanism::new(worlds(), privacy).observe(world, trial)
}

#[test]
fn the_correct_mechanism_stays_below_its_claim() {
    let privacy = terms(Adjacency::ReplaceOne);
    let findings = findings(worlds(), &VoteMechanism::new(worlds(), &privacy));
    assert!(findings.epsilon() <= CLAIM, "{findings:?}");
    assert!(findings.differences.is_empty(), "{findings:?}");
    // The audit is not blind either: μ of the claim is about 0.93, of which 5,000 trials with these
    // errors lose 0.2.
    let gaussian = findings.bound(Method::Gaussian).unwrap();
    assert!(gaussian.epsilon > 0.6 * CLAIM, "{findings:?}");
    // Without the same noise twice, the difference of two runs has twice the variance.
    let difference = findings.bound(Method::GaussianOfDifference).unwrap();
    assert!(difference.epsilon < gaussian.epsilon, "{findings:?}");
}

#[test]
fn the_noise_is_that_of_the_claim_under_add_remove_adjacency() {
    let worlds = prepare(Adjacency::AddRemove);
    assert!((worlds.score.distance() - 2f64.sqrt()).abs() < 1e-12);
    let privacy = terms(Adjacency::AddRemove);
    let real = VoteMechanism::new(&worlds, &privacy);
    // Only the noise is tested here.
    let transcript = Transcript::new(json!({}));
    let noise = Broken(|world, trial| {
        let mut seen = real.observe(world, trial)?;
        seen.transcript = Arc::clone(&transcript);
        Ok(seen)
    });
    let findings = findings(&worlds, &noise);
    assert!(findings.epsilon() <= CLAIM, "{findings:?}");
    assert!(findings.bound(Method::Gaussian).unwrap().epsilon > 0.6 * CLAIM);
}

/// The images of an audit are voted once, so k must be the same in all releases.
#[test]
fn neighbors_that_change_are_refused() {
    let list = |neighbors: &[u32]| {
        let config: PrivacyConfig = toml::from_str("noise_multiplier = 1\ndelta = 1e-5").unwrap();
        let neighbors = Schedule::List(neighbors.to_vec());
        config.resolve(2, neighbors, None, None).unwrap()
    };
    let embedder = embedder();
    let mut subject = subject(&embedder, Adjacency::AddRemove);
    subject.privacy = list(&[2, 3]);
    let refused = Worlds::prepare(&subject, 0, 0, &Silent).err().unwrap();
    let message = refused.to_string();
    assert!(
        message.starts_with("evolution.nearest_neighbors: changes"),
        "{message}"
    );
    assert_eq!(votes_of_an_image(&list(&[3, 3])).unwrap(), 3);
}

#[test]
fn half_the_noise_is_found() {
    let claimed = terms(Adjacency::ReplaceOne).noise_multiplier_of(1).unwrap();
    let privacy = resolve(Adjacency::ReplaceOne, Some(claimed / 2.0));
    found(Method::Gaussian, |world, trial| {
        correct(world, trial, &privacy)
    });
}

#[test]
fn votes_that_are_counted_twice_are_found() {
    let privacy = terms(Adjacency::ReplaceOne);
    let twice = |world| {
        let counts = &worlds().world(world).counts;
        counts.map_ref(VoteCounts::counted_twice)
    };
    let with = twice(World::WithCanary);
    let without = twice(World::WithoutCanary);
    found(Method::Gaussian, |world, _| {
        let counts = match world {
            World::WithCanary => &with,
            World::WithoutCanary => &without,
            World::Coins => return correct(world, 0, &privacy),
        };
        let run = Trial::new(&privacy, PublicCanaries::declared())?;
        Ok(Observation {
            releases: vec![vec![run.release(counts, 1)?]],
            transcript: Arc::clone(&worlds().world(world).transcript),
        })
    });
}

#[test]
fn noise_that_is_the_same_in_every_run_is_found() {
    let privacy = with_repeated_noise(&terms(Adjacency::ReplaceOne), 7);
    found(Method::Threshold, |world, trial| {
        correct(world, trial, &privacy)
    });
}

/// The noise of each run looks correct, but a second run with the same number repeats it.
#[test]
fn noise_that_depends_on_the_number_of_the_run_is_found() {
    let privacy = terms(Adjacency::ReplaceOne);
    let findings = found(Method::GaussianOfDifference, |world, trial| {
        correct(world, trial, &with_repeated_noise(&privacy, trial))
    });
    let plain = findings.bound(Method::Gaussian).unwrap();
    assert!(plain.epsilon <= CLAIM, "{findings:?}");
}

/// A run that is restored from a copy draws other noise under the same charge.
#[test]
fn a_second_draw_after_a_roll_back_is_found() {
    let privacy = terms(Adjacency::ReplaceOne);
    found(Method::Gaussian, |world, trial| {
        let mut seen = correct(world, trial, &privacy)?;
        let again = correct(world, trial, &privacy)?;
        for (draws, again) in seen.releases.iter_mut().zip(again.releases) {
            draws.extend(again);
        }
        Ok(seen)
    });
}

/// Noise that is repeated for the same counts makes a second draw worthless.
#[test]
fn an_equal_second_draw_is_no_defect() {
    let privacy = terms(Adjacency::ReplaceOne);
    let twice = Broken(|world, trial| {
        let mut seen = correct(world, trial, &privacy)?;
        for draws in &mut seen.releases {
            draws.extend(draws.clone());
        }
        Ok(seen)
    });
    let findings = findings(worlds(), &twice);
    assert!(findings.epsilon() <= CLAIM, "{findings:?}");
}

/// Runs the correct mechanism, but publishes `facts` of the world besides.
#[track_caller]
fn found_in_transcript(facts: impl Fn(World) -> serde_json::Value, pointer: &str) {
    let privacy = terms(Adjacency::ReplaceOne);
    let transcripts = [World::WithCanary, World::WithoutCanary, World::Coins]
        .map(|world| (world, Transcript::new(facts(world))));
    let findings = found(Method::Transcript, |world, trial| {
        let mut seen = correct(world, trial, &privacy)?;
        let published = transcripts.iter().find(|(of, _)| *of == world);
        seen.transcript = Arc::clone(&published.unwrap().1);
        Ok(seen)
    });
    assert_eq!(findings.differences, [pointer]);
    let noise = findings.bound(Method::Gaussian).unwrap();
    assert!(noise.epsilon <= CLAIM, "{findings:?}");
}

#[test]
fn classes_that_are_read_from_the_images_are_found() {
    let facts = |world| match world {
        World::WithCanary => json!({"class_names": ["common", "rare"], "bins": 64}),
        _ => json!({"class_names": ["common"], "bins": 64}),
    };
    found_in_transcript(facts, "/class_names");
}

#[test]
fn a_published_number_of_images_is_found() {
    let facts = |world| json!({"images": 128 + u32::from(world == World::WithCanary)});
    found_in_transcript(facts, "/images");
}

/// The number of images is published in one of ten runs only.
#[test]
fn a_rare_leak_is_found_by_its_frequency() {
    let privacy = terms(Adjacency::ReplaceOne);
    let same = Transcript::new(json!({"images": null}));
    let leak = Transcript::new(json!({"images": 129}));
    let findings = findings(
        worlds(),
        &Broken(|world, trial| {
            let mut seen = correct(world, trial, &privacy)?;
            let leaks = world == World::WithCanary && trial % 10 == 1;
            seen.transcript = Arc::clone(if leaks { &leak } else { &same });
            Ok(seen)
        }),
    );
    assert_eq!(findings.differences, ["/images"]);
    // ln(0.08/0.0034), where 0.0034 is the upper bound of 0 of 5,000.
    let bound = findings.bound(Method::Transcript).unwrap();
    assert!((2.5..4.0).contains(&bound.epsilon), "{findings:?}");
}
