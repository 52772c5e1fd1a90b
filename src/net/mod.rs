//! What everything that asks another machine shares: which proxy, which certificates, how often to try again,
//! whether the network may be used at all, and who watches a download.

mod agents;
mod error;
mod host;
mod offline;
mod proxy;
mod retry;
mod text;
mod watch;

pub(crate) use agents::{Agents, Limits, is_lasting};
pub use error::EnvironmentError;
pub(crate) use host::{host_of, is_loopback};
pub use offline::{Offline, forbid};
pub use retry::Backoff;
pub(crate) use retry::{jitter, retry_after};
pub(crate) use text::{clean, shorten};
pub use watch::{Silent, Watch};
