//! Client of a hub: resolves files to versions and addresses.
//!
//! The hub redirects requests for large files to other hosts. The token is sent only to the scheme,
//! host and port of the endpoint, and never over plain http to another machine. Values from the hub
//! that become parts of paths are validated first.

use std::cell::Cell;

use ureq::RequestBuilder;
use ureq::http::{HeaderMap, Uri};
use ureq::typestate::WithoutBody;

use crate::net::{
    Agents, AttemptError, EnvironmentError, RemoteSource, RetryPolicy, Timeouts, TransferError,
    header, host_of, is_loopback, send, status_error,
};

/// Maximum number of redirects, within the hub and of the host that has the bytes.
const MAX_REDIRECTS: u32 = 8;
/// Longest accepted `ETag`: it becomes a file name.
const MAX_ETAG: usize = 128;

/// A client of one hub.
pub(super) struct HubClient {
    endpoint: String,
    uri: Uri,
    token: Option<String>,
    /// Agents that return redirects as responses.
    asking: Agents,
    /// Agents that follow redirects.
    fetching: Agents,
}

/// Version and address of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileMetadata {
    /// Commit of the version.
    pub(super) commit: String,
    /// Name of the content.
    pub(super) etag: String,
    pub(super) size: Option<u64>,
    /// Address of the bytes.
    at: Uri,
}

impl HubClient {
    /// Creates a client; opens no connection.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub(super) fn new(
        endpoint: String,
        token: Option<String>,
        retry_policy: RetryPolicy,
    ) -> Result<Self, EnvironmentError> {
        let wrong = |problem: &str| EnvironmentError {
            variable: "HF_ENDPOINT".to_owned(),
            problem: problem.to_owned(),
        };
        let uri: Uri = endpoint.parse().map_err(|_| wrong("is not an address"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("is neither http nor https"));
        }
        if uri
            .authority()
            .is_none_or(|host| host.as_str().contains('@'))
        {
            return Err(wrong("has no host, or has credentials"));
        }
        let limits = Timeouts::Idle(retry_policy.idle_timeout);
        Ok(Self {
            asking: Agents::new(limits, 0)?,
            fetching: Agents::new(limits, MAX_REDIRECTS)?,
            endpoint,
            uri,
            token,
        })
    }

    /// Returns the address of a file of a repository.
    pub(super) fn address(&self, repository: &str, revision: &str, name: &str) -> String {
        let revision = revision.replace('/', "%2F");
        format!("{}/{repository}/resolve/{revision}/{name}", self.endpoint)
    }

    /// Returns true if the token is withheld, because the connection is not encrypted.
    pub(super) fn keeps_token(&self) -> bool {
        self.token.is_some() && !self.is_safe()
    }

    /// Returns true if the connection to the hub is encrypted or stays on this machine.
    fn is_safe(&self) -> bool {
        let here = || host_of(&self.uri).is_some_and(|host| is_loopback(&host));
        self.uri.scheme_str() == Some("https") || here()
    }

    /// Returns true if an address belongs to the hub.
    fn is_own(&self, uri: &Uri) -> bool {
        uri.scheme() == self.uri.scheme() && uri.authority() == self.uri.authority()
    }

    fn request(&self, agents: &Agents, uri: &Uri) -> RequestBuilder<WithoutBody> {
        let request = agents
            .choose(uri)
            .get(uri.clone())
            .config()
            // A request that starts with https must not be redirected to http.
            .https_only(self.uri.scheme_str() == Some("https"))
            .build();
        match &self.token {
            Some(token) if self.is_own(uri) && self.is_safe() => {
                request.header("Authorization", format!("Bearer {token}"))
            }
            _ => request,
        }
    }

    /// Requests version and address of the file at `url`.
    ///
    /// # Errors
    /// [`AttemptError`].
    pub(super) fn card(&self, url: &str) -> Result<FileMetadata, AttemptError> {
        let refused = |message: &str| AttemptError::from(TransferError::refused(url, message));
        let mut uri: Uri = url.parse().map_err(|_| refused("is not an address"))?;
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(&self.asking, &uri);
            // Requests one byte, because some hubs answer HEAD differently from GET.
            let request = request
                .header("Accept-Encoding", "identity")
                .header("Range", "bytes=0-0");
            let response = send(request, url)?;
            let headers = response.headers();
            let next = match response.status().as_u16() {
                200 | 206 => None,
                301 | 302 | 303 | 307 | 308 => {
                    let to = header(headers, "location").and_then(|to| join(&uri, to));
                    Some(to.ok_or_else(|| refused("redirects to an invalid address"))?)
                }
                _ => return Err(status_error(url, response)),
            };
            match next {
                Some(to) if self.is_own(&to) && header(headers, "x-linked-etag").is_none() => {
                    uri = to;
                }
                at => return card(headers, at.unwrap_or(uri)).map_err(refused),
            }
        }
        Err(refused("redirects too often"))
    }
}

/// Parses the response of a hub.
///
/// # Errors
/// Description of a missing or unsafe header.
fn card(headers: &HeaderMap, at: Uri) -> Result<FileMetadata, &'static str> {
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
    let etag = etag.ok_or("has no ETag: expected a Hugging Face hub")?;
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if etag.is_empty() || etag.len() > MAX_ETAG || !etag.bytes().all(plain) {
        return Err("has an ETag that is not usable as a file name");
    }
    let commit =
        header(headers, "x-repo-commit").ok_or("has no commit: expected a Hugging Face hub")?;
    if !is_commit(commit) {
        return Err("has an invalid commit");
    }
    let number = |name: &str| header(headers, name)?.parse().ok();
    let total = || {
        header(headers, "content-range")?
            .rsplit('/')
            .next()?
            .parse()
            .ok()
    };
    Ok(FileMetadata {
        commit: commit.to_owned(),
        etag: etag.to_owned(),
        size: number("x-linked-size").or_else(total),
        at,
    })
}

