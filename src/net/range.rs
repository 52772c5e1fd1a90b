//! The `Content-Range` header.

/// Parsed `Content-Range`: the byte range of the response and the length of the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// First and last byte, inclusive; `None` for `*`, when the response has no bytes of the file.
    pub(crate) bytes: Option<(u64, u64)>,
    /// Length of the whole file; `None` for `*`.
    pub(crate) total: Option<u64>,
}

impl ContentRange {
    /// Parses `bytes 0-9/100`, `bytes 0-9/*` or `bytes */100` (RFC 9110, 14.4).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (bytes, total) = rest.trim().split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        let bytes = match bytes.trim() {
            "*" => None,
            bytes => {
                let (first, last) = bytes.split_once('-')?;
                Some((number(first)?, number(last)?))
            }
        };
        let sound = match (bytes, total) {
            (None, None) => false,
            (None, Some(_)) => true,
            (Some((first, last)), total) => {
                first <= last && last < u64::MAX && total.is_none_or(|total| last < total)
            }
        };
        sound.then_some(Self { bytes, total })
    }
}

/// Parses decimal digits. `str::parse` would also accept a plus sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_forms() {
        let range = |bytes, total| Some(ContentRange { bytes, total });
        assert_eq!(
            ContentRange::parse(" bytes 5-9/10 "),
            range(Some((5, 9)), Some(10))
        );
        assert_eq!(
            ContentRange::parse("Bytes 0-0/*"),
            range(Some((0, 0)), None)
        );
        assert_eq!(ContentRange::parse("bytes */10"), range(None, Some(10)));
        for wrong in [
            "",
            "bytes",
            "bytes 1-2",
            "bytes 2-1/5",
            "bytes 0-5/5",
            "bytes */*",
            "items 0-1/2",
            "bytes -1-2/5",
            "bytes +1-2/5",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(ContentRange::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(first in 0..1000u64, more in 0..1000u64, rest in 1..1000u64) {
            let (last, total) = (first + more, first + more + rest);
            let parsed = ContentRange::parse(&format!("bytes {first}-{last}/{total}")).unwrap();
            let bytes = Some((first, last));
            prop_assert_eq!(parsed, ContentRange { bytes, total: Some(total) });
        }
    }
}
