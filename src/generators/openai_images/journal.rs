//! `requests.jsonl`: a record of every request that may cost money, synced to disk before the
//! request is sent.
//!
//! A request without an outcome in the journal (the process was killed, the connection broke)
//! counts as paid in full. Only a response with fewer images or a refusal by the server (4xx)
//! reduces it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::ServiceError;
use crate::atomic;

/// Limits of the requests and the cost of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SpendingLimits {
    /// Maximum number of requests.
    pub(super) max_requests: Option<u64>,
    /// Price of one image.
    pub(super) price_per_image: Option<f64>,
    /// Maximum cost, in the unit of the price.
    pub(super) max_cost: Option<f64>,
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The response contained this number of images.
    Images(u64),
    /// The server refused the request with this status, without charge.
    Refused(u16),
    /// Unknown (the server failed or the connection broke), so it counts as paid.
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Record {
    Request {
        request: u64,
        endpoint: String,
        images: u64,
    },
    Outcome {
        request: u64,
        outcome: Outcome,
    },
}

/// The journal of a run, open for writing.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    limits: SpendingLimits,
    requests: u64,
    /// Images that were or may have been paid for.
    images: u64,
    /// Number of images of each request without an outcome.
    open: BTreeMap<u64, u64>,
}

impl Journal {
    /// Opens or creates the journal and counts its records. An incomplete last line is removed: its
    /// request was not sent.
    ///
    /// # Errors
    /// [`ServiceError::Io`] or [`ServiceError::Journal`].
    pub(super) fn open(path: &Path, limits: SpendingLimits) -> Result<Self, ServiceError> {
        let io = ServiceError::io(path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(&io)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        atomic::sync_folder(folder).map_err(&io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(&io)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        file.set_len(whole as u64).map_err(&io)?;
        file.seek(SeekFrom::End(0)).map_err(&io)?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            limits,
            requests: 0,
            images: 0,
            open: BTreeMap::new(),
        };
        let lines = bytes.get(..whole).unwrap_or_default();
        for (number, line) in lines.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let record = serde_json::from_slice(line).map_err(|_| ServiceError::Journal {
                path: path.to_owned(),
                line: number + 1,
            })?;
            journal.count(&record);
        }
        Ok(journal)
    }

    fn count(&mut self, record: &Record) {
        match record {
            Record::Request {
                request, images, ..
            } => {
                self.requests = self.requests.max(*request);
                self.images = self.images.saturating_add(*images);
                self.open.insert(*request, *images);
            }
            Record::Outcome { request, outcome } => {
                let counted = self.open.remove(request).unwrap_or(0);
                let paid = match outcome {
                    Outcome::Images(images) => counted.min(*images),
                    Outcome::Refused(_) => 0,
                    Outcome::Unknown => counted,
                };
                self.images = self.images.saturating_sub(counted - paid);
            }
        }
    }

    /// Records a request for `images` images, synced to disk, and returns its number.
    ///
    /// # Errors
    /// [`ServiceError::LimitReached`] if the request would exceed a limit, [`ServiceError::Io`].
    pub(super) fn begin(&mut self, endpoint: &str, images: u64) -> Result<u64, ServiceError> {
        let reached = |key, limit| ServiceError::LimitReached {
            key,
            limit,
            requests: self.requests,
            images: self.images,
        };
        let request = self.requests + 1;
        if let Some(limit) = self.limits.max_requests
            && request > limit
        {
            return Err(reached("max_requests", limit as f64));
        }
        if let (Some(price), Some(limit)) = (self.limits.price_per_image, self.limits.max_cost)
            && (self.images + images) as f64 * price > limit
        {
            return Err(reached("max_cost", limit));
        }
        self.write(&Record::Request {
            request,
            endpoint: endpoint.to_owned(),
            images,
        })?;
        self.file
            .sync_data()
            .map_err(ServiceError::io(&self.path))?;
        Ok(request)
    }

    /// Records the outcome of a request. It is not synced: without it the request counts as paid.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn end(&mut self, request: u64, outcome: Outcome) -> Result<(), ServiceError> {
        self.write(&Record::Outcome { request, outcome })
    }

    fn write(&mut self, record: &Record) -> Result<(), ServiceError> {
        let mut line = serde_json::to_vec(record)
            .map_err(|error| ServiceError::io(&self.path)(error.into()))?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(ServiceError::io(&self.path))?;
        self.count(record);
        atomic::set_time(&self.file).map_err(ServiceError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal_path() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.jsonl");
        (folder, path)
    }

    fn counts(path: &Path) -> (u64, u64) {
        let journal = Journal::open(path, SpendingLimits::default()).unwrap();
        (journal.requests, journal.images)
    }

    #[test]
    fn requests_without_a_known_outcome_count_as_paid() {
        let (_folder, path) = journal_path();
        let mut journal = Journal::open(&path, SpendingLimits::default()).unwrap();
        let mut send = |images, outcome: Option<Outcome>| {
            let request = journal.begin("images/generations", images).unwrap();
            if let Some(outcome) = outcome {
                journal.end(request, outcome).unwrap();
            }
            assert_eq!((journal.requests, journal.images), counts(&path));
            journal.images
        };
        assert_eq!(send(10, Some(Outcome::Images(10))), 10);
        assert_eq!(send(10, Some(Outcome::Images(7))), 17);
        assert_eq!(send(3, Some(Outcome::Images(99))), 20);
        assert_eq!(send(5, Some(Outcome::Refused(429))), 20);
        assert_eq!(send(5, Some(Outcome::Unknown)), 25);
        // The process was killed before the response.
        assert_eq!(send(4, None), 29);
        assert_eq!(counts(&path).0, 6);
    }

    #[test]
    fn an_incomplete_line_is_removed_and_an_invalid_one_is_refused() {
        let (_folder, path) = journal_path();
        let mut journal = Journal::open(&path, SpendingLimits::default()).unwrap();
        journal.begin("images/edits", 2).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"request\":2,\"endp"].concat()).unwrap();
        assert_eq!(counts(&path), (1, 2));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        std::fs::write(&path, [&whole[..], b"{\"request\":2}\n"].concat()).unwrap();
        let error = Journal::open(&path, SpendingLimits::default())
            .err()
            .unwrap();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn limits_hold_over_restarts() {
        let (_folder, path) = journal_path();
        let limits = SpendingLimits {
            max_requests: Some(3),
            price_per_image: Some(0.5),
            max_cost: Some(4.0),
        };
        let mut journal = Journal::open(&path, limits).unwrap();
        let first = journal.begin("e", 4).unwrap();
        assert!(matches!(
            journal.begin("e", 5),
            Err(ServiceError::LimitReached {
                key: "max_cost",
                ..
            })
        ));
        journal.end(first, Outcome::Refused(400)).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path, limits).unwrap();
        journal.begin("e", 4).unwrap();
        journal.begin("e", 4).unwrap();
        assert!(matches!(
            journal.begin("e", 0),
            Err(ServiceError::LimitReached {
                key: "max_requests",
                ..
            })
        ));
        assert_eq!(counts(&path), (3, 8));
    }
}
