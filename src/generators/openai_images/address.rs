//! The base address of a server.

use ureq::http::Uri;

use crate::net::{host_of, is_loopback};

/// A validated base address.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// The text without a trailing slash.
    base: String,
    https: bool,
    host: String,
}

impl Address {
    /// Parses a base address.
    ///
    /// # Errors
    /// A description of the problem that repeats no part of the address, which may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected an address such as \"https://api.openai.com/v1\"";
        let uri: Uri = text
            .trim_end_matches('/')
            .parse()
            .map_err(|_| format!("is not an address: {expected}"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("is neither http nor https: {expected}")),
        };
        let Some(authority) = uri.authority() else {
            return Err(format!("has no host: {expected}"));
        };
        if authority.as_str().contains('@') {
            return Err("has a user name or password: remove it".to_owned());
        }
        if uri.query().is_some() {
            return Err(format!("has a query (?): {expected}"));
        }
        let host = host_of(&uri).unwrap_or_default();
        Ok(Self {
            base: text.trim_end_matches('/').to_owned(),
            https,
            host,
        })
    }

    /// Returns the address of an endpoint such as `images/generations`.
    pub(super) fn endpoint(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// Returns true if the access key would be sent unencrypted over a network.
    pub(super) fn exposes_key(&self) -> bool {
        !self.https && !is_loopback(&self.host)
    }

    /// Returns the host name.
    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_below_the_base() {
        for base in ["https://h/v1", "https://h/v1/"] {
            let address = Address::parse(base).unwrap();
            assert_eq!(
                address.endpoint("images/edits"),
                "https://h/v1/images/edits"
            );
            assert_eq!(address.host(), "h");
        }
        let address = Address::parse("http://127.0.0.1:80").unwrap();
        assert_eq!(address.endpoint("x"), "http://127.0.0.1:80/x");
    }

    #[test]
    fn only_http_to_another_machine_exposes_the_key() {
        for (base, exposed) in [
            ("https://example.org", false),
            ("http://example.org", true),
            ("http://10.0.0.1:8080/v1", true),
            ("http://localhost:8080/v1", false),
            ("http://127.0.0.2", false),
            ("http://[::1]:9", false),
        ] {
            assert_eq!(
                Address::parse(base).unwrap().exposes_key(),
                exposed,
                "{base}"
            );
        }
    }

    #[test]
    fn no_error_repeats_the_address() {
        for base in [
            "",
            "h/v1",
            "ftp://secret/",
            "https://u:secret@h/",
            "https://h/?secret",
        ] {
            let error = Address::parse(base).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
