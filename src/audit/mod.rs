//! An empirical lower bound of ε of the mechanism, from many runs of it on public images.
//!
//! The accountant proves an upper bound of ε from the description of the mechanism. An audit runs
//! the program itself on two neighboring data sets, and tries to tell from the published results
//! which one it was. Its success rate excludes, at a stated confidence, every smaller ε. A lower
//! bound above the claim proves a defect; one below the claim proves nothing more than that this
//! adversary found none (`docs/audit.md`).
//!
//! | file | content |
//! |---|---|
//! | `run` | the trials, the scores, and one bound per method |
//! | `votes` | the real mechanism: images on disk, embeddings, vote, release |
//! | `images` | the public images of an audit |
//! | `mechanism` | the trait of a subject, and the score of an observation |
//! | `statistics` | bounds of ε and μ from the scores of two worlds |
//! | `one_run` | the bound from one run with many canaries |
//! | `report` | the result as text and JSON |
//!
//! The tests contain broken mechanisms, each of which the audit must find.

#[cfg(test)]
mod broken_tests;
mod error;
mod images;
mod mechanism;
mod one_run;
mod report;
mod run;
mod statistics;
mod votes;

pub use error::AuditError;
pub use report::AuditReport;
pub use run::AuditOptions;
pub use votes::{Subject, votes_of_an_image};

use crate::progress::Observer;
use run::{Knowledge, run_trials};
use votes::{VoteMechanism, Worlds};

/// Audits the mechanism of `subject`.
///
/// # Errors
/// Returns [`AuditError`] if an option is out of range, a file, the embedder or the vote fails, or
/// the user requested to stop. A lower bound above the claim is no error of the audit.
pub fn audit(
    subject: &Subject<'_>,
    options: &AuditOptions,
    observer: &dyn Observer,
) -> Result<AuditReport, AuditError> {
    options.validate()?;
    let worlds = Worlds::prepare(subject, options.canaries, options.seed, observer)?;
    let mechanism = VoteMechanism::new(&worlds, &subject.privacy);
    let knowledge = Knowledge {
        score: &worlds.score,
        canaries: &worlds.canaries,
    };
    let delta = subject.privacy.delta();
    let findings = run_trials(&mechanism, &knowledge, delta, options, observer)?;
    Ok(AuditReport::new(subject, &worlds, options, findings))
}
