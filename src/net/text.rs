//! A server's words made fit for a terminal.

/// Longest message of a server that is passed on.
const MAX_MESSAGE: usize = 300;

/// `text` in one line, without control characters.
pub(crate) fn clean(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    // Characters that turn the reading direction could make a message lie.
    let invisible = |c: &char| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let clean: String = text.chars().map(printable).filter(invisible).collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    words.join(" ")
}

/// The beginning of a long `text`.
pub(crate) fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}
