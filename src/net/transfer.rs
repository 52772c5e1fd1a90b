//! Downloads one file over HTTP into a [`PartialFile`], with resume, size limits and retries. The
//! caller verifies the checksum and moves the file to its final path.
//!
//! Written here because no maintained client resumes by validator (`If-Range`), bounds the size of
//! the response and the time without data, and keeps the bytes received before a failure.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Response};
use ureq::typestate::WithoutBody;
use ureq::{Body, RequestBuilder};

use super::agents::is_permanent;
use super::error::TransferError;
use super::partial_file::{Origin, PartialFile};
use super::range::ContentRange;
use super::retry::{Backoff, jitter, retry_after};
use super::text::{single_line, truncate};
use crate::progress::{Progress, Unit};

/// Bytes of an error response that are read: enough for a message, not for a whole web page.
const MAX_ERROR_BODY: u64 = 1 << 12;
/// Upper bound of the attempts at one address, even if each of them receives some bytes: a server
/// that sends one byte per connection must not keep the program busy forever.
const MAX_ATTEMPTS: u32 = 1000;
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 17;

/// Number of attempts and time limits of a download.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Consecutive attempts without new bytes after which an address is given up.
    pub attempts: u32,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// Longest time without received bytes.
    pub idle_timeout: Duration,
    /// Longest delay that a server may request; beyond it, the address is given up.
    pub max_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            backoff: Backoff {
                initial: Duration::from_millis(500),
                max: Duration::from_secs(30),
            },
            idle_timeout: Duration::from_secs(60),
            max_wait: Duration::from_secs(600),
        }
    }
}

impl RetryPolicy {
    /// Returns the delay before the next attempt: the one that the server requested, and at least
    /// the backoff.
    fn delay(&self, failures: u32, requested: Option<Duration>, jitter: f64) -> Duration {
        let backoff = self.backoff.delay(failures, jitter);
        backoff.max(requested.unwrap_or_default())
    }
}

/// Reason why an attempt did not complete the file.
pub(crate) enum AttemptError {
    /// Another attempt may succeed.
    Retryable {
        /// Description of the failure.
        message: String,
        /// Delay that the server requested.
        wait: Option<Duration>,
    },
    /// Another attempt at this address cannot succeed.
    Permanent(TransferError),
}

impl AttemptError {
    /// Creates a retryable error without a requested delay.
    pub(crate) fn retryable(message: impl Into<String>) -> Self {
        Self::Retryable {
            message: message.into(),
            wait: None,
        }
    }
}

impl From<TransferError> for AttemptError {
    fn from(error: TransferError) -> Self {
        Self::Permanent(error)
    }
}

/// A remote file.
pub(crate) trait RemoteSource {
    /// Returns the address, as it appears in messages and in the [`Origin`] of received bytes.
    fn url(&self) -> &str;

    /// Creates a request for the file. This may send requests of its own to resolve the address.
    ///
    /// # Errors
    /// [`AttemptError`] of those requests.
    fn request(&self) -> Result<RequestBuilder<WithoutBody>, AttemptError>;
}

/// Size of a file as known before the download.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedSize {
    /// Exact length in bytes.
    pub(crate) exact: Option<u64>,
    /// Approximate length, shown as the total if the server states none.
    pub(crate) approximate: Option<u64>,
    /// Largest accepted length if neither the caller nor the server states the exact one.
    pub(crate) limit: u64,
    /// True if the caller verifies a checksum, which also detects bytes of two versions in one
    /// file.
    pub(crate) has_checksum: bool,
}

/// Downloads with retries and progress reporting.
pub(crate) struct Transfer<'a> {
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) progress: &'a dyn Progress,
}

