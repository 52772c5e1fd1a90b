//! The privacy core: the `Sensitive` type, the noise mechanism, the accountant and the ledger.
//!
//! Input: vote counts wrapped in [`Sensitive`], and a [`PrivacyConfig`]. Output: a
//! [`NoisyHistogram`] that may be published, the ledger of charges (`ledger.jsonl`), and the
//! [`Statement`] of the run (`privacy.json`).
//!
//! A release passes through this module in one order, and the types permit no other:
//!
//! ```text
//! PrivacyConfig ── resolve ──► ResolvedPrivacy ── Ledger::open ──► Ledger    (locked, validated)
//!                                                                    │ charge(iteration)
//!                                                                    ▼ on disk before use
//! Sensitive<VoteCounts> ───────────── release ◄──────────────────── Charge    (consumed, not
//! Clone)
//!                                       ▼
//!                            UnpublishedHistogram ── store ──► NoisyHistogram    (on disk, public)
//! ```
//!
//! | file | content |
//! |---|---|
//! | `sensitive` | the type around everything derived from private images |
//! | `private_folder` | the only folder that receives sensitive bytes |
//! | `evaluation` | metrics of private images, printed for their owner and marked |
//! | `fingerprint` | a hash that recognizes the private data without revealing them |
//! | `noise_source` | the source of random bits: a secret key per run, drawn by the operating
//! system | | `discrete_gaussian` | the exact sampler (Canonne, Kamath, Steinke 2020), integers
//! only | | `lattice` | the grid of counts and noise, and the proof that it costs no privacy |
//! | `vote_counts` | exact votes on the lattice, and the bound on what one image contributes |
//! | `earlier` | charges of earlier runs on the same images |
//! | `recorded` | the ledger of a run that another run extends |
//! | `charge` | the proof that one release is in the ledger |
//! | `histogram` | counts with noise |
//! | `mechanism` | `release`: its guarantee, and the reason why it holds |
//! | `normal_tail` | δ(ε) of the Gaussian mechanism (Balle, Wang 2018) with an error bound |
//! | `accountant` | ε from σ of each release and δ, σ from (ε, T, δ), rounded in the safe direction |
//! | `unit` | the unit of privacy |
//! | `settings` | the `[privacy]` table of the configuration, validated |
//! | `ledger` | the charges, on disk before noise is sampled |
//! | `abandoned` | the locked ledger of a run that will not go on |
//! | `budget` | one budget for a data set, over all runs |
//! | `statement` | `privacy.json`: the claim and its assumptions |
//! | `trial` | the mechanism without a ledger, for audits of public images |
//! | `overlap` | whether images that were declared public are private ones |
//! | `padding` | the time of work with private data, padded to a public multiple |
//! | `report` | the table of `dpsyn privacy` |
//! | `rounding` | numbers as text, rounded in the safe direction |
//!
//! The sampler and the accountant are written here although OpenDP (Rust crate `opendp`, 0.16) has
//! both. Its default features build OpenSSL, it brings about 60 further crates, and without
//! OpenSSL its samplers read a user-space generator; here, noise must come from the operating
//! system's generator and from nothing else, the rounding of ε must be directed, and each function
//! must be next to its proof, so that a reviewer needs to read only about 600 lines.

mod abandoned;
mod accountant;
mod budget;
mod charge;
mod discrete_gaussian;
mod earlier;
mod error;
mod evaluation;
mod fingerprint;
mod histogram;
mod lattice;
mod ledger;
mod mechanism;
mod noise_source;
mod normal_tail;
mod overlap;
mod padding;
mod private_folder;
mod recorded;
mod report;
mod rounding;
mod sensitive;
mod settings;
mod statement;
mod trial;
mod unit;
mod vote_counts;

pub use abandoned::AbandonedRun;
pub use accountant::{Adjacency, epsilon, noise_multiplier};
pub use budget::{Budget, BudgetTerms};
pub use charge::Charge;
pub use earlier::{EarlierRun, check_carried, merge as merge_earlier, run_above, run_of_samples};
pub use error::PrivacyError;
pub use evaluation::{PrivateEvaluationConsent, print_marked_private};
pub use fingerprint::{Fingerprint, FingerprintHasher, same_data, sha256_hex};
pub use histogram::NoisyHistogram;
pub use ledger::Ledger;
pub use mechanism::{UnpublishedHistogram, release};
pub use overlap::{ImageDigests, contains_private};
pub use padding::PadPeriod;
pub(crate) use padding::{Padding, SystemClock};
pub use private_folder::PrivateFolder;
pub use recorded::RecordedRun;
pub use report::Report;
pub use rounding::round_up;
pub use sensitive::Sensitive;
pub use settings::{NonPrivateConsent, PrivacyConfig, ResolvedPrivacy};
pub use statement::{ClassConditions, EmbeddingDevice, PublicInputs, Statement, UniformFallback};
#[cfg(test)]
pub use trial::with_repeated_noise;
pub use trial::{PublicCanaries, Trial};
pub use unit::{MOST_BINS_OF_CLIENTS, Unit};
pub use vote_counts::{ClientVotes, VoteCounts};
