//! The key to a hosted model: read from the environment, shown to nobody.

use super::error::ServiceError;
use crate::net::{clean, shorten};

/// A key. It has no `Debug`, `Display` or `Serialize`: it goes into one header and nowhere else.
pub(super) struct ApiKey(String);

impl ApiKey {
    /// Reads the variable `name`; `None` if `name` is empty, for servers that want no key.
    ///
    /// # Errors
    /// [`ServiceError::Key`] when it is not set or cannot be a key.
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
            return Err("holds spaces, line ends or other characters that no key has");
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` without the key, should a server repeat it.
    pub(super) fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

/// A server's words made fit for a terminal: without the key, without control characters, of bounded length.
pub(super) fn presentable(text: &str, key: Option<&ApiKey>) -> String {
    let clean = clean(text);
    // After the cleaning, which could have put a split key together again.
    shorten(key.map_or(clean.clone(), |key| key.scrub(&clean)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_be_a_key_is_refused_without_repeating_it() {
        for text in ["", "  ", "two words", "line\nend", "schlüssel"] {
            assert!(ApiKey::new(text).is_err(), "{text}");
        }
        assert_eq!(ApiKey::new("sk-1\n").unwrap().header(), "Bearer sk-1");
    }

    #[test]
    fn a_server_cannot_print_the_key_or_move_the_cursor() {
        let key = ApiKey::new("sk-secret").unwrap();
        let text = presentable("bad key \u{1b}[2Jsk-secret\r\n\u{202e}x", Some(&key));
        assert_eq!(text, "bad key [2J[key] x");
        let long = presentable(&"é".repeat(1000), None);
        assert_eq!(long.chars().count(), 301);
    }

    proptest! {
        #[test]
        fn every_message_comes_out_short_clean_and_without_the_key(
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
