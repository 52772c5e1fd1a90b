//! Mirrors.

use std::collections::BTreeMap;

use ureq::http::Uri;

use crate::net::EnvironmentError;

/// Environment variable with the address of a mirror.
const VARIABLE: &str = "DPSYN_MIRROR";

/// Mirrors of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    /// Address of a folder with all files under their names in the catalogue.
    folder: Option<String>,
    /// Prefixes of addresses and their replacements.
    prefixes: BTreeMap<String, String>,
}

impl Mirrors {
    /// Combines `DPSYN_MIRROR` with a table of prefixes and their replacements.
    ///
    /// # Errors
    /// [`EnvironmentError`] if the variable is not an address.
    pub fn new(prefixes: BTreeMap<String, String>) -> Result<Self, EnvironmentError> {
        let folder = std::env::var(VARIABLE)
            .ok()
            .filter(|folder| !folder.is_empty());
        if let Some(folder) = &folder {
            check_address(folder).map_err(|problem| EnvironmentError {
                variable: VARIABLE.to_owned(),
                problem,
            })?;
        }
        Ok(Self { folder, prefixes })
    }

    /// Checks a table of prefixes and their replacements.
    ///
    /// # Errors
    /// Prefix of the invalid entry, and a description of the fault.
    pub fn check(prefixes: &BTreeMap<String, String>) -> Result<(), (String, String)> {
        for (from, to) in prefixes {
            for side in [from, to] {
                check_address(side).map_err(|message| (from.clone(), message))?;
            }
        }
        Ok(())
    }

    /// Returns the addresses of a file in the order of attempts: mirrors first, `url` last. `name`
    /// is its name in the catalogue.
    pub(super) fn of(&self, url: &str, name: &str) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(folder) = &self.folder {
            all.push(format!("{}/{name}", folder.trim_end_matches('/')));
        }
        let fitting = self.prefixes.iter().filter_map(|(from, to)| {
            let rest = url.strip_prefix(from.as_str())?;
            Some((from.len(), format!("{to}{rest}")))
        });
        // The longest prefix is the most specific one.
        all.extend(fitting.max().map(|(_, address)| address));
        all.push(url.to_owned());
        all.dedup();
        all
    }
}

/// Refuses an address that is not http or https, or has credentials.
pub(super) fn check_address(text: &str) -> Result<(), String> {
    let uri: Uri = text.parse().map_err(|_| "is not an address".to_owned())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("is neither http nor https".to_owned());
    }
    match uri.authority() {
        None => Err("has no host".to_owned()),
        Some(authority) if authority.as_str().contains('@') => {
            Err("has credentials: expected an address without them".to_owned())
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_the_source_last() {
        let mirrors = Mirrors {
            folder: Some("http://lab/dpsyn/".to_owned()),
            prefixes: [
                ("https://a/", "http://m/"),
                ("https://a/b/", "http://n/"),
                ("https://c/", "http://o/"),
            ]
            .map(|(from, to)| (from.to_owned(), to.to_owned()))
            .into(),
        };
        assert_eq!(
            mirrors.of("https://a/b/x.gz", "y.gz"),
            ["http://lab/dpsyn/y.gz", "http://n/x.gz", "https://a/b/x.gz"]
        );
        assert_eq!(Mirrors::default().of("https://a/x", "x"), ["https://a/x"]);
    }

    #[test]
    fn a_table_is_checked() {
        let table = |from: &str, to: &str| [(from.to_owned(), to.to_owned())].into();
        assert!(Mirrors::check(&table("https://a/", "http://m:1/x/")).is_ok());
        for (from, to) in [
            ("a", "http://m/"),
            ("https://a/", "m"),
            ("https://a/", "http://u:p@m/"),
        ] {
            let (key, _) = Mirrors::check(&table(from, to)).unwrap_err();
            assert_eq!(key, from);
        }
    }
}
