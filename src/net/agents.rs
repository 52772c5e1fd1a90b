//! Connections by kind of address and proxy.

use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use super::error::EnvironmentError;
use super::host::host_of;
use super::proxy::{Proxies, roots};

/// Longest time to connect.
const MAX_CONNECT: Duration = Duration::from_secs(30);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limits {
    /// For the whole exchange.
    Whole(Duration),
    /// For each silence: nothing is said about how long a large file may take.
    Silence(Duration),
}

/// Agents that take proxies and certificates from the environment.
pub(crate) struct Agents {
    http: Agent,
    https: Agent,
    direct: Agent,
    proxies: Proxies,
}

impl Agents {
    /// Reads the environment; connects to nothing yet. With `redirects` = 0 a redirection comes back as it is.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub(crate) fn new(limits: Limits, redirects: u32) -> Result<Self, EnvironmentError> {
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

    /// The one for an address.
    pub(crate) fn choose(&self, uri: &Uri) -> &Agent {
        match (host_of(uri), uri.scheme_str()) {
            (Some(host), _) if self.proxies.is_direct(&host) => &self.direct,
            (_, Some("https")) => &self.https,
            _ => &self.http,
        }
    }
}

fn agent(limits: Limits, redirects: u32, proxy: Option<&Proxy>, roots: &RootCerts) -> Agent {
    let tls = TlsConfig::builder().root_certs(roots.clone()).build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(redirects)
        // A redirected request comes back as it is; a redirect loop of a file is an error.
        .max_redirects_will_error(redirects > 0)
        .user_agent(concat!("dpsyn/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy.cloned())
        .tls_config(tls);
    let config = match limits {
        Limits::Whole(timeout) => config
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(MAX_CONNECT))),
        Limits::Silence(timeout) => config
            .timeout_connect(Some(timeout.min(MAX_CONNECT)))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout)),
    };
    Agent::new_with_config(config.build())
}

/// Whether what went wrong below HTTP will go wrong again.
pub(crate) fn is_lasting(error: &ureq::Error) -> bool {
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
        // How an unknown certificate is reported.
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}
