//! HTTP client: requests to the server, downloads of images, and classification of failures.

use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Uri};

use super::address::Address;
use super::answer::error_detail;
use super::error::ServiceError;
use super::key::{ApiKey, presentable};
use crate::net::{Agents, Offline, Timeouts, is_permanent, retry_after};

/// Maximum number of redirects of the address of an image.
const MAX_REDIRECTS: u32 = 5;
/// Maximum number of bytes that are read of the body of an error response.
const MAX_ERROR_BODY: u64 = 1 << 16;

/// A failed request.
#[derive(Debug)]
pub(super) enum CallError {
    /// A failure that a repetition may resolve.
    Transient {
        /// Description of the failure.
        message: String,
        /// The wait that the server requires.
        wait: Option<Duration>,
        /// The status, if the server refused the request without processing it (4xx).
        refused: Option<u16>,
    },
    /// A failure that a repetition cannot resolve.
    Refused {
        /// The HTTP status; 0 if there was no response.
        status: u16,
        /// Description of the failure.
        message: String,
    },
    /// A response that cannot be used.
    Unusable(String),
}

/// A client of one server.
pub(super) struct Client {
    address: Address,
    key: Option<ApiKey>,
    /// For requests with the access key, which do not follow redirects.
    api: Agents,
    /// For downloads from other addresses, without the access key.
    files: Agents,
}

impl Client {
    /// Reads proxies and certificates from the environment, without a connection.
    ///
    /// # Errors
    /// [`ServiceError::Environment`] or [`ServiceError::Offline`].
    pub(super) fn new(
        address: Address,
        key: Option<ApiKey>,
        timeout: Duration,
    ) -> Result<Self, ServiceError> {
        // The command line checks this before a run; here it is enforced.
        if let Some(by) = Offline::network() {
            let host = address.host().to_owned();
            return Err(ServiceError::Offline { host, by });
        }
        Ok(Self {
            address,
            key,
            api: Agents::new(Timeouts::Total(timeout), 0)?,
            files: Agents::new(Timeouts::Total(timeout), MAX_REDIRECTS)?,
        })
    }

    /// Returns the host name of the server, for messages.
    pub(super) fn host(&self) -> &str {
        self.address.host()
    }

    /// Sends a `POST` request and returns the body of the response, of at most `limit` bytes.
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
        self.receive(request.send(body), limit)
    }

    /// Downloads a file of at most `limit` bytes, without the access key.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, CallError> {
        let uri = self.uri(url)?;
        let request = self.files.choose(&uri).get(uri);
        self.receive(request.call(), limit)
    }

    fn uri(&self, text: &str) -> Result<Uri, CallError> {
        let uri: Option<Uri> = text.parse().ok();
        uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .ok_or_else(|| CallError::Refused {
                status: 0,
                message: "the address is neither http nor https".to_owned(),
            })
    }

    fn receive(
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
                    CallError::Unusable(format!("a response of more than {limit} bytes"))
                }
                error => self.failure(&error),
            });
        }
        // The status decides; an unreadable body only shortens the message.
        let body = body.limit(MAX_ERROR_BODY).read_to_vec().unwrap_or_default();
        Err(self.refusal(status.as_u16(), response.headers(), &body))
    }

    /// Classifies a response whose status is not a success.
    fn refusal(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> CallError {
        if (300..400).contains(&status) {
            let target = headers
                .get("location")
                .and_then(|value| value.to_str().ok());
            let target = presentable(target.unwrap_or("no address"), self.key.as_ref());
            return CallError::Refused {
                status,
                message: format!(
                    "redirected to {target}, but the access key is only sent to model.base_url: correct it if that is the server"
                ),
            };
        }
        let detail = error_detail(body);
        let code = presentable(&detail.code, self.key.as_ref());
        let mut message = presentable(&detail.message, self.key.as_ref());
        if !code.is_empty() {
            message = format!("{message} ({code})");
        }
        // An exhausted account is not refilled by waiting.
        let exhausted = matches!(
            detail.code.as_str(),
            "insufficient_quota" | "billing_hard_limit_reached" | "billing_not_active"
        );
        match status {
            408 | 409 | 425 | 429 | 500..=599 if !exhausted => CallError::Transient {
                message: format!("{status}, {message}"),
                wait: retry_after(headers, SystemTime::now()),
                refused: (status < 500).then_some(status),
            },
            _ => CallError::Refused { status, message },
        }
    }

    /// Classifies a failure below HTTP, such as a broken connection.
    fn failure(&self, error: &ureq::Error) -> CallError {
        let message = presentable(&error.to_string(), self.key.as_ref());
        if is_permanent(error) {
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
