//! A repository of the Hugging Face hub, through the cache that Python's tools share.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{Checked, FilesError, State};
use crate::hub::digest::{git_blob_file, sha256_file};
use crate::net::{Backoff, Offline, Watch, jitter};

/// Tries at one file. Each goes on where the one before broke off.
const ATTEMPTS: u32 = 6;
/// How long between them.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    most: Duration::from_secs(30),
};

/// One revision of a repository.
pub(super) struct Repository {
    id: String,
    revision: String,
    cache: CacheRepo,
    repo: Repo,
    /// Or what forbids to ask the hub.
    api: Result<Api, Offline>,
    backoff: Backoff,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.id, self.revision)
    }
}

/// What the environment says, as the hub's own tools read it.
struct Environment {
    cache: Option<PathBuf>,
    endpoint: Option<String>,
    token: Option<String>,
    offline: Option<Offline>,
    backoff: Backoff,
}

impl Environment {
    fn read() -> Self {
        let text = |key: &str| std::env::var(key).ok().filter(|value| !value.is_empty());
        let home = || {
            let home = std::env::home_dir()?;
            Some(home.join(".cache").join("huggingface"))
        };
        Self {
            cache: text("HF_HUB_CACHE").map(PathBuf::from).or_else(|| {
                let home = text("HF_HOME").map(PathBuf::from).or_else(home)?;
                Some(home.join("hub"))
            }),
            endpoint: text("HF_ENDPOINT"),
            token: text("HF_TOKEN"),
            offline: Offline::of_downloads(),
            backoff: BACKOFF,
        }
    }
}

impl Repository {
    pub(super) fn new(id: &str, revision: &str) -> Result<Self, FilesError> {
        Self::in_environment(id, revision, Environment::read())
    }

