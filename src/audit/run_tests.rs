//! Tests of options, cancellation and the audit with one run, on small mechanisms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::super::mechanism::{Transcript, Votes};
use super::*;
use crate::privacy::NoisyHistogram;
use crate::progress::{Cancellation, Progress, Silent};

const OPTIONS: AuditOptions = AuditOptions {
    trials: 5000,
    canaries: 400,
    confidence: 0.95,
    seed: 0,
};

/// A mechanism that publishes the true votes, one bin per canary, without noise.
struct Noiseless {
    coins: Vec<bool>,
    transcript: Arc<Transcript>,
    runs: AtomicU64,
}

impl Noiseless {
    fn new() -> Self {
        Self {
            coins: (0..OPTIONS.canaries).map(|i| i % 3 == 0).collect(),
            transcript: Transcript::new(json!({})),
            runs: AtomicU64::new(0),
        }
    }

    fn knowledge(&self) -> (LinearScore, Vec<(LinearScore, bool)>) {
        let score =
            |bin: usize| LinearScore::new(&[(bin, 1.0)].into(), &Votes::new(), &Votes::new());
        let canaries = self.coins.iter().enumerate();
        let canaries = canaries.map(|(bin, coin)| (score(bin), *coin)).collect();
        (score(0), canaries)
    }
}

impl Mechanism for Noiseless {
    fn observe(&self, world: World, _: u64) -> Result<Observation, AuditError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let votes: Vec<i64> = match world {
            World::WithCanary => vec![1],
            World::WithoutCanary => vec![0],
            World::Coins => self.coins.iter().map(|coin| i64::from(*coin)).collect(),
        };
        let lattice = votes.iter().map(|vote| vote << 20).collect();
        Ok(Observation {
            releases: vec![vec![NoisyHistogram::from_lattice(lattice)]],
            transcript: Arc::clone(&self.transcript),
        })
    }
}

#[test]
fn every_method_finds_a_mechanism_without_noise() {
    let mechanism = Noiseless::new();
    let (score, canaries) = mechanism.knowledge();
    let knowledge = Knowledge {
        score: &score,
        canaries: &canaries,
    };
    let findings = run_trials(&mechanism, &knowledge, 1e-5, &OPTIONS, &Silent).unwrap();
    // Three runs in each of the first 2,000 trials and two in the others; the first; the coins.
    assert_eq!(mechanism.runs.into_inner(), 3 * 2000 + 2 * 3000 + 1 + 1);
    let epsilon = |method| findings.bound(method).unwrap().epsilon;
    assert_eq!(epsilon(Method::Transcript), 0.0);
    assert!(epsilon(Method::Threshold) > 5.0, "{findings:?}");
    assert!(epsilon(Method::ThresholdOfDifference) > 4.5, "{findings:?}");
    assert!(epsilon(Method::Gaussian) > 20.0, "{findings:?}");
    assert!(epsilon(Method::GaussianOfDifference) > 20.0, "{findings:?}");
    // 200 correct guesses of 200, at an error of 0.05/6/3: the ε at which q^200 is that error, up
    // to the term in δ.
    let one_run = epsilon(Method::OneRun);
    let largest = -((0.05f64 / 18.0).powf(-1.0 / 200.0) - 1.0).ln();
    assert!(
        (0.9 * largest..largest).contains(&one_run),
        "{one_run} of {largest}"
    );
}

#[test]
fn an_audit_without_canaries_has_no_guesses() {
    let mechanism = Noiseless::new();
    let (score, _) = mechanism.knowledge();
    let knowledge = Knowledge {
        score: &score,
        canaries: &[],
    };
    let findings = run_trials(&mechanism, &knowledge, 1e-5, &OPTIONS, &Silent).unwrap();
    let bound = findings.bound(Method::OneRun).unwrap();
    assert_eq!(bound.epsilon, 0.0);
    let none = Guesses {
        canaries: 0,
        guesses: 0,
        correct: 0,
    };
    assert_eq!(bound.evidence, Evidence::Guesses(none));
}

#[test]
fn options_out_of_range_are_named() {
    let refused = |options: AuditOptions| options.validate().unwrap_err().key;
    assert!(OPTIONS.validate().is_ok());
    for trials in [0, 99, MAX_TRIALS + 1] {
        assert_eq!(refused(AuditOptions { trials, ..OPTIONS }), "--trials");
    }
    for confidence in [0.0, 0.49, 1.0, f64::NAN] {
        let options = AuditOptions {
            confidence,
            ..OPTIONS
        };
        assert_eq!(refused(options), "--confidence");
    }
    let options = AuditOptions {
        canaries: MAX_CANARIES + 1,
        ..OPTIONS
    };
    assert_eq!(refused(options), "--canaries");
}

/// Is cancelled after the first report of progress.
#[derive(Default)]
struct Impatient(AtomicU64);

impl Progress for Impatient {
    fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn resume(&self, _: u64) {}
    fn advance(&self, done: u64) {
        self.0.store(done, Ordering::Relaxed);
    }
    fn end(&self) {}
    fn message(&self, _: &str) {}
}

impl Cancellation for Impatient {
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

#[test]
fn an_audit_stops_when_it_is_cancelled() {
    let mechanism = Noiseless::new();
    let (score, canaries) = mechanism.knowledge();
    let knowledge = Knowledge {
        score: &score,
        canaries: &canaries,
    };
    let observer = Impatient::default();
    let result = run_trials(&mechanism, &knowledge, 1e-5, &OPTIONS, &observer);
    assert!(matches!(result, Err(AuditError::Cancelled(_))));
    assert_eq!(observer.0.into_inner(), CHUNK);
}
