//! The lines of a ledger: the header, and two kinds of records that end with a digest.

use serde::Serialize;

use super::is_lower_hex;
use crate::privacy::accountant::Adjacency;
use crate::privacy::earlier::EarlierRun;
use crate::privacy::rounding::ShownEpsilon;
use crate::privacy::unit::Unit;
use crate::schedule::Schedule;

/// The bytes with which every header begins.
pub(super) const TITLE: &str = "{\"ledger\":\"dpsyn privacy ledger\",\"version\":2,";

/// Version of the format. Version 1 had noise of the operating system, drawn anew by every process.
pub(in crate::privacy) const VERSION: u32 = 2;

/// Digits of a SHA-256.
const DIGITS: usize = 64;

/// The first line: the terms of the run.
#[derive(Serialize)]
pub(super) struct Header<'a> {
    pub ledger: &'static str,
    pub version: u32,
    pub run_id: &'a str,
    pub mechanism: &'static str,
    /// A number, or a list with one for each planned release.
    pub noise_multiplier: &'a Schedule<f64>,
    pub nearest_neighbors: &'a Schedule<u32>,
    pub lattice_bits: u32,
    /// Decimal digits; null without noise.
    pub lattice_sigma: Option<Schedule<String>>,
    pub planned_releases: u32,
    pub delta: f64,
    pub adjacency: Adjacency,
    pub unit: Unit,
    pub noise: &'static str,
    /// SHA-256 of the key in the private folder; null without noise.
    pub noise_key_sha256: Option<String>,
    pub non_private: Option<&'static str>,
    pub config_sha256: &'a str,
    /// Charges of other runs on the same private images that the claim includes.
    pub earlier_runs: &'a [EarlierRun],
}

/// A line after the header. The digest is the last field, so that a line is a start that is known
/// beforehand, a digest, and [`END`].
#[derive(Serialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub(super) enum Record<'a> {
    Charge {
        iteration: u32,
        release: &'static str,
        /// σ of this release, in a run in which σ or k changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        noise_multiplier: Option<f64>,
        /// k of this release, in such a run.
        #[serde(skip_serializing_if = "Option::is_none")]
        nearest_neighbors: Option<u32>,
        releases_so_far: u32,
        epsilon_so_far: ShownEpsilon,
        delta: f64,
        adjacency: Adjacency,
        unit: Unit,
        candidates_sha256: &'a str,
    },
    Drawn {
        iteration: u32,
        sha256: &'a str,
    },
}

/// The end of a record, after its digest.
const END: &str = "\"}";

/// A record whose digest is not known beforehand.
pub(super) struct ExpectedLine {
    /// Everything before the digest.
    start: String,
}

impl ExpectedLine {
    /// Makes the expectation from a record that was rendered with an empty digest.
    pub(super) fn of(rendered: &str) -> Self {
        Self {
            start: rendered.strip_suffix(END).unwrap_or(rendered).to_owned(),
        }
    }

    /// Returns the digest of a complete line; `None` if it is another line.
    pub(super) fn digest_of<'l>(&self, line: &'l str) -> Option<&'l str> {
        line.strip_prefix(&self.start)
            .and_then(|rest| rest.strip_suffix(END))
            .filter(|digest| digest.len() == DIGITS && digest.bytes().all(is_lower_hex))
    }

    /// Returns true if `text` is the beginning of such a line.
    pub(super) fn may_begin_with(&self, text: &[u8]) -> bool {
        let Some(rest) = text.strip_prefix(self.start.as_bytes()) else {
            return self.start.as_bytes().starts_with(text);
        };
        let digits = rest.iter().take_while(|byte| is_lower_hex(**byte)).count();
        let (_, end) = rest.split_at(digits);
        match digits {
            0..DIGITS => end.is_empty(),
            DIGITS => END.as_bytes().starts_with(end),
            _ => false,
        }
    }

    /// Returns the line for messages.
    pub(super) fn shown(&self) -> String {
        format!("{}<{DIGITS} hexadecimal digits>{END}", self.start)
    }
}
