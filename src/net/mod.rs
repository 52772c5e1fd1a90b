//! What everything that asks another machine shares: which proxy, which certificates, how often to try again,
//! whether the network may be used at all, how a file comes over HTTP, and who watches that.

mod agents;
mod error;
mod host;
mod offline;
mod part;
mod proxy;
mod range;
mod retry;
mod text;
mod transfer;

pub(crate) use agents::{Agents, Limits, is_lasting};
pub use error::{EnvironmentError, TransferError};
pub(crate) use host::{host_of, is_loopback};
pub use offline::{Offline, forbid};
pub(crate) use part::{Origin, Part};
pub use retry::Backoff;
pub(crate) use retry::{jitter, retry_after};
pub(crate) use text::{clean, shorten};
pub use transfer::Patience;
pub(crate) use transfer::{Extent, Setback, Source, Transfer};
#[cfg(feature = "hub")]
pub(crate) use transfer::{call, header, refusal};
