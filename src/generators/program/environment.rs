//! The environment variables that a program receives: a few by which programs find their parts, and
//! those that the configuration names. Others, such as access keys of services, it never receives.

use std::env;
use std::ffi::OsString;

use crate::sections::InvalidKey;

/// Variables that every program receives, if they are set.
const PASSED: &[&str] = &["HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ"];

/// Further variables without which programs do not start on Windows, or do not find their parts.
const PASSED_ON_WINDOWS: &[&str] = &[
    "APPDATA",
    "COMSPEC",
    "LOCALAPPDATA",
    "NUMBER_OF_PROCESSORS",
    "PATHEXT",
    "PROCESSOR_ARCHITECTURE",
    "PROGRAMDATA",
    "PROGRAMFILES",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "USERPROFILE",
    "WINDIR",
];

/// Checks the key `environment`: names, or names with values.
///
/// # Errors
/// [`InvalidKey`] for an entry without a name.
pub(super) fn check(entries: &[String]) -> Result<(), InvalidKey> {
    for (index, entry) in entries.iter().enumerate() {
        let name = entry
            .split_once('=')
            .map_or(entry.as_str(), |(name, _)| name);
        if name.is_empty() || entry.contains('\0') {
            return Err(InvalidKey::new(
                format!("environment[{index}]"),
                format!(
                    "is {entry:?}: expected the name of a variable to pass on, or \"NAME=value\""
                ),
            ));
        }
    }
    Ok(())
}

/// Returns all variables that the program receives. A named variable that is not set is left out.
pub(super) fn variables(entries: &[String]) -> Vec<(OsString, OsString)> {
    let windows = if cfg!(windows) {
        PASSED_ON_WINDOWS
    } else {
        &[]
    };
    let mut variables: Vec<(OsString, OsString)> = Vec::new();
    for name in PASSED.iter().chain(windows) {
        variables.extend(env::var_os(name).map(|value| (OsString::from(name), value)));
    }
    for entry in entries {
        match entry.split_once('=') {
            Some((name, value)) => variables.push((name.into(), value.into())),
            None => variables.extend(env::var_os(entry).map(|value| (entry.into(), value))),
        }
    }
    variables
}
