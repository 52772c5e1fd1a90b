//! [`AuditReport`]: the result of an audit as text and as JSON (`docs/audit.md`).

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::run::{AuditOptions, EpsilonBound, Evidence, Findings};
use super::votes::{Subject, Worlds};
use crate::privacy::{Adjacency, Unit, round_up};
use crate::schedule::Schedule;

/// The version of the JSON report.
const VERSION: u32 = 1;

/// The claim of a mechanism, the lower bounds of an audit, and the verdict.
#[derive(Debug, Clone, Serialize)]
pub struct AuditReport {
    report: &'static str,
    version: u32,
    software: String,
    claim: Claim,
    worlds: PairOfWorlds,
    trials_per_world: u64,
    canaries: usize,
    confidence: f64,
    seed: u64,
    bounds: Vec<Value>,
    transcript_differences: Vec<String>,
    epsilon_lower: f64,
    verdict: &'static str,
    #[serde(skip)]
    findings: Findings,
}

#[derive(Debug, Clone, Serialize)]
struct Claim {
    /// Null for a mechanism without noise, or with noise from a test seed.
    epsilon: Option<f64>,
    delta: f64,
    mu: f64,
    adjacency: Adjacency,
    unit: &'static str,
    noise_multiplier: Schedule<f64>,
    nearest_neighbors: Schedule<u32>,
    releases: u32,
    non_private: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
struct PairOfWorlds {
    description: String,
    classes: Vec<String>,
    /// Images with the canary, and without it.
    units: [usize; 2],
    bins: usize,
    embedder: String,
    threshold: Option<f64>,
    /// The distance of the clean histograms of one release, and the largest that two neighboring
    /// data sets can have, in votes.
    l2_distance_votes: f64,
    l2_sensitivity_votes: f64,
}

impl AuditReport {
    /// Joins the claim of the subject with the findings about it.
    #[must_use]
    pub fn new(
        subject: &Subject<'_>,
        worlds: &Worlds,
        options: &AuditOptions,
        findings: Findings,
    ) -> Self {
        let privacy = &subject.privacy;
        let (releases, adjacency) = (privacy.releases(), privacy.adjacency());
        let claimed = privacy.epsilon_after(releases, adjacency);
        let most_votes = privacy.nearest_neighbors().values().iter().max();
        let squared_votes = privacy.squared_votes(most_votes.copied().unwrap_or_default());
        let sensitivity = f64::from(adjacency.squared_sensitivity() * squared_votes).sqrt();
        let above = findings.epsilon() > claimed;
        Self {
            report: "dpsyn audit",
            version: VERSION,
            software: format!("dpsyn {}", env!("CARGO_PKG_VERSION")),
            claim: Claim {
                epsilon: claimed.is_finite().then_some(claimed),
                delta: privacy.delta(),
                mu: privacy.mu_after(releases, adjacency),
                adjacency,
                unit: privacy.unit().name(),
                noise_multiplier: privacy.noise_multiplier().clone(),
                nearest_neighbors: privacy.nearest_neighbors().clone(),
                releases,
                non_private: privacy.non_private(),
            },
            worlds: PairOfWorlds {
                description: describe(subject),
                classes: subject.classes.clone(),
                units: worlds.units,
                bins: worlds.bins,
                embedder: subject.embedder_name.clone(),
                threshold: subject.threshold,
                l2_distance_votes: worlds.score.distance(),
                l2_sensitivity_votes: sensitivity,
            },
            trials_per_world: options.trials,
            canaries: options.canaries,
            confidence: options.confidence,
            seed: options.seed,
            bounds: findings.bounds.iter().map(bound).collect(),
            transcript_differences: findings.differences.clone(),
            epsilon_lower: findings.epsilon(),
            verdict: if above {
                "ABOVE THE CLAIM"
            } else {
                "below the claim"
            },
            findings,
        }
    }

    /// Returns the largest lower bound and the claim, if the bound exceeds it.
    #[must_use]
    pub fn above(&self) -> Option<(f64, f64)> {
        let claimed = self.claim.epsilon.unwrap_or(f64::INFINITY);
        (self.epsilon_lower > claimed).then_some((self.epsilon_lower, claimed))
    }

