//! One file over HTTP: resumed, bounded, checked, and in its place only when it is whole and right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, Uri};

use super::catalogue::Remote;
use super::error::FetchError;
use super::mirrors::Mirrors;
use super::range::ContentRange;
use super::record::{self, Basis, FileRecord};
use crate::atomic;
use crate::hub::sha256_watched;
use crate::net::{Agents, Backoff, Limits, Watch, clean, is_lasting, jitter, retry_after, shorten};

/// Releases are often redirected, and more than once.
const MAX_REDIRECTS: u32 = 8;
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

/// Downloads files.
pub(super) struct Downloader<'a> {
    agents: Agents,
    mirrors: &'a Mirrors,
    patience: Patience,
    watch: &'a dyn Watch,
}

/// Where a download comes from, so that it is only continued with more of the same.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    url: String,
    /// A strong `ETag`, or else `Last-Modified`.
    validator: Option<String>,
}

/// The files of a download under way.
struct Part {
    /// What has arrived.
    path: PathBuf,
    /// Its [`Origin`].
    origin: PathBuf,
}

/// Why a try brought less than all.
enum Setback {
    /// Another try may help.
    Again {
        message: String,
        wait: Option<Duration>,
    },
    /// Another try at this address will not help.
    Hopeless(FetchError),
    /// No try anywhere will help.
    Fatal(FetchError),
}

impl Setback {
    fn again(message: impl Into<String>) -> Self {
        Self::Again {
            message: message.into(),
            wait: None,
        }
    }
}

impl From<FetchError> for Setback {
    /// What happens on this machine.
    fn from(error: FetchError) -> Self {
        Self::Fatal(error)
    }
}

impl<'a> Downloader<'a> {
    /// Reads proxies and certificates from the environment; connects to nothing yet.
    ///
    /// # Errors
    /// [`FetchError::Environment`].
    pub(super) fn new(
        mirrors: &'a Mirrors,
        patience: Patience,
        watch: &'a dyn Watch,
    ) -> Result<Self, FetchError> {
        Ok(Self {
            agents: Agents::new(Limits::Silence(patience.silence), MAX_REDIRECTS)?,
            mirrors,
            patience,
            watch,
        })
    }

    /// Downloads `remote` to `path`, which is absent, and writes its record.
    ///
    /// # Errors
    /// [`FetchError`]: of the last address that was tried, or at once where no other address can help.
    pub(super) fn download(
        &self,
        item: &str,
        remote: &Remote,
        path: &Path,
    ) -> Result<(), FetchError> {
        let name = file_name(path);
        let part = Part::of(path);
        let mut problem = None;
        for url in self.mirrors.of(&remote.url, &name) {
            if let Some(error) = &problem {
                self.watch
                    .line(&format!("{error}; trying the next address"));
            }
            problem = Some(match self.fill(&url, remote, &part, &name) {
                Ok(()) => return self.finish(item, &url, remote, &part, path),
                Err(Setback::Fatal(error)) => return Err(error),
                Err(Setback::Hopeless(error)) => error,
                Err(Setback::Again { message, .. }) => FetchError::Refused { url, message },
            });
        }
        Err(problem.unwrap_or_else(|| FetchError::Refused {
            url: remote.url.clone(),
            message: "no address".to_owned(),
        }))
    }

    /// Asks one address until all bytes are in the part.
    fn fill(&self, url: &str, remote: &Remote, part: &Part, name: &str) -> Result<(), Setback> {
        let uri: Uri = url.parse().map_err(|_| {
            Setback::Hopeless(FetchError::Refused {
                url: url.to_owned(),
                message: "is no address".to_owned(),
            })
        })?;
        let mut failures = 0;
        for _ in 0..MAX_ATTEMPTS {
            let before = part.len()?;
            let result = self.attempt(&uri, url, remote, part, name);
            self.watch.end();
            let (message, wait) = match result {
                Ok(()) => return Ok(()),
                Err(Setback::Again { message, wait }) => (message, wait),
                Err(other) => return Err(other),
            };
            // Whoever brings something is listened to.
            failures = if part.len()? > before {
                0
            } else {
                failures + 1
            };
            let too_long = wait.is_some_and(|wait| wait > self.patience.longest_wait);
            if failures >= self.patience.attempts || too_long {
                return Err(Setback::Hopeless(FetchError::GaveUp {
                    url: url.to_owned(),
                    attempts: failures,
                    message,
                }));
            }
            self.watch.line(&format!("{name}: {message}; trying again"));
            let pause = self.patience.backoff.wait(failures, jitter());
            std::thread::sleep(pause.max(wait.unwrap_or_default()));
        }
        Err(Setback::again(format!(
            "{MAX_ATTEMPTS} tries did not suffice"
        )))
    }

