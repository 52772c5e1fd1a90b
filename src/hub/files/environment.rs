//! Environment variables of the hub, with the meaning that they have for the hub's own tools.

use std::path::{Path, PathBuf};

use crate::net::{Offline, RetryPolicy};

/// Default endpoint.
const ENDPOINT: &str = "https://huggingface.co";

/// Endpoint, token and cache of the hub.
pub(super) struct HubEnvironment {
    /// Cache folder; `None` without a home folder and without a variable that names the cache.
    pub(super) cache: Option<PathBuf>,
    /// Address without a trailing slash.
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
    pub(super) offline: Option<Offline>,
    pub(super) retry_policy: RetryPolicy,
}

impl HubEnvironment {
    /// Reads `HF_HUB_CACHE`, `HF_HOME` or `XDG_CACHE_HOME`; `HF_ENDPOINT`; `HF_TOKEN`, or else the
    /// token that `hf auth login` stored; `--offline` and `HF_HUB_OFFLINE`.
    pub(super) fn read() -> Self {
        let offline = Offline::downloads();
        let home = std::env::home_dir();
        Self::from(&|key| std::env::var(key).ok(), home.as_deref(), offline)
    }

    fn from(
        variable: &dyn Fn(&str) -> Option<String>,
        home: Option<&Path>,
        offline: Option<Offline>,
    ) -> Self {
        let text = |key: &str| {
            let value = variable(key)?.trim().to_owned();
            Some(value).filter(|value| !value.is_empty())
        };
        let folder = |key: &str| {
            let folder = text(key)?;
            Some(match (folder.strip_prefix("~/"), home) {
                (Some(rest), Some(home)) => home.join(rest),
                _ => PathBuf::from(folder),
            })
        };
        let usual = || {
            let caches = folder("XDG_CACHE_HOME").or_else(|| Some(home?.join(".cache")))?;
            Some(caches.join("huggingface"))
        };
        let own = folder("HF_HOME").or_else(usual);
        let stored = || {
            let text = std::fs::read_to_string(own.as_ref()?.join("token")).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self {
            token: text("HF_TOKEN").or_else(stored),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: folder("HF_HUB_CACHE").or_else(|| Some(own?.join("hub"))),
            offline,
            retry_policy: RetryPolicy::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)], home: &Path) -> HubEnvironment {
        let lookup = |key: &str| {
            let found = variables.iter().find(|(name, _)| *name == key);
            found.map(|(_, value)| (*value).to_owned())
        };
        HubEnvironment::from(&lookup, Some(home), None)
    }

    #[test]
    fn variables_mean_what_they_mean_to_the_hub_s_own_tools() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let cache = |variables: &[(&str, &str)]| read(variables, home).cache.unwrap();
        assert_eq!(cache(&[]), home.join(".cache/huggingface/hub"));
        assert_eq!(
            cache(&[("XDG_CACHE_HOME", "/c")]),
            Path::new("/c/huggingface/hub")
        );
        let both = [("XDG_CACHE_HOME", "/c"), ("HF_HOME", "~/h")];
        assert_eq!(cache(&both), home.join("h/hub"));
        let all = [("HF_HOME", "/h"), ("HF_HUB_CACHE", "/x")];
        assert_eq!(cache(&all), Path::new("/x"));
        assert!(HubEnvironment::from(&|_| None, None, None).cache.is_none());

        assert_eq!(read(&[], home).endpoint, ENDPOINT);
        let mirror = [("HF_ENDPOINT", "http://m/hub/")];
        assert_eq!(read(&mirror, home).endpoint, "http://m/hub");

        assert_eq!(read(&[], home).token, None);
        let folder = home.join(".cache/huggingface");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "stored\n").unwrap();
        assert_eq!(read(&[], home).token.as_deref(), Some("stored"));
        // Whatever lies beside a cache of another place is no token.
        let elsewhere = home.join("elsewhere/hub");
        std::fs::create_dir_all(&elsewhere).unwrap();
        std::fs::write(home.join("elsewhere/token"), "not ours").unwrap();
        let variables = [
            ("HF_HUB_CACHE", elsewhere.to_str().unwrap()),
            ("HF_TOKEN", ""),
        ];
        assert_eq!(read(&variables, home).token.as_deref(), Some("stored"));
        let given = [("HF_TOKEN", "given\n")];
        assert_eq!(read(&given, home).token.as_deref(), Some("given"));
    }
}
