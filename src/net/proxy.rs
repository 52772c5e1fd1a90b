//! Proxies and certificates by the usual environment variables.
//!
//! `HTTPS_PROXY` is for https addresses, `HTTP_PROXY` for http ones, `ALL_PROXY` for those without one of their
//! own, and `NO_PROXY` lists hosts to reach directly; the lower-case names come first. This machine itself is
//! always reached directly. The HTTP client's own
//! reading of them takes one proxy for both kinds of address, so the choice is made here.

use ureq::Proxy;
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use super::error::EnvironmentError;
use super::host::is_loopback;

/// Looks an environment variable up.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Which proxy stands before which address.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    /// For http addresses.
    pub(super) http: Option<Proxy>,
    /// For https addresses.
    pub(super) https: Option<Proxy>,
    direct: Vec<String>,
}

impl Proxies {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`EnvironmentError`] naming a variable that holds no proxy; its value, which may hold a
    /// password, is not repeated.
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

    /// Whether `host` is to be reached directly: it is this machine, or `NO_PROXY` lists it, a domain above
    /// it, or `*`.
    pub(super) fn is_direct(&self, host: &str) -> bool {
        is_loopback(host)
            || self.direct.iter().any(|entry| {
                let below = host.strip_suffix(entry.as_str());
                entry == "*" || below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
    }
}

/// The first of the variables that is set and not empty.
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
            problem: "holds no address of a proxy".to_owned(),
        })
}

/// The certificate authorities to trust: those of the file that `SSL_CERT_FILE` names, or else Mozilla's,
/// which are built in.
///
/// # Errors
/// [`EnvironmentError`] when the file cannot be read or holds no certificate.
pub(super) fn roots() -> Result<RootCerts, EnvironmentError> {
    let name = "SSL_CERT_FILE";
    let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) else {
        return Ok(RootCerts::WebPki);
    };
    let wrong = |problem: String| EnvironmentError {
        variable: name.to_owned(),
        problem,
    };
    let path = std::path::PathBuf::from(path);
    let text = std::fs::read(&path)
        .map_err(|error| wrong(format!("names {}: {error}", path.display())))?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => {
                return Err(wrong(format!(
                    "names {}, which is no PEM file",
                    path.display()
                )));
            }
        }
    }
    if certificates.is_empty() {
        return Err(wrong(format!(
            "names {} without a certificate",
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
