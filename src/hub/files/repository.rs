//! A repository of the Hugging Face hub, through the cache that Python's tools share.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::FilesError;

/// One revision of a repository.
pub(super) struct Repository {
    id: String,
    revision: String,
    cache: CacheRepo,
    /// `None` when the hub may not be asked.
    api: Option<ApiRepo>,
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
    offline: bool,
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
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
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
        let api = if environment.offline {
            None
        } else {
            let mut builder = ApiBuilder::from_cache(cache.clone()).with_progress(false);
            if let Some(endpoint) = environment.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if environment.token.is_some() {
                builder = builder.with_token(environment.token);
            }
            let api = builder.build().map_err(|error| failed(error.to_string()))?;
            Some(api.repo(repo.clone()))
        };
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
            cache: cache.repo(repo),
            api,
        })
    }

    /// The first of `names` that the cache has, else the first that the hub has; `None` when it says that it
    /// has none of them.
    pub(super) fn get(&self, names: &[&str]) -> Result<Option<PathBuf>, FilesError> {
        for name in names {
            // A commit's snapshot needs no reference to be found.
            let snapshot = self.cache.pointer_path(&self.revision).join(name);
            if let Some(path) = self
                .cache
                .get(name)
                .or(Some(snapshot).filter(|p| p.is_file()))
            {
                return Ok(Some(path));
            }
        }
        let Some(api) = &self.api else {
            return Err(FilesError::Offline {
                id: self.id.clone(),
                name: names.join(" or "),
            });
        };
        for name in names {
            match api.download(name) {
                Ok(path) => return Ok(Some(path)),
                Err(error) if is_missing(&error) => {}
                Err(error) => {
                    return Err(FilesError::Download {
                        id: self.id.clone(),
                        name: (*name).to_owned(),
                        message: error.to_string(),
                    });
                }
            }
        }
        Ok(None)
    }
}

/// Whether the hub answered that there is no such file.
fn is_missing(error: &ApiError) -> bool {
    error.to_string().contains("http status: 404")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::path::Path;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn repository(cache: &Path, endpoint: Option<String>) -> Repository {
        let environment = Environment {
            cache: Some(cache.to_owned()),
            offline: endpoint.is_none(),
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
        let found = online.get(&["unet/a.safetensors", "unet/b.bin"]).unwrap();
        assert_eq!(std::fs::read(found.unwrap()).unwrap(), b"some weights");
        assert_eq!(online.get(&["vae/config.json"]).unwrap(), None);
        // From now on, nobody needs to be asked.
        let offline = repository(cache.path(), None);
        let found = offline.get(&["unet/b.bin"]).unwrap();
        assert_eq!(std::fs::read(found.unwrap()).unwrap(), b"some weights");
        let error = offline.get(&["vae/config.json"]).unwrap_err().to_string();
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
        let error = nobody.get(&["unet/config.json"]).unwrap_err().to_string();
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
        let found = repository(cache.path(), None).get(&["unet/config.json"]);
        assert_eq!(found.unwrap(), Some(folder.join("config.json")));
    }
}