    /// One request. `Ok` means that everything is there.
    fn attempt(
        &self,
        uri: &Uri,
        url: &str,
        remote: &Remote,
        part: &Part,
        name: &str,
    ) -> Result<(), Setback> {
        let origin = part.origin()?;
        let mut have = part.len()?;
        let same = origin.as_ref().filter(|origin| origin.url == url);
        let validator = same.and_then(|origin| origin.validator.clone());
        // Without a validator only a checksum would notice that the file has changed in between.
        let resumable = validator.is_some() || remote.sha256.is_some();
        if !resumable || remote.size.is_some_and(|size| have > size) {
            part.restart()?;
            have = 0;
        }
        if have > 0 && remote.size == Some(have) {
            return Ok(());
        }
        let mut request = self
            .agents
            .choose(uri)
            .get(uri.clone())
            .config()
            // What begins safely is not redirected into the open.
            .https_only(uri.scheme_str() == Some("https"))
            .build()
            .header("Accept-Encoding", "identity");
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
            if let Some(validator) = &validator {
                request = request.header("If-Range", validator);
            }
        }
        let response = request.call().map_err(|error| {
            let message = shorten(clean(&error.to_string()));
            if is_lasting(&error) {
                let url = url.to_owned();
                Setback::Hopeless(FetchError::Refused { url, message })
            } else {
                Setback::again(message)
            }
        })?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let range = text(&headers, "content-range").and_then(ContentRange::parse);
        let now = validator_of(&headers);
        let (start, total) = match status {
            206 => {
                let Some(ContentRange {
                    bytes: Some((first, _)),
                    total,
                }) = range
                else {
                    part.restart()?;
                    return Err(Setback::again("a part without saying which"));
                };
                let changed = validator.is_some() && now.is_some() && now != validator;
                if first != have || changed {
                    part.restart()?;
                    let message = match changed {
                        true => "the file has changed at its source: beginning anew",
                        false => "another part than was asked for: beginning anew",
                    };
                    return Err(Setback::again(message));
                }
                (first, total)
            }
            // Whatever was asked for, this is the whole.
            200 => (0, body.content_length()),
            416 => {
                // What is here may be all there is.
                let complete = range.is_some_and(|range| range.total == Some(have));
                if have > 0 && complete && remote.size.is_none_or(|size| size == have) {
                    return Ok(());
                }
                part.restart()?;
                return Err(Setback::again("416, the server has less than what is here"));
            }
            _ => return Err(refusal(url, status, &headers, &mut body)),
        };
        if let (Some(expected), Some(found)) = (remote.size, total)
            && expected != found
        {
            return Err(Setback::Hopeless(FetchError::Length {
                url: url.to_owned(),
                expected,
                found,
            }));
        }
        let page = text(&headers, "content-type").is_some_and(|kind| kind.starts_with("text/html"));
        if page && remote.sha256.is_none() {
            return Err(Setback::Hopeless(FetchError::Refused {
                url: url.to_owned(),
                message: "answered with a web page instead of the file".to_owned(),
            }));
        }
        if start == 0 {
            if have > 0 {
                let line = "the server begins anew: it has another file now, or cannot resume";
                self.watch.line(&format!("{name}: {line}"));
                part.restart()?;
            }
            part.begin(&Origin {
                url: url.to_owned(),
                validator: now,
            })?;
        }
        let whole = remote.size.or(total);
        self.watch.begin(name, whole.or(Some(remote.about)));
        self.watch.advance(start);
        let most = whole.unwrap_or(remote.about.saturating_mul(2));
        let arrived = self.store(body.into_reader(), part, start, most)?;
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
        let failed = FetchError::io(&part.path);
        let mut file = OpenOptions::new()
            .append(true)
            .open(&part.path)
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
            self.watch.advance(done);
        }
        Ok(done)
    }

    /// Checks what has arrived and puts it into its place.
    fn finish(
        &self,
        item: &str,
        url: &str,
        remote: &Remote,
        part: &Part,
        path: &Path,
    ) -> Result<(), FetchError> {
        let failed = FetchError::io(&part.path);
        File::open(&part.path)
            .and_then(|file| file.sync_all())
            .map_err(&failed)?;
        let size = part.len()?;
        let found = checksum(&part.path, &file_name(path), self.watch)?;
        if let Some(expected) = &remote.sha256
            && *expected != found
        {
            part.remove()?;
            return Err(FetchError::Checksum {
                url: url.to_owned(),
                expected: expected.clone(),
                found,
            });
        }
        // Before the file: without a record it would only be read once more.
        let basis = match remote.sha256 {
            Some(_) => Basis::Catalogue,
            None => Basis::FirstDownload,
        };
        let file = FileRecord {
            item: item.to_owned(),
            url: Some(url.to_owned()),
            size,
            sha256: found,
            basis,
            validator: part.origin()?.and_then(|origin| origin.validator),
        };
        record::write(&record::of_file(path), &file)?;
        fs::rename(&part.path, path).map_err(FetchError::io(path))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        atomic::sync_folder(folder).map_err(FetchError::io(folder))?;
        record::remove(&part.origin)
    }
}