    fn in_environment(
        id: &str,
        revision: &str,
        environment: Environment,
    ) -> Result<Self, FilesError> {
        let failed = |message: String| FilesError::Download {
            id: id.to_owned(),
            name: "anything".to_owned(),
            message,
        };
        let Some(cache) = environment.cache else {
            let message = "there is no home folder for the cache: set HF_HUB_CACHE";
            return Err(failed(message.to_owned()));
        };
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        let cache = Cache::new(cache);
        let api = if let Some(by) = environment.offline {
            Err(by)
        } else {
            let mut builder = ApiBuilder::from_cache(cache.clone()).with_progress(false);
            if let Some(endpoint) = environment.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if environment.token.is_some() {
                builder = builder.with_token(environment.token);
            }
            Ok(builder.build().map_err(|error| failed(error.to_string()))?)
        };
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
            cache: cache.repo(repo.clone()),
            repo,
            api,
            backoff: environment.backoff,
        })
    }

    /// The first of `names` that the cache has.
    pub(super) fn cached(&self, names: &[&str]) -> Option<PathBuf> {
        names.iter().find_map(|name| {
            // A commit's snapshot needs no reference to be found.
            let snapshot = self.cache.pointer_path(&self.revision).join(name);
            let found = self.cache.get(name);
            found.or(Some(snapshot).filter(|path| path.is_file()))
        })
    }

    /// The first of `names` that the cache has, else the first that the hub has; `None` when it says that it
    /// has none of them.
    pub(super) fn get(
        &self,
        names: &[&str],
        watch: &dyn Watch,
    ) -> Result<Option<PathBuf>, FilesError> {
        if let Some(path) = self.cached(names) {
            return Ok(Some(path));
        }
        let api = self.api.as_ref().map_err(|by| FilesError::Offline {
            id: self.id.clone(),
            name: names.join(" or "),
            by: *by,
        })?;
        for name in names {
            if let Some(path) = self.download(api, name, watch)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Downloads a file, going on where an earlier try broke off; `None` when the hub says that it has none.
    fn download(
        &self,
        api: &Api,
        name: &str,
        watch: &dyn Watch,
    ) -> Result<Option<PathBuf>, FilesError> {
        let failed = |message: String| FilesError::Download {
            id: self.id.clone(),
            name: name.to_owned(),
            message,
        };
        let (mut attempt, mut damaged) = (0, 0);
        loop {
            attempt += 1;
            let message = match self.try_download(api, name, watch) {
                Ok(path) => match self.check(&path, name)?.state {
                    State::Damaged { expected, found } => {
                        // Such a file must not lie in the cache, where everybody takes it for good.
                        let blob = path.canonicalize().unwrap_or_else(|_| path.clone());
                        for path in [&blob, &path] {
                            remove(path).map_err(|error| failed(error.to_string()))?;
                        }
                        let message =
                            format!("it has the digest {found} where the hub says {expected}");
                        // A server that cannot resume spoils what an earlier try brought, but only once.
                        damaged += 1;
                        if damaged > 1 {
                            return Err(failed(message));
                        }
                        message
                    }
                    _ => return Ok(Some(path)),
                },
                Err(error) => match status(&error) {
                    Some(404) => return Ok(None),
                    Some(status @ (401 | 403)) => {
                        return Err(failed(format!(
                            "{error} (with {status} the hub wants HF_TOKEN, or its terms accepted)"
                        )));
                    }
                    Some(408 | 425 | 429 | 500..) | None => error.to_string(),
                    Some(_) => return Err(failed(error.to_string())),
                },
            };
            if attempt >= ATTEMPTS {
                return Err(failed(message));
            }
            watch.line(&format!("{name} of {}: {message}; trying again", self.id));
            std::thread::sleep(self.backoff.wait(attempt, jitter()));
        }
    }

    fn try_download(&self, api: &Api, name: &str, watch: &dyn Watch) -> Result<PathBuf, ApiError> {
        let files = api.repo(self.repo.clone());
        let metadata = api.metadata(&files.url(name))?;
        // What is longer than the whole can only be wrong, and would be refused for ever.
        let part = self.cache.blob_path(metadata.etag()).with_extension("part");
        if fs::metadata(&part).is_ok_and(|part| part.len() > metadata.size() as u64) {
            remove(&part)?;
        }
        files.download_with_progress(name, Shown { watch, done: 0 })
    }

    /// Checks a file of the cache: its blob is named by its digest.
    pub(super) fn check(&self, path: &Path, name: &str) -> Result<Checked, FilesError> {
        let failed = |source: io::Error| FilesError::Read {
            path: path.to_owned(),
            source,
        };
        let blob = path.canonicalize().map_err(failed)?;
        let bytes = fs::metadata(&blob).map_err(failed)?.len();
        let etag = blob.file_name().and_then(|name| name.to_str());
        let expected = etag.unwrap_or_default().to_ascii_lowercase();
        let hexadecimal = expected.bytes().all(|byte| byte.is_ascii_hexdigit());
        let found = match expected.len() {
            64 if hexadecimal => Some(sha256_file(&blob).map_err(failed)?),
            40 if hexadecimal => Some(git_blob_file(&blob).map_err(failed)?),
            _ => None,
        };
        let state = match found {
            Some(found) if found == expected => State::Sound,
            Some(found) => State::Damaged { expected, found },
            None => State::Unknown,
        };
        Ok(Checked {
            name: name.to_owned(),
            path: path.to_owned(),
            bytes,
            state,
        })
    }
}

/// Shows the hub crate's progress.
struct Shown<'a> {
    watch: &'a dyn Watch,
    done: u64,
}

impl Progress for Shown<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        self.done = 0;
        self.watch.begin(filename, Some(size as u64));
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        self.watch.advance(self.done);
    }

    fn finish(&mut self) {
        self.watch.end();
    }
}

/// The status with which the hub refused.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Silent;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn repository(cache: &Path, endpoint: Option<String>) -> Repository {
        let environment = Environment {
            cache: Some(cache.to_owned()),
            offline: endpoint.is_none().then_some(Offline::Variable),
            backoff: Backoff {
                first: Duration::from_millis(1),
                most: Duration::from_millis(1),
            },
            endpoint,
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
                    "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
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
