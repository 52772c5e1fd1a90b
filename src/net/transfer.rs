//! One file over HTTP into a part on this disk: resumed, bounded, and asked for again as long as that helps.
//! Whether the bytes are the right ones is for the caller to see before they get their place.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Response};
use ureq::typestate::WithoutBody;
use ureq::{Body, RequestBuilder};

use super::agents::is_lasting;
use super::error::TransferError;
use super::part::{Origin, Part};
use super::range::ContentRange;
use super::retry::{Backoff, jitter, retry_after};
use super::text::{clean, shorten};
use crate::progress::{Progress, Unit};

/// Bytes of an error that are read.
const MAX_ERROR_BODY: u64 = 1 << 12;
/// More tries than this at one address are not made, even if each brings something.
const MAX_ATTEMPTS: u32 = 1000;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 17;

/// How often and how long to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries in a row that bring nothing, after which an address is given up.
    pub attempts: u32,
    /// How long between them.
    pub backoff: Backoff,
    /// How long the server may be silent.
    pub silence: Duration,
    /// A server that asks for a longer wait is given up.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            backoff: Backoff {
                first: Duration::from_millis(500),
                most: Duration::from_secs(30),
            },
            silence: Duration::from_secs(60),
            longest_wait: Duration::from_secs(600),
        }
    }
}

/// Why a try brought less than all.
pub(crate) enum Setback {
    /// Another try may help, after this wait if the server asked for one.
    Again {
        message: String,
        wait: Option<Duration>,
    },
    /// Another try at this address will not help.
    Final(TransferError),
}

impl Setback {
    /// Another try may help at once.
    pub(crate) fn again(message: impl Into<String>) -> Self {
        Self::Again {
            message: message.into(),
            wait: None,
        }
    }
}

impl From<TransferError> for Setback {
    fn from(error: TransferError) -> Self {
        Self::Final(error)
    }
}

/// Where a file is to be had.
pub(crate) trait Source {
    /// What messages call it, and what is remembered of bytes that came from there.
    fn url(&self) -> &str;

    /// A request for it. Finding out where to send that may take requests of its own.
    ///
    /// # Errors
    /// [`Setback`] of those.
    fn request(&self) -> Result<RequestBuilder<WithoutBody>, Setback>;
}

/// What is known of a file before it comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Its exact length.
    pub(crate) size: Option<u64>,
    /// Its length for people, where the server does not tell it either.
    pub(crate) about: Option<u64>,
    /// More bytes than this are refused where nobody tells the length.
    pub(crate) most: u64,
    /// Whether a checksum will tell that bytes of several tries do not fit together.
    pub(crate) checked: bool,
}

/// Downloads, told to somebody.
pub(crate) struct Transfer<'a> {
    pub(crate) patience: Patience,
    pub(crate) progress: &'a dyn Progress,
}

