//! Makes text from a server safe to print on a terminal.

/// Longest message of a server that is printed, in characters: a few terminal lines.
const MAX_MESSAGE: usize = 300;

/// Returns `text` as one line without control characters and invisible characters.
pub(crate) fn single_line(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    // Zero-width characters and direction overrides could disguise what a message says.
    let is_visible = |c: &char| {
        !matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
            | '\u{feff}')
    };
    let visible: String = text.chars().map(printable).filter(is_visible).collect();
    let words: Vec<&str> = visible.split_whitespace().collect();
    words.join(" ")
}

/// Cuts `text` to [`MAX_MESSAGE`] characters and marks the cut with an ellipsis.
pub(crate) fn truncate(text: String) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}