/// SHA-256 of a file, watched.
pub(super) fn checksum(path: &Path, name: &str, watch: &dyn Watch) -> Result<String, FetchError> {
    let failed = FetchError::io(path);
    let size = fs::metadata(path).map_err(&failed)?.len();
    watch.begin(&format!("checking {name}"), Some(size));
    let sum = sha256_watched(path, &mut |done| watch.advance(done));
    watch.end();
    sum.map_err(failed)
}

/// Turns a file that is too short into the beginning of its download.
pub(super) fn demote(path: &Path) -> Result<(), FetchError> {
    let part = Part::of(path);
    let record = record::of_file(path);
    let known: Option<FileRecord> = record::read(&record)?;
    let origin = known.map(|known| Origin {
        url: known.url.unwrap_or_default(),
        validator: known.validator,
    });
    record::remove(&part.origin)?;
    fs::rename(path, &part.path).map_err(FetchError::io(path))?;
    if let Some(origin) = origin {
        record::write(&part.origin, &origin)?;
    }
    record::remove(&record)
}

impl Part {
    fn of(path: &Path) -> Self {
        let with = |ending: &str| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(ending);
            path.with_file_name(name)
        };
        Self {
            path: with(".part"),
            origin: with(".part.json"),
        }
    }

    /// Bytes that have arrived.
    fn len(&self) -> Result<u64, FetchError> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(FetchError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn origin(&self) -> Result<Option<Origin>, FetchError> {
        record::read(&self.origin)
    }

    /// Forgets what has arrived. The origin goes first: bytes without one are never continued unchecked.
    fn restart(&self) -> Result<(), FetchError> {
        record::remove(&self.origin)?;
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => file.set_len(0).map_err(FetchError::io(&self.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(FetchError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Begins with nothing from `origin`.
    fn begin(&self, origin: &Origin) -> Result<(), FetchError> {
        File::create(&self.path).map_err(FetchError::io(&self.path))?;
        record::write(&self.origin, origin)
    }

    fn remove(&self) -> Result<(), FetchError> {
        record::remove(&self.path)?;
        record::remove(&self.origin)
    }
}

/// What tells one version of a file from another.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let strong = |tag: &&str| tag.starts_with('"');
    let tag = text(headers, "etag").filter(strong);
    tag.or_else(|| text(headers, "last-modified"))
        .map(str::to_owned)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Sorts a status other than success.
fn refusal(url: &str, status: u16, headers: &HeaderMap, body: &mut ureq::Body) -> Setback {
    // What cannot be read of an error is not worth another error.
    let body = body.with_config().limit(MAX_ERROR_BODY).read_to_vec();
    let words = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    // A page for a browser says nothing here.
    let words = Some(clean(&words)).filter(|words| !words.starts_with('<') && !words.is_empty());
    let message = match words {
        Some(words) => shorten(format!("{status}, {words}")),
        None => format!("{status}"),
    };
    match status {
        408 | 425 | 429 | 500..=599 => Setback::Again {
            message,
            wait: retry_after(headers, SystemTime::now()),
        },
        _ => Setback::Hopeless(FetchError::Refused {
            url: url.to_owned(),
            message,
        }),
    }
}

/// A path's last part, for people.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
