//! Proxies and TLS roots from the usual environment variables.
//!
//! `HTTPS_PROXY` applies to https addresses, `HTTP_PROXY` to http addresses, `ALL_PROXY` to both
//! where the specific variable is unset, and `NO_PROXY` lists hosts to connect to directly.
//! Lower-case names take precedence. Loopback addresses never use a proxy.
//!
//! Written here because ureq's `Proxy::try_from_env` takes the first variable that is set as the
//! proxy of both schemes and has no exception for loopback addresses.

use ureq::Proxy;
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use super::error::EnvironmentError;
use super::host::is_loopback;

/// Function that returns the value of an environment variable.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Proxy configuration.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    /// Proxy of http addresses.
    pub(super) http: Option<Proxy>,
    /// Proxy of https addresses.
    pub(super) https: Option<Proxy>,
    /// Entries of `NO_PROXY`, lower case, without a leading dot.
    direct: Vec<String>,
}

impl Proxies {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`EnvironmentError`] that names a variable without a valid proxy address. Its value is not
    /// included, because it may hold a password.
    pub(super) fn from_environment() -> Result<Self, EnvironmentError> {
        Self::new(&|name| std::env::var(name).ok())
    }

    fn new(variable: Lookup<'_>) -> Result<Self, EnvironmentError> {
        let listed = first(variable, &["no_proxy", "NO_PROXY"]);
        let listed = listed.map(|(_, list)| list).unwrap_or_default();
        Ok(Self {
            http: proxy(
                variable,
                &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
            )?,
            https: proxy(
                variable,
                &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
            )?,
            direct: listed
                .split(',')
                .map(|entry| {
                    entry
                        .trim()
                        .trim_start_matches("*.")
                        .trim_start_matches('.')
                })
                .filter(|entry| !entry.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
        })
    }

    /// Returns true if `host` needs no proxy: it is a loopback address, or `NO_PROXY` lists it, a
    /// parent domain of it, or `*`.
    pub(super) fn is_direct(&self, host: &str) -> bool {
        is_loopback(host)
            || self.direct.iter().any(|entry| {
                let below = host.strip_suffix(entry.as_str());
                entry == "*" || below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
    }
}

/// Returns the first variable that is set and not empty.
fn first(variable: Lookup<'_>, names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let value = variable(name).filter(|value| !value.trim().is_empty())?;
        Some((*name, value))
    })
}

fn proxy(variable: Lookup<'_>, names: &[&'static str]) -> Result<Option<Proxy>, EnvironmentError> {
    let Some((name, value)) = first(variable, names) else {
        return Ok(None);
    };
    Proxy::new(value.trim())
        .map(Some)
        .map_err(|_| EnvironmentError {
            variable: name.to_owned(),
            problem: "is not a proxy address".to_owned(),
        })
}

/// Returns the trusted certificate authorities: those in the file that `SSL_CERT_FILE` names, or
/// Mozilla's, which are compiled in.
///
/// # Errors
/// [`EnvironmentError`] if the file cannot be read or holds no certificate.
pub(super) fn roots() -> Result<RootCerts, EnvironmentError> {
    let name = "SSL_CERT_FILE";
    let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) else {
        return Ok(RootCerts::WebPki);
    };
    let invalid = |problem: String| EnvironmentError {
        variable: name.to_owned(),
        problem,
    };
    let path = std::path::PathBuf::from(path);
    let text = std::fs::read(&path)
        .map_err(|error| invalid(format!("names {}: {error}", path.display())))?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => {
                return Err(invalid(format!(
                    "names {}, which is not a PEM file",
                    path.display()
                )));
            }
        }
    }
    if certificates.is_empty() {
        return Err(invalid(format!(
            "names {}, which has no certificate",
            path.display()
        )));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, EnvironmentError> {
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Proxies::new(&|name| {
            let found = variables.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.clone())
        })
    }

    fn host(proxy: Option<&Proxy>) -> Option<&str> {
        proxy.map(Proxy::host)
    }

    #[test]
    fn each_kind_of_address_has_its_own_proxy() {
        let found = proxies(&[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "h:2")]).unwrap();
        assert_eq!(
            (host(found.http.as_ref()), host(found.https.as_ref())),
            (Some("h"), Some("s"))
        );
        let found = proxies(&[("HTTP_PROXY", "http://h:2")]).unwrap();
        assert_eq!(
            (host(found.http.as_ref()), host(found.https.as_ref())),
            (Some("h"), None)
        );
        let found = proxies(&[("ALL_PROXY", "socks5://a:3"), ("HTTP_PROXY", "")]).unwrap();
        assert_eq!(
            (host(found.http.as_ref()), host(found.https.as_ref())),
            (Some("a"), Some("a"))
        );
        let found = proxies(&[("https_proxy", "http://low"), ("HTTPS_PROXY", "http://up")]);
        assert_eq!(host(found.unwrap().https.as_ref()), Some("low"));
        let error = proxies(&[("HTTPS_PROXY", "smtp://me:secret@x")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HTTPS_PROXY") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn no_proxy_lists_hosts_and_domains() {
        let found = proxies(&[("NO_PROXY", "localhost, .corp.example,*.lab, 10.0.0.1")]).unwrap();
        for (host, direct) in [
            ("localhost", true),
            ("corp.example", true),
            ("a.corp.example", true),
            ("acorp.example", false),
            ("x.lab", true),
            ("10.0.0.1", true),
            ("110.0.0.1", false),
            ("example", false),
            ("127.0.0.1", true),
        ] {
            assert_eq!(found.is_direct(host), direct, "{host}");
        }
        assert!(proxies(&[("no_proxy", "*")]).unwrap().is_direct("anything"));
        assert!(!proxies(&[]).unwrap().is_direct("anything"));
    }
}
