//! Attacks on the privacy claim: an attacker sees everything that a run publishes, knows all
//! private images but one, and has to tell two data sets apart that differ in this image.
//!
//! Every attack runs the real binary. What the noise enters is listed in `attacks/compare.rs`;
//! everything else that is published has to be the same for both data sets, byte for byte, so these
//! tests have no false alarms.

mod clients;
mod compare;
#[cfg(unix)]
mod comparison;
mod data_sets;
mod declarations;
mod duplicates;
mod figures;
mod hosted;
#[cfg(feature = "insecure-test-noise")]
mod known_noise;
mod neighbors;
mod precision;
mod rollback;
