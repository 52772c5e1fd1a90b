//! The trials of an audit, and the bounds that follow from them.

use rayon::prelude::*;

use super::error::AuditError;
use super::mechanism::{LinearScore, Mechanism, Observation, World};
use super::one_run::Guesses;
use super::statistics::{Bound, Scores};
use crate::privacy::{Adjacency, epsilon};
use crate::progress::{Observer, Unit};
use crate::sections::InvalidKey;

/// The effort of an audit.
#[derive(Debug, Clone, Copy)]
pub struct AuditOptions {
    /// Runs of the mechanism in each of the two worlds.
    pub trials: u64,
    /// Canaries of the single run with coins; 0 omits it.
    pub canaries: usize,
    /// The probability with which all bounds hold together.
    pub confidence: f64,
    /// The seed of images and coins. Noise has no seed.
    pub seed: u64,
}

/// The smallest accepted number of trials: fewer exclude nothing at the usual confidence.
const MIN_TRIALS: u64 = 100;
/// The largest accepted number of trials, whose scores take 400 MB.
const MAX_TRIALS: u64 = 10_000_000;
/// The largest accepted number of canaries, each of which is a file and a vote.
const MAX_CANARIES: usize = 100_000;

impl AuditOptions {
    /// Checks the ranges of the values.
    ///
    /// # Errors
    /// Returns the first option that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if !(MIN_TRIALS..=MAX_TRIALS).contains(&self.trials) {
            let message = format!(
                "expected {MIN_TRIALS} to {MAX_TRIALS}, found {}",
                self.trials
            );
            return Err(InvalidKey::new("--trials", message));
        }
        if self.canaries > MAX_CANARIES {
            let message = format!("expected at most {MAX_CANARIES}, found {}", self.canaries);
            return Err(InvalidKey::new("--canaries", message));
        }
        if !(0.5..1.0).contains(&self.confidence) {
            let message = format!("expected at least 0.5, below 1, found {}", self.confidence);
            return Err(InvalidKey::new("--confidence", message));
        }
        Ok(())
    }

    /// Returns the number of trials that also run the mechanism a third time, for the scores that
    /// compare with a reference.
    fn references(&self) -> u64 {
        (self.trials / 5).max(2000).min(self.trials)
    }
}

/// The test from which a lower bound follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A comparison of everything that is published besides the histograms.
    Transcript,
    /// A threshold of the likelihood ratio; bound of ε at δ.
    Threshold,
    /// The same, after subtraction of a second run without the canary and with the same number:
    /// finds noise that repeats itself.
    ThresholdOfDifference,
    /// A threshold of the likelihood ratio; bound of μ of Gaussian differential privacy.
    Gaussian,
    /// The same, after subtraction of a second run.
    GaussianOfDifference,
    /// Guesses of the coins of many canaries in one run.
    OneRun,
}

impl Method {
    /// All methods, in the order of reports. The allowed error is divided equally among them.
    pub const ALL: [Self; 6] = [
        Self::Transcript,
        Self::Threshold,
        Self::ThresholdOfDifference,
        Self::Gaussian,
        Self::GaussianOfDifference,
        Self::OneRun,
    ];

    /// Returns the name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Transcript => "transcript",
            Self::Threshold => "threshold",
            Self::ThresholdOfDifference => "threshold of difference",
            Self::Gaussian => "gaussian",
            Self::GaussianOfDifference => "gaussian of difference",
            Self::OneRun => "one run",
        }
    }
}

/// A lower bound of ε at the δ of the claim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpsilonBound {
    /// The test.
    pub method: Method,
    /// The bound; 0 if the test excludes nothing.
    pub epsilon: f64,
    /// The bound of μ, for the methods that have one.
    pub mu: Option<f64>,
    /// The counts from which the bound follows.
    pub evidence: Evidence,
}

/// The counts from which a bound follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Evidence {
    /// An event in the two worlds.
    Event(Bound),
    /// Guesses of coins.
    Guesses(Guesses),
}

/// The auditor's knowledge of the worlds.
pub struct Knowledge<'a> {
    /// The score that distinguishes the two worlds.
    pub score: &'a LinearScore,
    /// The score and the coin of each canary of the world of coins; empty if there is none.
    pub canaries: &'a [(LinearScore, bool)],
}

/// The result of all trials.
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    /// One bound per method, in the order of [`Method::ALL`].
    pub bounds: Vec<EpsilonBound>,
    /// JSON pointers of the published values in which the two worlds differed in any trial.
    pub differences: Vec<String>,
}

impl Findings {
    /// Returns the bound of a method.
    #[cfg(test)]
    pub fn bound(&self, method: Method) -> Option<&EpsilonBound> {
        self.bounds.iter().find(|bound| bound.method == method)
    }

    /// Returns the largest lower bound of ε.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        let bounds = self.bounds.iter().map(|bound| bound.epsilon);
        bounds.fold(0.0, f64::max)
    }
}

/// Trials between two reports of progress.
const CHUNK: u64 = 1024;

/// The scores of one trial.
struct TrialScores {
    with: f64,
    without: f64,
    /// The score of a second run without the canary.
    reference: Option<f64>,
    /// Pointers of the differences of each transcript from that of the first run with the canary.
    differences: [Vec<String>; 2],
}

