//! Shared HTTP client: proxies, TLS roots, retries, offline mode and resumable downloads.

mod agents;
mod error;
mod host;
mod offline;
mod partial_file;
mod proxy;
mod range;
mod retry;
mod text;
mod transfer;

pub(crate) use agents::{Agents, Timeouts, is_permanent};
pub use error::{EnvironmentError, TransferError};
pub(crate) use host::{host_of, is_loopback};
pub use offline::{Offline, disable};
pub(crate) use partial_file::{Origin, PartialFile};
pub(crate) use range::ContentRange;
pub use retry::Backoff;
pub(crate) use retry::{jitter, retry_after};
pub(crate) use text::{single_line, truncate};
pub use transfer::RetryPolicy;
pub(crate) use transfer::{AttemptError, ExpectedSize, RemoteSource, Transfer};
#[cfg(feature = "hub")]
pub(crate) use transfer::{header, send, status_error};