/// Returns true if a text is the SHA-1 of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Resolves the target of a redirect: an address, or a path on the same host.
fn join(from: &Uri, to: &str) -> Option<Uri> {
    let to: Uri = to.parse().ok()?;
    if to.authority().is_some() {
        return to.scheme().is_some().then_some(to);
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = to.into_parts().path_and_query;
    Uri::from_parts(parts).ok()
}

/// Download of a file of a hub.
pub(super) struct Bytes<'s> {
    server: &'s HubClient,
    url: &'s str,
    card: &'s FileMetadata,
    /// True until the first request. Addresses expire after minutes, so later attempts resolve
    /// again.
    fresh: Cell<bool>,
}

impl<'s> Bytes<'s> {
    /// Creates a download of the version in `card`, which was just resolved.
    pub(super) fn new(server: &'s HubClient, url: &'s str, card: &'s FileMetadata) -> Self {
        Self {
            server,
            url,
            card,
            fresh: Cell::new(true),
        }
    }
}

impl RemoteSource for Bytes<'_> {
    fn url(&self) -> &str {
        self.url
    }

    fn request(&self) -> Result<RequestBuilder<WithoutBody>, AttemptError> {
        let at = if self.fresh.take() {
            self.card.at.clone()
        } else {
            let now = self.server.card(self.url)?;
            if (&now.etag, &now.commit) != (&self.card.etag, &self.card.commit) {
                let message = "changed during the download: run the same command again to get the new version";
                return Err(TransferError::refused(self.url, message).into());
            }
            now.at
        };
        Ok(self.server.request(&self.server.fetching, &at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn server(endpoint: &str) -> HubClient {
        let token = Some("hf_secret".to_owned());
        HubClient::new(endpoint.to_owned(), token, RetryPolicy::default()).unwrap()
    }

    fn headers(etag: &str, commit: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("etag", etag.parse().unwrap());
        headers.insert("x-repo-commit", commit.parse().unwrap());
        headers
    }

    fn carries_token(server: &HubClient, uri: &str) -> bool {
        let request = server.request(&server.fetching, &uri.parse().unwrap());
        request.headers_ref().unwrap().contains_key("authorization")
    }

    #[test]
    fn the_token_is_for_the_hub_alone() {
        let hub = server("https://hub.example");
        assert!(carries_token(&hub, "https://hub.example/a"));
        for other in [
            "https://cdn.example/a",
            "https://hub.example.evil/a",
            "https://hub.example:444/a",
            "http://hub.example/a",
            "https://me@hub.example/a",
        ] {
            assert!(!carries_token(&hub, other), "{other}");
        }
        // Nor over plain http, unless it stays on this machine.
        let open = server("http://mirror.example");
        assert!(!carries_token(&open, "http://mirror.example/a") && open.keeps_token());
        let here = server("http://127.0.0.1:8000");
        assert!(carries_token(&here, "http://127.0.0.1:8000/a") && !here.keeps_token());
        assert!(!carries_token(&here, "http://127.0.0.1:8001/a"));
    }

    #[test]
    fn an_endpoint_is_an_address_without_credentials() {
        for wrong in ["hub", "ftp://h", "https://me:secret@h", "/a"] {
            let result = HubClient::new(wrong.to_owned(), None, RetryPolicy::default());
            let text = result.err().unwrap().to_string();
            assert!(
                text.contains("HF_ENDPOINT") && !text.contains("secret"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_a_hub_says_becomes_a_path_only_if_it_is_plain() {
        let at = || Uri::from_static("https://h/f");
        let good = card(&headers("W/\"abc-1_2\"", COMMIT), at()).unwrap();
        assert_eq!((good.etag.as_str(), good.size), ("abc-1_2", None));
        for etag in [
            "\"\"",
            "\"../../x\"",
            "\"/x\"",
            "\"..\"",
            "\"a.lock\"",
            "\"a\\b\"",
        ] {
            assert!(card(&headers(etag, COMMIT), at()).is_err(), "{etag}");
        }
        for commit in [
            "",
            "main",
            "../../../x",
            &COMMIT[1..],
            &COMMIT.to_uppercase(),
        ] {
            assert!(card(&headers("\"a\"", commit), at()).is_err(), "{commit}");
        }
    }

    #[test]
    fn redirects_are_joined() {
        let from = Uri::from_static("https://h:1/a/b?c");
        let to = |to| join(&from, to).map(|uri| uri.to_string());
        assert_eq!(to("/x?y").as_deref(), Some("https://h:1/x?y"));
        assert_eq!(to("https://cdn/x").as_deref(), Some("https://cdn/x"));
        assert_eq!(to("not an address"), None);
    }

    proptest! {
        #[test]
        fn no_header_panics_or_leads_out(etag in "[ -~]{0,20}", to in "[ -~]{0,20}") {
            let from = Uri::from_static("https://h/a");
            let _ = join(&from, &to);
            let Ok(value) = etag.parse() else { return Ok(()) };
            let mut headers = headers("x", COMMIT);
            headers.insert("etag", value);
            if let Ok(card) = card(&headers, from) {
                let mut parts = std::path::Path::new(&card.etag).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }
    }
}
