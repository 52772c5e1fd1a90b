//! Hexadecimal digits.

use std::fmt::Write;

/// Returns `bytes` as lower-case hexadecimal digits, two per byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn leading_zeros_are_kept() {
        assert_eq!(super::encode(&[0, 0x0a, 0xff]), "000aff");
    }
}
