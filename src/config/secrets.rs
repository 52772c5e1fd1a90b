//! Detection of credentials, which do not belong in a configuration.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Key names that hold credentials of services.
const SECRET_NAMES: &[&str] = &[
    "api_key",
    "api_token",
    "apikey",
    "authorization",
    "key",
    "openai_api_key",
    "password",
    "secret",
    "token",
];

/// Calls `found` with the path and span of every value that has such a name, or that looks like a
/// credential whatever its name.
pub(super) fn secrets(
    table: &DeTable<'_>,
    prefix: &str,
    found: &mut impl FnMut(String, Range<usize>),
) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        // At greater depth, names are those of classes.
        let named = !prefix.contains('.');
        let name = key.get_ref().to_ascii_lowercase().replace('-', "_");
        match value.get_ref() {
            DeValue::Table(inner) => secrets(inner, &path, found),
            DeValue::String(text)
                if named && SECRET_NAMES.contains(&name.as_str()) || looks_like_a_key(text) =>
            {
                found(path, value.span());
            }
            _ => {}
        }
    }
}

/// Returns true for `sk-…` and `Bearer …` of a length that no word has.
fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim();
    let rest = text
        .strip_prefix("sk-")
        .or_else(|| text.strip_prefix("Bearer "));
    rest.is_some_and(|rest| rest.len() >= 16 && rest.chars().all(|c| c.is_ascii_graphic()))
}
