//! What makes the privacy claim true: the wall, the mechanism, the accountant, the ledger.
//!
//! In: vote counts behind the [`Sensitive`] wall, and a [`PrivacyConfig`]. Out: a
//! [`NoisyHistogram`] that may be published, the ledger of charges, and the run's [`Statement`].
//!
//! One release goes through here like this, and the types allow no other order:
//!
//! ```text
//! PrivacyConfig ── resolve ──► ResolvedPrivacy ── Ledger::open ──► Ledger      (locked, validated)
//!                                                                    │ charge(iteration)
//!                                                                    ▼ written and synced first
//! Sensitive<Vec<u64>> ────────────── release ◄──────────────────── Charge      (not Clone, consumed)
//!                                       ▼
//!                                     UnpublishedHistogram ── store ──► NoisyHistogram        (on disk before use)
//! ```
//!
//! | file | job |
//! |---|---|
//! | `sensitive` | the wall around everything derived from private images |
//! | `private_folder` | the only folder into which sensitive bytes can be written |
//! | `evaluation` | figures about private images, shown to their owner and marked |
//! | `fingerprint` | recognising the private data without revealing them |
//! | `noise_source` | where random bits of the noise come from: the operating system |
//! | `discrete_gaussian` | the exact sampler, integer arithmetic only |
//! | `lattice` | the grid that counts and noise live on, and what it costs (nothing) |
//! | `mechanism` | `release`: adds the noise; what it guarantees and why |
//! | `normal_tail` | the normal distribution's tail, accurate to the last digits |
//! | `accountant` | ε from (σ, T, δ), σ from (ε, T, δ), never rounded in the wrong direction |
//! | `settings` | the `[privacy]` table of the configuration, validated |
//! | `ledger` | charges, on disk before noise is drawn |
//! | `statement` | `privacy.json`: what is claimed, under which assumptions |
//! | `report` | the answer of `dpsyn privacy` |
//! | `rounding` | numbers as text, rounded in the safe direction |

mod accountant;
mod discrete_gaussian;
mod error;
mod evaluation;
mod fingerprint;
mod lattice;
mod ledger;
mod mechanism;
mod noise_source;
mod normal_tail;
mod private_folder;
mod report;
mod rounding;
mod sensitive;
mod settings;
mod statement;

pub use accountant::{Adjacency, epsilon, noise_multiplier};
pub use error::PrivacyError;
pub use evaluation::{PRIVATE_MARK, PrivateEvaluationConsent, print_marked_private};
pub use fingerprint::{Fingerprint, same_data, sha256_hex};
pub use lattice::LATTICE_BITS;
pub use ledger::Ledger;
pub use mechanism::{Charge, NoisyHistogram, UnpublishedHistogram, release};
pub use private_folder::PrivateFolder;
pub use report::{Report, ReportRow};
pub use rounding::round_up;
pub use sensitive::Sensitive;
pub use settings::{NonPrivateConsent, PrivacyConfig, ResolvedPrivacy, Unit};
pub use statement::{ClassConditions, PublicInputs, Statement, UniformFallback};
