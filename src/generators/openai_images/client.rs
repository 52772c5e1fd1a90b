//! HTTP: sending a request, fetching a file, and telling what is worth another try.

use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Uri};

use super::address::Address;
use super::answer::complaint;
use super::error::ServiceError;
use super::key::{ApiKey, presentable};
use crate::net::{Agents, Limits, Offline, is_lasting, retry_after};

/// Addresses of images may move so often.
const MAX_REDIRECTS: u32 = 5;
/// Bytes of an error that are read.
const MAX_ERROR_BODY: u64 = 1 << 16;

/// Why a request gave nothing.
#[derive(Debug)]
pub(super) enum CallError {
    /// Another try may help.
    Transient {
        /// What happened.
        message: String,
        /// How long the server asks to wait.
        wait: Option<Duration>,
        /// The status, if the server refused it without doing anything (4xx).
        refused: Option<u16>,
    },
    /// Another try will not help.
    Refused {
        /// The status; 0 if there was none.
        status: u16,
        /// What happened.
        message: String,
    },
    /// An answer came that cannot be used.
    Unusable(String),
}

/// Talks to one server.
pub(super) struct Client {
    address: Address,
    key: Option<ApiKey>,
    /// For requests with the key: never redirected.
    api: Agents,
    /// For images at other addresses: without the key.
    files: Agents,
}

impl Client {
    /// Reads proxies and certificates from the environment; connects to nothing yet.
    ///
    /// # Errors
    /// [`ServiceError::Environment`] or [`ServiceError::Offline`].
    pub(super) fn new(
        address: Address,
        key: Option<ApiKey>,
        timeout: Duration,
    ) -> Result<Self, ServiceError> {
        // A run is refused before it begins; here nothing gets past.
        if let Some(by) = Offline::of_everything() {
            let host = address.host().to_owned();
            return Err(ServiceError::Offline { host, by });
        }
        Ok(Self {
            address,
            key,
            api: Agents::new(Limits::Whole(timeout), 0)?,
            files: Agents::new(Limits::Whole(timeout), MAX_REDIRECTS)?,
        })
    }

    /// The server's name, for messages.
    pub(super) fn host(&self) -> &str {
        self.address.host()
    }

    /// `POST`s a body and returns the answer, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) fn post(
        &self,
        path: &str,
        content_type: &str,
        body: &[u8],
        limit: u64,
    ) -> Result<Vec<u8>, CallError> {
        let uri = self.uri(&self.address.endpoint(path))?;
        let mut request = self
            .api
            .choose(&uri)
            .post(uri)
            .header("Content-Type", content_type)
            .header("Accept", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", key.header());
        }
        self.answer(request.send(body), limit)
    }

    /// Fetches a file of at most `limit` bytes, without the key, following a few redirects.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, CallError> {
        let uri = self.uri(url)?;
        let request = self.files.choose(&uri).get(uri);
        self.answer(request.call(), limit)
    }

    fn uri(&self, text: &str) -> Result<Uri, CallError> {
        let uri: Option<Uri> = text.parse().ok();
        uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .ok_or_else(|| CallError::Refused {
                status: 0,
                message: "an address that is neither http nor https".to_owned(),
            })
    }

    fn answer(
        &self,
        result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        limit: u64,
    ) -> Result<Vec<u8>, CallError> {
        let mut response = result.map_err(|error| self.failure(&error))?;
        let status = response.status();
        let body = response.body_mut().with_config();
        if status.is_success() {
            let body = body.limit(limit).read_to_vec();
            return body.map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(_) => {
                    CallError::Unusable(format!("an answer of more than {limit} bytes"))
                }
                error => self.failure(&error),
            });
        }
        // What cannot be read of an error is not worth another error.
        let body = body.limit(MAX_ERROR_BODY).read_to_vec().unwrap_or_default();
        Err(self.refusal(status.as_u16(), response.headers(), &body))
    }

    /// Sorts a status other than success.
    fn refusal(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> CallError {
        if (300..400).contains(&status) {
            let target = headers
                .get("location")
                .and_then(|value| value.to_str().ok());
            let target = presentable(target.unwrap_or("nowhere"), self.key.as_ref());
            return CallError::Refused {
                status,
                message: format!(
                    "redirected to {target}; the key is sent nowhere but to base_url: correct it if that is the server"
                ),
            };
        }
        let complaint = complaint(body);
        let code = presentable(&complaint.code, self.key.as_ref());
        let mut message = presentable(&complaint.message, self.key.as_ref());
        if !code.is_empty() {
            message = format!("{message} ({code})");
        }
        // Without money no waiting helps.
        let broke = matches!(
            complaint.code.as_str(),
            "insufficient_quota" | "billing_hard_limit_reached" | "billing_not_active"
        );
        match status {
            408 | 409 | 425 | 429 | 500..=599 if !broke => CallError::Transient {
                message: format!("{status}, {message}"),
                wait: retry_after(headers, SystemTime::now()),
                refused: (status < 500).then_some(status),
            },
            _ => CallError::Refused { status, message },
        }
    }

    /// Sorts what went wrong below HTTP.
    fn failure(&self, error: &ureq::Error) -> CallError {
        let message = presentable(&error.to_string(), self.key.as_ref());
        if is_lasting(error) {
            CallError::Refused { status: 0, message }
        } else {
            CallError::Transient {
                message,
                wait: None,
                refused: None,
            }
        }
    }
}
