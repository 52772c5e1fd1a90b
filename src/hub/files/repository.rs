//! A repository of the Hugging Face hub and its cache, which Python's tools share: `blobs/<ETag>`
//! has the bytes, `snapshots/<commit>/<name>` links to them, `refs/<revision>` has the commit of a
//! branch or tag.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::client::{Bytes, FileMetadata, HubClient, is_commit};
use super::environment::HubEnvironment;
use super::{CheckedFile, FilesError, Integrity};
use crate::atomic;
use crate::hub::digest::{git_blob_file, sha256_file};
use crate::locking;
use crate::net::{ExpectedSize, Offline, PartialFile, RetryPolicy, Transfer, TransferError};
use crate::progress::Progress;

/// Largest accepted file in bytes if the hub does not state its length.
const MAX_FILE: u64 = 1 << 36;

/// One revision of a repository.
pub(super) struct Repository {
    id: String,
    revision: String,
    cache: CacheRepo,
    /// Client of the hub, or the setting that disables downloads.
    server: Result<HubClient, Offline>,
    retry_policy: RetryPolicy,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.id, self.revision)
    }
}

impl Repository {
    pub(super) fn new(id: &str, revision: &str) -> Result<Self, FilesError> {
        Self::in_environment(id, revision, HubEnvironment::read())
    }

    fn in_environment(
        id: &str,
        revision: &str,
        environment: HubEnvironment,
    ) -> Result<Self, FilesError> {
        let failed = |message: String| FilesError::Download {
            id: id.to_owned(),
            name: "anything".to_owned(),
            message,
        };
        // The revision becomes part of a path and of an address.
        if !is_plain(Path::new(revision)) {
            return Err(failed(format!("`{revision}` is not a revision")));
        }
        let Some(cache) = environment.cache else {
            let message = "no home folder for the cache: set HF_HUB_CACHE";
            return Err(failed(message.to_owned()));
        };
        let (endpoint, token) = (environment.endpoint, environment.token);
        let retry_policy = environment.retry_policy;
        let server = match environment.offline {
            Some(by) => Err(by),
            None => Ok(HubClient::new(endpoint, token, retry_policy)
                .map_err(|error| failed(error.to_string()))?),
        };
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
            cache: Cache::new(cache).repo(repo),
            server,
            retry_policy,
        })
    }

    /// Returns the first of `names` that is in the cache.
    pub(super) fn cached(&self, names: &[&str]) -> Option<PathBuf> {
        names.iter().find_map(|name| {
            // The snapshot of a commit is found without a reference.
            let snapshot = self.cache.pointer_path(&self.revision).join(name);
            let found = self.cache.get(name);
            found.or(Some(snapshot).filter(|path| path.is_file()))
        })
    }

    /// Returns the first of `names` in the cache, or else the first on the hub; `None` if the hub
    /// has none.
    pub(super) fn get(
        &self,
        names: &[&str],
        progress: &dyn Progress,
    ) -> Result<Option<PathBuf>, FilesError> {
        if let Some(path) = self.cached(names) {
            return Ok(Some(path));
        }
        let server = self.server.as_ref().map_err(|by| FilesError::Offline {
            id: self.id.clone(),
            name: names.join(" or "),
            by: *by,
        })?;
        for name in names {
            match self.download(server, name, progress) {
                Ok(path) => return Ok(Some(path)),
                Err(TransferError::Refused {
                    status: Some(404), ..
                }) => {}
                Err(error) => {
                    return Err(FilesError::Download {
                        id: self.id.clone(),
                        name: (*name).to_owned(),
                        message: explained(server, &error),
                    });
                }
            }
        }
        Ok(None)
    }

    /// Downloads a file into the cache; resumes an earlier attempt.
    fn download(
        &self,
        server: &HubClient,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<PathBuf, TransferError> {
        let url = server.address(&self.id, &self.revision, name);
        let transfer = Transfer {
            retry_policy: self.retry_policy,
            progress,
        };
        let card = transfer.retry(&url, name, &|| Ok(0), &mut || server.card(&url))?;
        if is_commit(&self.revision) && card.commit != self.revision {
            let message = format!(
                "belongs to commit {}, which is not the requested one",
                card.commit
            );
            return Err(TransferError::refused(&url, message));
        }
        let snapshot = self.cache.pointer_path(&card.commit);
        let blob = blobs(&snapshot).join(&card.etag);
        let _lock = lock(&blob)?;
        if !blob.is_file() {
            // Without a terminal, no progress bar shows why the program is busy for minutes.
            progress.message(&format!("downloading {name} of {}", self.id));
            fetch(&transfer, server, (&url, name), &card, &blob)?;
        }
        let path = snapshot.join(name);
        link(&snapshot, name, &blob).map_err(TransferError::io(&path))?;
        self.cache
            .create_ref(&card.commit)
            .map_err(TransferError::io(&path))?;
        Ok(path)
    }

    /// Checks a file of the cache, whose blob is named by its digest.
    pub(super) fn check(&self, path: &Path, name: &str) -> Result<CheckedFile, FilesError> {
        let failed = |source: io::Error| FilesError::Read {
            path: path.to_owned(),
            cause: source,
        };
        let blob = path.canonicalize().map_err(failed)?;
        let bytes = fs::metadata(&blob).map_err(failed)?.len();
        let etag = blob.file_name().and_then(|name| name.to_str());
        let state = check_digest(&blob, etag.unwrap_or_default()).map_err(failed)?;
        Ok(CheckedFile {
            name: name.to_owned(),
            path: path.to_owned(),
            bytes,
            state,
        })
    }
}