    /// Returns the report as indented JSON with a final newline.
    ///
    /// # Errors
    /// Returns an error if a number has no JSON form, which does not occur for finite bounds.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn describe(subject: &Subject<'_>) -> String {
    let several = subject.classes.len() > 1;
    let (canary, other) = match (subject.privacy.unit(), several) {
        (Unit::Image, false) => ("one canary", "another image"),
        (Unit::Image, true) => (
            "one canary, the only one of its class",
            "an image of another class",
        ),
        (Unit::Client, false) => ("one canary client of three images", "another client"),
        (Unit::Client, true) => (
            "one canary client of three images in two classes, of which one has no others",
            "another client",
        ),
    };
    match subject.privacy.adjacency() {
        Adjacency::AddRemove => format!("public images with or without {canary}"),
        Adjacency::ReplaceOne => {
            format!("public images with {canary}, or with {other} in its place")
        }
    }
}

fn bound(bound: &EpsilonBound) -> Value {
    let mut value = json!({
        "method": bound.method.name(),
        "epsilon_lower": bound.epsilon,
    });
    let evidence = match &bound.evidence {
        Evidence::Event(event) => json!({
            "trials": event.frequent.trials,
            "events_in_one_world": event.frequent.successes,
            "events_in_the_other": event.rare.successes,
        }),
        Evidence::Guesses(guesses) => json!({
            "canaries": guesses.canaries,
            "guesses": guesses.guesses,
            "correct": guesses.correct,
        }),
    };
    if let (Some(fields), Value::Object(evidence)) = (value.as_object_mut(), evidence) {
        fields.extend(evidence);
        if let Some(mu) = bound.mu {
            fields.insert("mu_lower".to_owned(), json!(mu));
        }
    }
    value
}

/// Formats a lower bound with three digits after the point, rounded down.
fn round_down(value: f64) -> String {
    format!("{:.3}", (value * 1000.0).floor() / 1000.0)
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = &self.claim;
        let worlds = &self.worlds;
        let claimed = round_up(claim.epsilon.unwrap_or(f64::INFINITY), 3);
        writeln!(
            f,
            "claim: epsilon {claimed} at delta {}, unit one {}, adjacency {} (mu {})",
            claim.delta,
            claim.unit,
            claim.adjacency,
            round_up(claim.mu, 4)
        )?;
        writeln!(
            f,
            "mechanism: {} releases, noise multiplier {}, {} votes of each image, embedder {}",
            claim.releases,
            claim.noise_multiplier.map(|sigma| round_up(*sigma, 4)),
            claim.nearest_neighbors,
            worlds.embedder
        )?;
        if let Some(reason) = claim.non_private {
            writeln!(f, "NOT PRIVATE: {reason}")?;
        }
        writeln!(
            f,
            "worlds: {}; {} and {} {}s, {} bins, L2 distance {:.3} of at most {:.3} votes",
            worlds.description,
            worlds.units[0],
            worlds.units[1],
            claim.unit,
            worlds.bins,
            worlds.l2_distance_votes,
            worlds.l2_sensitivity_votes
        )?;
        writeln!(
            f,
            "trials: {} in each world, and one run with {} canaries\n\n\
             lower bounds of epsilon, rounded down; together at a confidence of {} %:",
            self.trials_per_world,
            self.canaries,
            self.confidence * 100.0
        )?;
        for bound in &self.findings.bounds {
            let name = bound.method.name();
            write!(f, "  {name:24} {:>8}   ", round_down(bound.epsilon))?;
            match &bound.evidence {
                Evidence::Event(event) => write!(
                    f,
                    "{} of {} against {} of {}",
                    event.frequent.successes,
                    event.frequent.trials,
                    event.rare.successes,
                    event.rare.trials
                )?,
                Evidence::Guesses(guesses) => {
                    write!(f, "{} of {} guesses", guesses.correct, guesses.guesses)?;
                }
            }
            match bound.mu {
                Some(mu) => writeln!(f, ", mu at least {}", round_down(mu))?,
                None => writeln!(f)?,
            }
        }
        for pointer in &self.transcript_differences {
            writeln!(f, "published, and different in the two worlds: {pointer}")?;
        }
        write!(
            f,
            "\nlargest lower bound: {}; {}",
            round_down(self.epsilon_lower),
            self.verdict
        )
    }
}