/// Meaning of a response for the bytes received so far.
enum Resume {
    /// The file is complete already.
    Complete,
    /// The response does not continue the received bytes; the text is the reason.
    Restart(&'static str),
    /// The response has the bytes from `start` on, of `total`.
    Bytes { start: u64, total: Option<u64> },
}

impl Transfer<'_> {
    /// Requests `source` until `partial` is complete. `name` is the name shown to the user.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(crate) fn download(
        &self,
        source: &dyn RemoteSource,
        expected: ExpectedSize,
        partial: &PartialFile,
        name: &str,
    ) -> Result<(), TransferError> {
        self.retry(source.url(), name, &|| partial.len(), &mut || {
            let result = self.attempt(source, expected, partial, name);
            self.progress.end();
            result
        })
    }

    /// Repeats `attempt` until it succeeds, fails permanently or exceeds the retry policy.
    /// `received` returns the bytes so far: an attempt that received some resets the count of
    /// failures.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(crate) fn retry<T>(
        &self,
        url: &str,
        name: &str,
        received: &dyn Fn() -> Result<u64, TransferError>,
        attempt: &mut dyn FnMut() -> Result<T, AttemptError>,
    ) -> Result<T, TransferError> {
        let mut failures = 0;
        for _ in 0..MAX_ATTEMPTS {
            let before = received()?;
            let (message, wait) = match attempt() {
                Ok(done) => return Ok(done),
                Err(AttemptError::Retryable { message, wait }) => (message, wait),
                Err(AttemptError::Permanent(error)) => return Err(error),
            };
            failures = if received()? > before {
                0
            } else {
                failures + 1
            };
            let too_long = wait.is_some_and(|wait| wait > self.retry_policy.max_wait);
            if failures >= self.retry_policy.attempts || too_long {
                return Err(TransferError::GaveUp {
                    url: url.to_owned(),
                    attempts: failures,
                    message,
                });
            }
            self.progress
                .message(&format!("{name}: {message}; retrying"));
            std::thread::sleep(self.retry_policy.delay(failures, wait, jitter()));
        }
        let message = format!("incomplete after {MAX_ATTEMPTS} attempts");
        Err(TransferError::refused(url, message))
    }

    // One request from the choice of the range to the last byte. It stays in one function because
    // each step decides whether the bytes received so far are still valid for the next one.
    /// Sends one request and stores its body. `Ok` means that the file is complete.
    fn attempt(
        &self,
        source: &dyn RemoteSource,
        expected: ExpectedSize,
        partial: &PartialFile,
        name: &str,
    ) -> Result<(), AttemptError> {
        let url = source.url();
        let origin = partial.origin()?.filter(|origin| origin.url == url);
        let validator = origin.and_then(|origin| origin.validator);
        let mut have = partial.len()?;
        // Without a validator, only a checksum detects that the file changed between two attempts.
        let resumable = validator.is_some() || expected.has_checksum;
        if !resumable || expected.exact.is_some_and(|size| have > size) {
            partial.restart()?;
            have = 0;
        }
        if have > 0 && expected.exact == Some(have) {
            return Ok(());
        }
        let mut request = source.request()?.header("Accept-Encoding", "identity");
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
            if let Some(validator) = &validator {
                request = request.header("If-Range", validator);
            }
        }
        let response = send(request, url)?;
        let headers = response.headers().clone();
        let found = validator_of(&headers);
        let resume = match response.status().as_u16() {
            206 => partial_content(&headers, have, (&validator, &found), expected),
            // A server may ignore the range and send the whole file.
            200 => Resume::Bytes {
                start: 0,
                total: response.body().content_length(),
            },
            416 => range_not_satisfiable(&headers, have, expected),
            // CodaLab, which packs archives while it sends them, answers a range request this way.
            400 | 501 if have > 0 => Resume::Restart("the server cannot resume; restarting"),
            _ => return Err(status_error(url, response)),
        };
        let (start, total) = match resume {
            Resume::Complete => return Ok(()),
            Resume::Restart(message) => {
                partial.restart()?;
                return Err(AttemptError::retryable(message));
            }
            Resume::Bytes { start, total } => (start, total),
        };
        check_response(url, &headers, total, expected)?;
        if start == 0 {
            if have > 0 {
                let reason = "the server has a new version or cannot resume; restarting";
                self.progress.message(&format!("{name}: {reason}"));
                partial.restart()?;
            }
            partial.create(&Origin {
                url: url.to_owned(),
                validator: found,
            })?;
        }
        let whole = expected.exact.or(total);
        self.progress
            .begin(name, whole.or(expected.approximate), Unit::Bytes);
        self.progress.resume(start);
        let limit = whole.unwrap_or(expected.limit);
        let received = self.store(response.into_body().into_reader(), partial, start, limit)?;
        match whole {
            Some(whole) if received < whole => Err(AttemptError::retryable(format!(
                "the connection closed after {received} of {whole} bytes"
            ))),
            _ => Ok(()),
        }
    }

    /// Appends the body to the partial file and returns the file's new length.
    fn store(
        &self,
        mut body: impl Read,
        partial: &PartialFile,
        start: u64,
        limit: u64,
    ) -> Result<u64, AttemptError> {
        let failed = TransferError::io(partial.path());
        let mut file = OpenOptions::new()
            .append(true)
            .open(partial.path())
            .map_err(&failed)?;
        let mut buffer = vec![0; CHUNK];
        let mut done = start;
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let message = truncate(single_line(&error.to_string()));
                    let message = format!("the connection failed after {done} bytes: {message}");
                    return Err(AttemptError::retryable(message));
                }
            };
            if done + count as u64 > limit {
                partial.restart()?;
                let message = format!("the server sent more than {limit} bytes");
                return Err(AttemptError::retryable(message));
            }
            let bytes = buffer.get(..count).unwrap_or_default();
            file.write_all(bytes).map_err(&failed)?;
            done += count as u64;
            self.progress.advance(done);
        }
        Ok(done)
    }
}

