//! Reading a ledger back: every line must be the one that this program writes at that position.

use std::io::Read;

use serde_json::Value;

use super::lines::{TITLE, VERSION};
use super::{Entry, Ledger, is_lower_hex};
use crate::privacy::error::PrivacyError;

impl Ledger {
    /// Reads and validates the file, and cuts off a torn last line. Returns false if the file has
    /// no header.
    pub(super) fn replay(&mut self) -> Result<bool, PrivacyError> {
        let mut bytes = Vec::new();
        self.file
            .read_to_end(&mut bytes)
            .map_err(PrivacyError::io("read", &self.path))?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |i| i + 1);
        let torn = bytes.split_off(whole);
        let lines = bytes;
        let mut begun = false;
        let mut number = 0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            number += 1;
            let line = std::str::from_utf8(line)
                .map_err(|_| self.line_error(number, "is not text"))?
                .trim_end_matches('\n');
            if begun {
                self.replay_record(number, line)?;
            } else {
                self.replay_header(line)?;
                begun = true;
            }
        }
        if !torn.is_empty() {
            // Some file systems extend a file with zeros before its data arrive.
            let end = torn
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |i| i + 1);
            let (text, _) = torn.split_at(end);
            if !self.may_be_torn(begun, text)? {
                return Err(self.line_error(
                    number + 1,
                    "is incomplete and is not a prefix of the expected line",
                ));
            }
            self.file
                .set_len(whole as u64)
                .map_err(PrivacyError::io("shorten", &self.path))?;
        }
        self.lines = lines;
        // A killed process may have written complete lines that were never synced.
        self.file
            .sync_all()
            .map_err(PrivacyError::io("sync", &self.path))?;
        Ok(begun)
    }

    fn replay_header(&mut self, line: &str) -> Result<(), PrivacyError> {
        let found: Value = serde_json::from_str(line)
            .map_err(|error| self.line_error(1, format!("is not a JSON object: {error}")))?;
        let run_id = found.get("run_id").and_then(Value::as_str).unwrap_or("");
        if run_id.len() != 32 || !run_id.bytes().all(is_lower_hex) {
            return Err(self.line_error(1, "`run_id` is not 32 hexadecimal digits"));
        }
        self.run_id = run_id.to_owned();
        let version = found.get("version").and_then(Value::as_u64);
        if version.is_some_and(|version| version < u64::from(VERSION)) {
            return Err(PrivacyError::LedgerVersion {
                path: self.path.clone(),
            });
        }
        if self.key.is_none() && self.privacy.has_noise() {
            // Nothing can be drawn without the key. Opening the ledger reports that it is missing.
            let key = found.get("noise_key_sha256").and_then(Value::as_str);
            self.key_sha256 = key.map(str::to_owned);
        }
        let expected_line = self.header_line()?;
        if line == expected_line {
            return Ok(());
        }
        let expected: Value = serde_json::from_str(&expected_line)
            .map_err(|error| self.line_error(1, error.to_string()))?;
        let keys = |value: &Value| -> Vec<String> {
            let object = value.as_object();
            object.map_or(Vec::new(), |o| o.keys().cloned().collect())
        };
        // In the order of the header, so that the message names a configured value rather than one
        // that is derived from it.
        let mut all: Vec<String> = keys(&expected).into_iter().chain(keys(&found)).collect();
        all.sort_by_key(|key| {
            expected_line
                .find(&format!("\"{key}\":"))
                .unwrap_or(usize::MAX)
        });
        for key in all {
            let (ledger, present) = (found.get(&key), expected.get(&key));
            if ledger != present {
                let text = |value: Option<&Value>| value.map_or("absent".into(), Value::to_string);
                return Err(PrivacyError::LedgerTerms {
                    path: self.path.clone(),
                    ledger: text(ledger),
                    present: text(present),
                    key,
                });
            }
        }
        Err(self.line_error(
            1,
            "has the expected values but other bytes: the file was edited",
        ))
    }

    fn replay_record(&mut self, number: usize, line: &str) -> Result<(), PrivacyError> {
        let drawing = self.awaits_drawing();
        if !drawing && self.charged() >= self.privacy.releases {
            return Err(self.line_error(
                number,
                format!(
                    "is one line too many for {} planned releases",
                    self.privacy.releases
                ),
            ));
        }
        let expected = self.expected_record()?;
        let Some(digest) = expected.digest_of(line).map(str::to_owned) else {
            let expected = expected.shown();
            return Err(self.line_error(number, format!("expected {expected}, found {line}")));
        };
        match self.entries.last_mut() {
            Some(last) if drawing => last.drawn = Some(digest),
            _ => self.entries.push(Entry {
                candidates: digest,
                drawn: None,
            }),
        }
        Ok(())
    }

    /// Returns true if `text` is a prefix of the line that was due.
    fn may_be_torn(&self, begun: bool, text: &[u8]) -> Result<bool, PrivacyError> {
        if text.is_empty() {
            return Ok(true);
        }
        if !begun {
            // The id of the run is unknown, and so is the rest of the line.
            return Ok(TITLE.as_bytes().starts_with(text) || text.starts_with(TITLE.as_bytes()));
        }
        let due = self.awaits_drawing() || self.charged() < self.privacy.releases;
        Ok(due && self.expected_record()?.may_begin_with(text))
    }
}
