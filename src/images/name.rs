//! Names of files as messages show them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Returns a name in Unicode's normal form C. File systems store `é` as one character or as two,
/// and both are the same name.
#[must_use]
pub fn normal(name: &str) -> Cow<'_, str> {
    match is_nfc(name) {
        true => Cow::Borrowed(name),
        false => Cow::Owned(name.nfc().collect()),
    }
}

/// Returns a path as text for messages. Control characters, which a terminal would obey, are
/// escaped (`\u{1b}`), and so are bytes that are not UTF-8 (`\xff`).
#[must_use]
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        push_escaped(&mut text, chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Returns a text for messages, with control characters escaped.
#[must_use]
pub fn shown_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_escaped(&mut escaped, text);
    escaped
}

/// Returns lines for a terminal, with control characters escaped except line feeds and tabulators.
#[must_use]
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    let kept = |character: char| matches!(character, '\n' | '\t') || !is_obeyed(character);
    if text.chars().all(kept) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match kept(character) {
            true => escaped.push(character),
            false => escaped.extend(character.escape_debug()),
        }
    }
    Cow::Owned(escaped)
}

fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match is_obeyed(character) {
            true => out.extend(character.escape_debug()),
            false => out.push(character),
        }
    }
}

/// Returns true for characters that change how a terminal shows the text around them: control
/// characters, line separators, and marks of the writing direction.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(shown(Path::new("a/ö é_1.png")), "a/ö é_1.png");
        assert_eq!(
            shown(Path::new("a\u{1b}[31m\n\u{9b}.png")),
            "a\\u{1b}[31m\\n\\u{9b}.png"
        );
        assert_eq!(shown_lines("a\tb\n\u{1b}c\r"), "a\tb\n\\u{1b}c\\r");
        assert_eq!(shown_text("x\u{202e}gnp"), "x\\u{202e}gnp");
    }

    #[test]
    fn names_have_one_normal_form() {
        assert_eq!(normal("cafe\u{301}"), "caf\u{e9}");
        assert_eq!(normal("caf\u{e9}"), "caf\u{e9}");
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_utf8_are_shown_as_numbers() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let name = OsStr::from_bytes(b"caf\xe9_1.png");
        assert_eq!(shown(Path::new(name)), "caf\\xe9_1.png");
    }
}