/// Returns true if a path has only normal components.
fn is_plain(path: &Path) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    path.components().next().is_some() && path.components().all(plain)
}

/// Formats an error with advice for the user.
fn explained(server: &HubClient, error: &TransferError) -> String {
    match error {
        TransferError::Refused {
            status: Some(status @ (401 | 403)),
            ..
        } => {
            let kept = match server.keeps_token() {
                true => "; the token is not sent over plain http",
                false => "",
            };
            format!(
                "{error} (status {status}: set HF_TOKEN, or accept the terms of the repository{kept})"
            )
        }
        _ => error.to_string(),
    }
}

/// Returns the folder of blobs of a snapshot.
fn blobs(snapshot: &Path) -> PathBuf {
    let repository = snapshot.parent().and_then(Path::parent);
    repository.unwrap_or(Path::new("")).join("blobs")
}

/// Locks a blob with the same file and kind of lock as the `hf-hub` crate.
fn lock(blob: &Path) -> Result<File, TransferError> {
    let folder = blob.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(TransferError::io(folder))?;
    let path = blob.with_extension("lock");
    let failed = TransferError::io(&path);
    let held = locking::lock(&path).map_err(&failed)?;
    held.ok_or_else(|| {
        failed(io::Error::other(
            "another process is downloading it: wait until it has finished",
        ))
    })
}

/// Downloads a blob, which gets its name only after its digest matches.
fn fetch(
    transfer: &Transfer<'_>,
    server: &HubClient,
    (url, name): (&str, &str),
    card: &FileMetadata,
    blob: &Path,
) -> Result<(), TransferError> {
    let partial = PartialFile::of(blob);
    let expected = ExpectedSize {
        exact: card.size,
        approximate: None,
        limit: MAX_FILE,
        has_checksum: is_digest(&card.etag),
    };
    loop {
        let resumed = partial.len()? > 0;
        transfer.download(&Bytes::new(server, url, card), expected, &partial, name)?;
        partial.sync()?;
        let state =
            check_digest(partial.path(), &card.etag).map_err(TransferError::io(partial.path()))?;
        let Integrity::Damaged { expected, found } = state else {
            return partial.publish(blob);
        };
        partial.remove()?;
        let message = format!("has the digest {found}, the hub states {expected}");
        // What an earlier send left may be the fault of that one.
        if !resumed {
            return Err(TransferError::refused(url, message));
        }
        transfer
            .progress
            .message(&format!("{name}: {message}; restarting"));
    }
}

