//! HTTP agents, one per proxy that the environment configures.

use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use super::error::EnvironmentError;
use super::host::host_of;
use super::proxy::{Proxies, roots};

/// Upper bound of the connection timeout, whatever the timeouts for data are.
const MAX_CONNECT: Duration = Duration::from_secs(30);

/// Timeouts of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Timeouts {
    /// Limits the whole exchange.
    Total(Duration),
    /// Limits the time without received bytes, so that a large file may take any time.
    Idle(Duration),
}

/// HTTP agents with proxies and TLS roots from the environment.
pub(crate) struct Agents {
    http: Agent,
    https: Agent,
    direct: Agent,
    proxies: Proxies,
}

impl Agents {
    /// Reads the environment; opens no connection. With `redirects` = 0, a redirect is returned as
    /// the response.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub(crate) fn new(limits: Timeouts, redirects: u32) -> Result<Self, EnvironmentError> {
        let proxies = Proxies::from_environment()?;
        let roots = roots()?;
        let agent = |proxy: Option<&Proxy>| agent(limits, redirects, proxy, &roots);
        Ok(Self {
            http: agent(proxies.http.as_ref()),
            https: agent(proxies.https.as_ref()),
            direct: agent(None),
            proxies,
        })
    }

    /// Returns the agent for an address.
    pub(crate) fn choose(&self, uri: &Uri) -> &Agent {
        match (host_of(uri), uri.scheme_str()) {
            (Some(host), _) if self.proxies.is_direct(&host) => &self.direct,
            (_, Some("https")) => &self.https,
            _ => &self.http,
        }
    }
}

fn agent(limits: Timeouts, redirects: u32, proxy: Option<&Proxy>, roots: &RootCerts) -> Agent {
    let tls = TlsConfig::builder().root_certs(roots.clone()).build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(redirects)
        // With 0 redirects the caller handles the response itself; otherwise a loop is an error.
        .max_redirects_will_error(redirects > 0)
        .user_agent(concat!("dpsyn/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy.cloned())
        .tls_config(tls);
    let config = match limits {
        Timeouts::Total(timeout) => config
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(MAX_CONNECT))),
        Timeouts::Idle(timeout) => config
            .timeout_connect(Some(timeout.min(MAX_CONNECT)))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout)),
    };
    Agent::new_with_config(config.build())
}

/// Returns true if a retry would meet the same transport error again.
pub(crate) fn is_permanent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Http(_)
        | ureq::Error::BadUri(_)
        | ureq::Error::TooManyRedirects
        | ureq::Error::RedirectFailed
        | ureq::Error::RequireHttpsOnly(_)
        | ureq::Error::InvalidProxyUrl
        | ureq::Error::Tls(_)
        | ureq::Error::Pem(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::LargeResponseHeader(..) => true,
        // rustls reports an unknown certificate this way.
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}