/// Sends a request.
///
/// # Errors
/// [`AttemptError`] of the transport: name resolution, connection, TLS, HTTP syntax.
pub(crate) fn send(
    request: RequestBuilder<WithoutBody>,
    url: &str,
) -> Result<Response<Body>, AttemptError> {
    request.call().map_err(|error| {
        let message = truncate(single_line(&error.to_string()));
        match is_permanent(&error) {
            true => TransferError::refused(url, message).into(),
            false => AttemptError::retryable(message),
        }
    })
}

/// Interprets status 206. `validators` are those of the received bytes and of the response.
fn partial_content(
    headers: &HeaderMap,
    have: u64,
    validators: (&Option<String>, &Option<String>),
    expected: ExpectedSize,
) -> Resume {
    let Some(ContentRange {
        bytes: Some((first, _)),
        total,
    }) = header(headers, "content-range").and_then(ContentRange::parse)
    else {
        return Resume::Restart("the server sent a range without its position; restarting");
    };
    let (local, remote) = validators;
    if local.is_some() && remote.is_some() && local != remote {
        return Resume::Restart("the file changed on the server; restarting");
    }
    if first != have {
        return Resume::Restart("the server sent another range than requested; restarting");
    }
    if total.or(expected.exact).is_none() {
        // The end of such a range need not be the end of the file; a whole response has a known
        // end.
        return Resume::Restart("the server sent a range of unknown length; restarting");
    }
    Resume::Bytes {
        start: first,
        total,
    }
}

/// Interprets status 416: the server has no bytes after the first `have`.
fn range_not_satisfiable(headers: &HeaderMap, have: u64, expected: ExpectedSize) -> Resume {
    let range = header(headers, "content-range").and_then(ContentRange::parse);
    let is_whole = range.is_some_and(|range| range.total == Some(have));
    match have > 0 && is_whole && expected.exact.is_none_or(|size| size == have) {
        true => Resume::Complete,
        false => Resume::Restart("the server has fewer bytes than were received; restarting"),
    }
}

/// Rejects a response that is recognizably another file before its body is read.
fn check_response(
    url: &str,
    headers: &HeaderMap,
    total: Option<u64>,
    expected: ExpectedSize,
) -> Result<(), TransferError> {
    if let (Some(expected), Some(found)) = (expected.exact, total)
        && expected != found
    {
        return Err(TransferError::Length {
            url: url.to_owned(),
            expected,
            found,
        });
    }
    let is_page = header(headers, "content-type").is_some_and(|kind| kind.starts_with("text/html"));
    if is_page && !expected.has_checksum {
        let message = "the server sent a web page instead of the file";
        return Err(TransferError::refused(url, message));
    }
    Ok(())
}

/// Returns the header that distinguishes versions of a file: a strong `ETag`, or else
/// `Last-Modified`.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let is_strong = |tag: &&str| tag.starts_with('"');
    let tag = header(headers, "etag").filter(is_strong);
    tag.or_else(|| header(headers, "last-modified"))
        .map(str::to_owned)
}

/// Returns the trimmed text of a header; `None` if it is absent or not ASCII.
pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Converts a response with an unexpected status into an error, retryable for the statuses that
/// are temporary.
pub(crate) fn status_error(url: &str, response: Response<Body>) -> AttemptError {
    let status = response.status().as_u16();
    let wait = retry_after(response.headers(), SystemTime::now());
    // The status is the error; a body that cannot be read adds nothing.
    let body = response
        .into_body()
        .into_with_config()
        .limit(MAX_ERROR_BODY)
        .read_to_vec();
    let text = single_line(&String::from_utf8_lossy(&body.unwrap_or_default()));
    // HTML is not readable on a terminal.
    let message = match text.is_empty() || text.starts_with('<') {
        true => format!("{status}"),
        false => truncate(format!("{status}, {text}")),
    };
    match status {
        408 | 425 | 429 | 500..=599 => AttemptError::Retryable { message, wait },
        _ => AttemptError::Permanent(TransferError::Refused {
            url: url.to_owned(),
            status: Some(status),
            message,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_delay_is_kept() {
        let policy = RetryPolicy::default();
        let second = Duration::from_secs(1);
        assert_eq!(policy.delay(1, Some(second), 0.5), second);
        assert_eq!(policy.delay(9, Some(second), 1.0), policy.backoff.max);
        assert_eq!(policy.delay(1, None, 1.0), policy.backoff.initial);
    }
}