/// Returns true if an `ETag` is a digest: SHA-256 for large files, git's SHA-1 for small ones.
fn is_digest(etag: &str) -> bool {
    matches!(etag.len(), 40 | 64) && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Compares a file with the digest in its `ETag`.
fn check_digest(path: &Path, etag: &str) -> io::Result<Integrity> {
    if !is_digest(etag) {
        return Ok(Integrity::Unknown);
    }
    let expected = etag.to_ascii_lowercase();
    let found = match expected.len() {
        64 => sha256_file(path)?,
        _ => git_blob_file(path)?,
    };
    Ok(match found == expected {
        true => Integrity::Intact,
        false => Integrity::Damaged { expected, found },
    })
}

/// Links a name in a snapshot to a blob; replaces a broken link.
fn link(snapshot: &Path, name: &str, blob: &Path) -> io::Result<()> {
    let path = snapshot.join(name);
    if path.exists() {
        return Ok(());
    }
    atomic::remove(&path)?;
    fs::create_dir_all(path.parent().unwrap_or(snapshot))?;
    #[cfg(unix)]
    {
        // Relative, so that the cache can be moved.
        let mut target = PathBuf::new();
        for _ in 0..name.split('/').count() + 1 {
            target.push("..");
        }
        target.push("blobs");
        target.push(blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(target, &path)
    }
    #[cfg(not(unix))]
    fs::copy(blob, &path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Backoff;
    use crate::progress::Silent;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn repository(cache: &Path, endpoint: Option<String>) -> Repository {
        let environment = HubEnvironment {
            cache: Some(cache.to_owned()),
            offline: endpoint.is_none().then_some(Offline::Variable),
            retry_policy: RetryPolicy {
                backoff: Backoff {
                    initial: Duration::from_millis(1),
                    max: Duration::from_millis(1),
                },
                ..RetryPolicy::default()
            },
            endpoint: endpoint.unwrap_or_default(),
            token: None,
        };
        Repository::in_environment("owner/name", COMMIT, environment).unwrap()
    }

    /// A hub on this machine that has one file; returns its address.
    fn hub(name: &'static str, content: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                let mut range = None;
                for line in lines.by_ref() {
                    let line = line.unwrap().to_lowercase();
                    if let Some(bytes) = line.strip_prefix("range: bytes=") {
                        let (from, to) = bytes.split_once('-').unwrap();
                        let to = to.parse().unwrap_or(content.len() - 1);
                        range = Some((from.parse::<usize>().unwrap(), to));
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let wanted = format!("/owner/name/resolve/{COMMIT}/{name} ");
                let answer = if request.contains(&wanted) {
                    let (from, to) = range.unwrap_or((0, content.len() - 1));
                    let to = to.min(content.len() - 1);
                    let body = &content[from..=to];
                    format!(
                        "HTTP/1.1 206 Partial Content\r\nx-repo-commit: {COMMIT}\r\netag: \"abc\"\r\n\
                         content-range: bytes {from}-{to}/{}\r\ncontent-length: {}\r\n\
                         connection: close\r\n\r\n{body}",
                        content.len(),
                        body.len()
                    )
                } else {
                    "HTTP/1.1 404 Not ArchiveEntry\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                        .to_owned()
                };
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        format!("http://{address}")
    }

    #[test]
    fn what_the_hub_has_is_downloaded_once() {
        let cache = tempfile::tempdir().unwrap();
        let address = hub("unet/b.bin", "some weights");
        let online = repository(cache.path(), Some(address));
        let found = online
            .get(&["unet/a.safetensors", "unet/b.bin"], &Silent)
            .unwrap();
        assert_eq!(std::fs::read(found.unwrap()).unwrap(), b"some weights");
        assert_eq!(online.get(&["vae/config.json"], &Silent).unwrap(), None);
        // From now on, nobody needs to be asked.
        let offline = repository(cache.path(), None);
        let found = offline.get(&["unet/b.bin"], &Silent).unwrap();
        assert_eq!(std::fs::read(found.unwrap()).unwrap(), b"some weights");
        let error = offline
            .get(&["vae/config.json"], &Silent)
            .unwrap_err()
            .to_string();
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
        assert!(error.contains("vae/config.json"), "{error}");
    }

    #[test]
    fn a_hub_that_does_not_answer_is_an_error_with_the_file_s_name() {
        let cache = tempfile::tempdir().unwrap();
        // Nobody listens on a port that was just given back.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let nobody = repository(cache.path(), Some(format!("http://{address}")));
        let error = nobody
            .get(&["unet/config.json"], &Silent)
            .unwrap_err()
            .to_string();
        assert!(error.contains("unet/config.json of owner/name"), "{error}");
        assert!(error.contains("folder"), "{error}");
    }

    #[test]
    fn a_snapshot_of_python_s_tools_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache
            .path()
            .join("models--owner--name/snapshots")
            .join(COMMIT)
            .join("unet");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        let found = repository(cache.path(), None).get(&["unet/config.json"], &Silent);
        assert_eq!(found.unwrap(), Some(folder.join("config.json")));
    }
}
