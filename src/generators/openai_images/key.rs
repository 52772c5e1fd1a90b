//! The access key of a hosted model, read from the environment and never displayed.

use super::error::ServiceError;
use crate::net::{single_line, truncate};

/// An access key. It implements neither `Debug` nor `Display` nor `Serialize`: its only use is one
/// HTTP header.
pub(super) struct ApiKey(String);

impl ApiKey {
    /// Reads the environment variable `name`; `None` if `name` is empty, for servers without keys.
    ///
    /// # Errors
    /// [`ServiceError::Key`] if the variable is not set or its value is malformed.
    pub(super) fn read(name: &str) -> Result<Option<Self>, ServiceError> {
        if name.is_empty() {
            return Ok(None);
        }
        let wrong = |problem| ServiceError::Key {
            variable: name.to_owned(),
            problem,
        };
        match std::env::var(name) {
            Ok(text) => Self::new(&text).map(Some).map_err(wrong),
            Err(_) => Err(wrong("is not set")),
        }
    }

    fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty");
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(
                "has spaces, line breaks or other characters that are not allowed in a key",
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Replaces the key in `text`, which a server may have repeated.
    pub(super) fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

/// Prepares a server's message for a terminal: removes the key and control characters, and limits
/// the length.
pub(super) fn presentable(text: &str, key: Option<&ApiKey>) -> String {
    let clean = single_line(text);
    // The key is removed last: removing control characters can join a key that was split by one.
    truncate(key.map_or(clean.clone(), |key| key.scrub(&clean)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_malformed_key_is_refused() {
        for text in ["", "  ", "two words", "line\nend", "schlüssel"] {
            assert!(ApiKey::new(text).is_err(), "{text}");
        }
        assert_eq!(ApiKey::new("sk-1\n").unwrap().header(), "Bearer sk-1");
    }

    #[test]
    fn messages_contain_neither_the_key_nor_control_characters() {
        let key = ApiKey::new("sk-secret").unwrap();
        let text = presentable("bad key \u{1b}[2Jsk-secret\r\n\u{202e}x", Some(&key));
        assert_eq!(text, "bad key [2J[key] x");
        let long = presentable(&"é".repeat(1000), None);
        assert_eq!(long.chars().count(), 301);
    }

    proptest! {
        #[test]
        fn every_message_is_short_and_without_the_key(
            before in any::<String>(), after in any::<String>()
        ) {
            let key = ApiKey::new("sk-0123456789").unwrap();
            let text = presentable(&format!("{before}sk-0123456789{after}"), Some(&key));
            prop_assert!(!text.contains("sk-0123456789"));
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert!(text.chars().count() <= 301);
        }
    }
}
