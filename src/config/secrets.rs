//! Detection of credentials, which do not belong in a configuration.

use std::ops::Range;

use toml::Spanned;
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
        let named = !prefix.contains('.') || prefix.ends_with(']');
        let name = key.get_ref().to_ascii_lowercase().replace('-', "_");
        let named = named && SECRET_NAMES.contains(&name.as_str());
        secrets_of(value, path, named, found);
    }
}

/// Calls `found` for the credentials within a value, whose name is that of one if `named`.
fn secrets_of(
    value: &Spanned<DeValue<'_>>,
    path: String,
    named: bool,
    found: &mut impl FnMut(String, Range<usize>),
) {
    match value.get_ref() {
        DeValue::Table(inner) => secrets(inner, &path, found),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                secrets_of(value, format!("{path}[{index}]"), named, found);
            }
        }
        DeValue::String(text) if named || looks_like_a_key(text) => found(path, value.span()),
        _ => {}
    }
}

/// Returns true for `sk-…` and `Bearer …` of a length that no word has, also as the value of
/// `NAME=…` in the environment of a program.
fn looks_like_a_key(text: &str) -> bool {
    let value = text.split_once('=').map(|(_, value)| value);
    [Some(text), value].into_iter().flatten().any(|text| {
        let text = text.trim();
        let rest = text
            .strip_prefix("sk-")
            .or_else(|| text.strip_prefix("Bearer "));
        rest.is_some_and(|rest| rest.len() >= 16 && rest.chars().all(|c| c.is_ascii_graphic()))
    })
}