/// How a request was answered.
enum Answer {
    /// All is here already.
    Complete,
    /// With nothing that goes on from what is here; why.
    Useless(&'static str),
    /// Bytes from `start` on, of `total`.
    Bytes { start: u64, total: Option<u64> },
}

impl Transfer<'_> {
    /// Asks `source` until all bytes are in `part`.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(crate) fn fill(
        &self,
        source: &dyn Source,
        extent: Extent,
        part: &Part,
        name: &str,
    ) -> Result<(), TransferError> {
        self.persist(source.url(), name, &|| part.len(), &mut || {
            let result = self.attempt(source, extent, part, name);
            self.progress.end();
            result
        })
    }

    /// Repeats `attempt` until it succeeds or repeating is in vain. `arrived` counts what the tries bring: a
    /// server that brings something is listened to.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(crate) fn persist<T>(
        &self,
        url: &str,
        name: &str,
        arrived: &dyn Fn() -> Result<u64, TransferError>,
        attempt: &mut dyn FnMut() -> Result<T, Setback>,
    ) -> Result<T, TransferError> {
        let mut failures = 0;
        for _ in 0..MAX_ATTEMPTS {
            let before = arrived()?;
            let (message, wait) = match attempt() {
                Ok(done) => return Ok(done),
                Err(Setback::Again { message, wait }) => (message, wait),
                Err(Setback::Final(error)) => return Err(error),
            };
            failures = if arrived()? > before { 0 } else { failures + 1 };
            let too_long = wait.is_some_and(|wait| wait > self.patience.longest_wait);
            if failures >= self.patience.attempts || too_long {
                return Err(TransferError::GaveUp {
                    url: url.to_owned(),
                    attempts: failures,
                    message,
                });
            }
            self.progress
                .message(&format!("{name}: {message}; trying again"));
            let pause = self.patience.backoff.wait(failures, jitter());
            std::thread::sleep(pause.max(wait.unwrap_or_default()));
        }
        let message = format!("{MAX_ATTEMPTS} tries did not suffice");
        Err(TransferError::refused(url, message))
    }

    /// One request. `Ok` means that everything is there.
    fn attempt(
        &self,
        source: &dyn Source,
        extent: Extent,
        part: &Part,
        name: &str,
    ) -> Result<(), Setback> {
        let url = source.url();
        let origin = part.origin()?.filter(|origin| origin.url == url);
        let validator = origin.and_then(|origin| origin.validator);
        let mut have = part.len()?;
        // Without a validator only a checksum would notice that the file has changed in between.
        let resumable = validator.is_some() || extent.checked;
        if !resumable || extent.size.is_some_and(|size| have > size) {
            part.restart()?;
            have = 0;
        }
        if have > 0 && extent.size == Some(have) {
            return Ok(());
        }
        let mut request = source.request()?.header("Accept-Encoding", "identity");
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
            if let Some(validator) = &validator {
                request = request.header("If-Range", validator);
            }
        }
        let response = call(request, url)?;
        let headers = response.headers().clone();
        let found = validator_of(&headers);
        let answer = match response.status().as_u16() {
            206 => partial(&headers, have, (&validator, &found), extent),
            // Whatever was asked for, this is the whole.
            200 => Answer::Bytes {
                start: 0,
                total: response.body().content_length(),
            },
            416 => no_more(&headers, have, extent),
            // Servers that make archives as they send them say it thus.
            400 | 501 if have > 0 => Answer::Useless("the server cannot resume: beginning anew"),
            _ => return Err(refusal(url, response)),
        };
        let (start, total) = match answer {
            Answer::Complete => return Ok(()),
            Answer::Useless(message) => {
                part.restart()?;
                return Err(Setback::again(message));
            }
            Answer::Bytes { start, total } => (start, total),
        };
        fits(url, &headers, total, extent)?;
        if start == 0 {
            if have > 0 {
                let line = "the server begins anew: it has another file now, or cannot resume";
                self.progress.message(&format!("{name}: {line}"));
                part.restart()?;
            }
            part.begin(&Origin {
                url: url.to_owned(),
                validator: found,
            })?;
        }
        let whole = extent.size.or(total);
        self.progress
            .begin(name, whole.or(extent.about), Unit::Bytes);
        self.progress.resume(start);
        let most = whole.unwrap_or(extent.most);
        let arrived = self.store(response.into_body().into_reader(), part, start, most)?;
        match whole {
            Some(whole) if arrived < whole => Err(Setback::again(format!(
                "the connection ended after {arrived} of {whole} bytes"
            ))),
            _ => Ok(()),
        }
    }

    /// Writes what comes to the part, and returns how long it is then.
    fn store(
        &self,
        mut body: impl Read,
        part: &Part,
        start: u64,
        most: u64,
    ) -> Result<u64, Setback> {
        let failed = TransferError::io(part.path());
        let mut file = OpenOptions::new()
            .append(true)
            .open(part.path())
            .map_err(&failed)?;
        let mut buffer = vec![0; CHUNK];
        let mut done = start;
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let message = shorten(clean(&error.to_string()));
                    let message = format!("broke off after {done} bytes: {message}");
                    return Err(Setback::again(message));
                }
            };
            if done + count as u64 > most {
                part.restart()?;
                return Err(Setback::again(format!("more than {most} bytes")));
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
/// [`Setback`] of what went wrong below HTTP.
pub(crate) fn call(
    request: RequestBuilder<WithoutBody>,
    url: &str,
) -> Result<Response<Body>, Setback> {
    request.call().map_err(|error| {
        let message = shorten(clean(&error.to_string()));
        match is_lasting(&error) {
            true => TransferError::refused(url, message).into(),
            false => Setback::again(message),
        }
    })
}

/// What a part that the server sends is good for. `validators` are the one of what is here and the server's.
fn partial(
    headers: &HeaderMap,
    have: u64,
    validators: (&Option<String>, &Option<String>),
    extent: Extent,
) -> Answer {
    let Some(ContentRange {
        bytes: Some((first, _)),
        total,
    }) = header(headers, "content-range").and_then(ContentRange::parse)
    else {
        return Answer::Useless("a part without saying which");
    };
    let (here, there) = validators;
    if here.is_some() && there.is_some() && here != there {
        return Answer::Useless("the file has changed at its source: beginning anew");
    }
    if first != have {
        return Answer::Useless("another part than was asked for: beginning anew");
    }
    if total.or(extent.size).is_none() {
        // It may be the last part or not; the end of a whole file at least can be told.
        return Answer::Useless("a part of nobody knows how much: beginning anew");
    }
    Answer::Bytes {
        start: first,
        total,
    }
}

/// What it means that the server has nothing after `have` bytes.
fn no_more(headers: &HeaderMap, have: u64, extent: Extent) -> Answer {
    let range = header(headers, "content-range").and_then(ContentRange::parse);
    let all = range.is_some_and(|range| range.total == Some(have));
    match have > 0 && all && extent.size.is_none_or(|size| size == have) {
        true => Answer::Complete,
        false => Answer::Useless("416, the server has less than what is here"),
    }
}

/// Refuses what can be seen to be another file before its bytes are read.
fn fits(
    url: &str,
    headers: &HeaderMap,
    total: Option<u64>,
    extent: Extent,
) -> Result<(), TransferError> {
    if let (Some(expected), Some(found)) = (extent.size, total)
        && expected != found
    {
        return Err(TransferError::Length {
            url: url.to_owned(),
            expected,
            found,
        });
    }
    let page = header(headers, "content-type").is_some_and(|kind| kind.starts_with("text/html"));
    if page && !extent.checked {
        let message = "answered with a web page instead of the file";
        return Err(TransferError::refused(url, message));
    }
    Ok(())
}

/// What tells one version of a file from another.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let strong = |tag: &&str| tag.starts_with('"');
    let tag = header(headers, "etag").filter(strong);
    tag.or_else(|| header(headers, "last-modified"))
        .map(str::to_owned)
}

/// A header's text.
pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Sorts a status other than success.
pub(crate) fn refusal(url: &str, response: Response<Body>) -> Setback {
    let status = response.status().as_u16();
    let wait = retry_after(response.headers(), SystemTime::now());
    // What cannot be read of an error is not worth another error.
    let body = response
        .into_body()
        .into_with_config()
        .limit(MAX_ERROR_BODY)
        .read_to_vec();
    let words = clean(&String::from_utf8_lossy(&body.unwrap_or_default()));
    // A page for a browser says nothing here.
    let message = match words.is_empty() || words.starts_with('<') {
        true => format!("{status}"),
        false => shorten(format!("{status}, {words}")),
    };
    match status {
        408 | 425 | 429 | 500..=599 => Setback::Again { message, wait },
        _ => Setback::Final(TransferError::Refused {
            url: url.to_owned(),
            status: Some(status),
            message,
        }),
    }
}