/// Runs the mechanism in all worlds and computes lower bounds of its ε at `delta`, which hold
/// together with the confidence of `options`.
///
/// # Errors
/// Returns the error of the mechanism, or [`AuditError::Cancelled`].
pub fn run_trials(
    mechanism: &dyn Mechanism,
    knowledge: &Knowledge<'_>,
    delta: f64,
    options: &AuditOptions,
    observer: &dyn Observer,
) -> Result<Findings, AuditError> {
    options.validate()?;
    let first = mechanism.observe(World::WithCanary, 0)?;
    let mut plain = Scores::default();
    let mut difference = Scores::default();
    let mut transcripts = Scores::default();
    let mut differences = std::collections::BTreeSet::new();
    observer.begin("audit trials", Some(options.trials), Unit::Steps);
    for start in (0..options.trials).step_by(CHUNK as usize) {
        let end = (start + CHUNK).min(options.trials);
        let scores: Result<Vec<TrialScores>, AuditError> = (start..end)
            .into_par_iter()
            .map(|trial| score(mechanism, knowledge, &first, trial, options))
            .collect();
        for scores in scores.inspect_err(|_| observer.end())? {
            plain.with.push(scores.with);
            plain.without.push(scores.without);
            if let Some(reference) = scores.reference {
                difference.with.push(scores.with - reference);
                difference.without.push(scores.without - reference);
            }
            let equal = scores.differences.each_ref().map(Vec::is_empty);
            let [with, without] = equal.map(|equal| f64::from(u8::from(equal)));
            transcripts.with.push(with);
            transcripts.without.push(without);
            differences.extend(scores.differences.into_iter().flatten());
        }
        observer.advance(end);
        observer.end_if_cancelled()?;
    }
    observer.end();
    let error = (1.0 - options.confidence) / Method::ALL.len() as f64;
    let guesses = guess_coins(mechanism, knowledge, delta, error)?;
    let bounds = Method::ALL
        .into_iter()
        .map(|method| {
            Ok(match method {
                Method::Transcript => of_epsilon(method, transcripts.epsilon(delta, error)),
                Method::Threshold => of_epsilon(method, plain.epsilon(delta, error)),
                Method::ThresholdOfDifference => {
                    of_epsilon(method, difference.epsilon(delta, error))
                }
                Method::Gaussian => of_mu(method, plain.mu(error), delta)?,
                Method::GaussianOfDifference => of_mu(method, difference.mu(error), delta)?,
                Method::OneRun => guesses,
            })
        })
        .collect::<Result<_, AuditError>>()?;
    Ok(Findings {
        bounds,
        differences: differences.into_iter().collect(),
    })
}

fn score(
    mechanism: &dyn Mechanism,
    knowledge: &Knowledge<'_>,
    first: &Observation,
    trial: u64,
    options: &AuditOptions,
) -> Result<TrialScores, AuditError> {
    let with = mechanism.observe(World::WithCanary, trial)?;
    let without = mechanism.observe(World::WithoutCanary, trial)?;
    let reference = if trial < options.references() {
        let again = mechanism.observe(World::WithoutCanary, trial)?;
        Some(knowledge.score.of(&again))
    } else {
        None
    };
    Ok(TrialScores {
        with: knowledge.score.of(&with),
        without: knowledge.score.of(&without),
        reference,
        differences: [&with, &without].map(|seen| first.transcript.differences(&seen.transcript)),
    })
}

fn of_epsilon(method: Method, bound: Bound) -> EpsilonBound {
    EpsilonBound {
        method,
        epsilon: bound.value,
        mu: None,
        evidence: Evidence::Event(bound),
    }
}

/// Converts a bound of μ to ε by the accountant: noise of standard deviation 1/μ and one release
/// are μ-GDP. The accountant's reserve of 10⁻⁹·δ is far below the error of any audit.
fn of_mu(method: Method, bound: Bound, delta: f64) -> Result<EpsilonBound, AuditError> {
    let sigma = 1.0 / bound.value;
    let epsilon = match sigma.is_finite() {
        true => epsilon(sigma, 1, delta, Adjacency::AddRemove)?,
        false => 0.0,
    };
    Ok(EpsilonBound {
        method,
        epsilon,
        mu: Some(bound.value),
        evidence: Evidence::Event(bound),
    })
}

/// The shares of the canaries at each end that are guessed. The error is divided among them.
const GUESSED: [f64; 3] = [0.02, 0.1, 0.25];

/// Runs the mechanism once in the world of coins and guesses them.
fn guess_coins(
    mechanism: &dyn Mechanism,
    knowledge: &Knowledge<'_>,
    delta: f64,
    error: f64,
) -> Result<EpsilonBound, AuditError> {
    let mut best = (
        0.0,
        Guesses {
            canaries: knowledge.canaries.len() as u64,
            guesses: 0,
            correct: 0,
        },
    );
    if !knowledge.canaries.is_empty() {
        let seen = mechanism.observe(World::Coins, 0)?;
        let (scores, coins): (Vec<f64>, Vec<bool>) = knowledge
            .canaries
            .iter()
            .map(|(score, coin)| (score.of(&seen), *coin))
            .unzip();
        for share in GUESSED {
            let each = (scores.len() as f64 * share).ceil() as usize;
            let guesses = Guesses::count(&scores, &coins, each);
            let epsilon = guesses.epsilon(delta, error / GUESSED.len() as f64);
            if epsilon > best.0 || best.1.guesses == 0 {
                best = (epsilon, guesses);
            }
        }
    }
    Ok(EpsilonBound {
        method: Method::OneRun,
        epsilon: best.0,
        mu: None,
        evidence: Evidence::Guesses(best.1),
    })
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
