//! Data elements of a DICOM file.
//!
//! This reader keeps to the bytes of the file: it takes no memory for what a length claims, and
//! does not recurse into nested sequences, so that no file can exhaust memory or the stack.

use std::collections::BTreeMap;

/// Length that stands for "until a delimiter".
const UNDEFINED: u32 = u32::MAX;

const ITEM: u32 = 0xfffe_e000;
const ITEM_END: u32 = 0xfffe_e00d;
const SEQUENCE_END: u32 = 0xfffe_e0dd;

/// Tag of the pixels, the last element that is read.
pub const PIXEL_DATA: u32 = 0x7fe0_0010;

/// Value representations whose length has four bytes.
const LONG: [&[u8; 2]; 13] = [
    b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV",
];

/// Encoding of data elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// True if elements state their value representation.
    pub explicit: bool,
    /// True if the most significant byte stands first.
    pub big_endian: bool,
}

/// Encoding of the file meta information, and of most files.
pub const EXPLICIT_LITTLE: Encoding = Encoding {
    explicit: true,
    big_endian: false,
};

/// Value of an element.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    /// Value representation; zeros if it is not stated.
    pub vr: [u8; 2],
    /// Value, without a delimiter at its end.
    pub value: &'a [u8],
    /// True if the length was not stated: a sequence, or pixels in fragments.
    pub undefined: bool,
    /// Encoding of nested items.
    encoding: Encoding,
}

/// Elements of a file or of an item of a sequence, as far as the pixels.
#[derive(Debug, Default)]
pub struct Elements<'a> {
    by_tag: BTreeMap<u32, Element<'a>>,
    big_endian: bool,
}

impl<'a> Elements<'a> {
    /// Reads the elements of `groups`; `None` if they are damaged. Returns also the number of bytes
    /// up to the first element that was not read, because it is of the group after `last`.
    pub fn read(bytes: &'a [u8], encoding: Encoding, last: u16) -> Option<(Self, usize)> {
        let mut elements = Self {
            big_endian: encoding.big_endian,
            ..Self::default()
        };
        let mut at = 0;
        while at < bytes.len() {
            let header = Header::read(bytes, at, encoding)?;
            if header.tag >> 16 > u32::from(last) {
                break;
            }
            let start = at + header.len;
            let inner = header.inner(encoding);
            let (end, next) = match header.value_len {
                UNDEFINED => skip(bytes, start, inner)?,
                len => (start.checked_add(len as usize)?, start + len as usize),
            };
            let element = Element {
                vr: header.vr,
                value: bytes.get(start..end)?,
                undefined: header.value_len == UNDEFINED,
                encoding: inner,
            };
            elements.by_tag.entry(header.tag).or_insert(element);
            at = next;
            if header.tag == PIXEL_DATA {
                break;
            }
        }
        Some((elements, at))
    }

    /// Returns an element.
    pub fn get(&self, tag: u32) -> Option<&Element<'a>> {
        self.by_tag.get(&tag)
    }

    /// Returns the values of two bytes of an element.
    pub fn words(&self, tag: u32) -> Option<Vec<u16>> {
        let words = self.get(tag)?.value.as_chunks::<2>().0;
        Some(words.iter().map(|bytes| self.word(*bytes)).collect())
    }

    /// Returns the first value of two bytes of an element.
    pub fn first_word(&self, tag: u32) -> Option<u16> {
        let bytes = self.get(tag)?.value.first_chunk()?;
        Some(self.word(*bytes))
    }

    fn word(&self, bytes: [u8; 2]) -> u16 {
        match self.big_endian {
            true => u16::from_be_bytes(bytes),
            false => u16::from_le_bytes(bytes),
        }
    }

    /// Returns the first value of an element of text, without padding.
    pub fn text(&self, tag: u32) -> Option<&'a str> {
        let text = std::str::from_utf8(self.get(tag)?.value).ok()?;
        let first = text.split('\\').next()?;
        Some(first.trim_matches(|c: char| c.is_whitespace() || c == '\0'))
    }

    /// Returns the first number of an element of decimal text.
    pub fn number(&self, tag: u32) -> Option<f64> {
        let number: f64 = self.text(tag)?.parse().ok()?;
        number.is_finite().then_some(number)
    }

    /// Returns an item of a sequence.
    pub fn item(&self, tag: u32, index: usize) -> Option<Self> {
        let element = self.get(tag)?;
        let mut at = 0;
        for current in 0.. {
            let header = Header::read(element.value, at, element.encoding)?;
            if header.tag != ITEM {
                return None;
            }
            let start = at + header.len;
            let (end, next) = match header.value_len {
                UNDEFINED => skip(element.value, start, element.encoding)?,
                len => (start.checked_add(len as usize)?, start + len as usize),
            };
            if current == index {
                let content = element.value.get(start..end)?;
                return Some(Self::read(content, element.encoding, u16::MAX)?.0);
            }
            at = next;
        }
        None
    }

    /// Returns the fragments of pixels, after the table of their offsets.
    pub fn fragments(element: &Element<'a>) -> Option<Vec<&'a [u8]>> {
        let mut fragments = Vec::new();
        let mut at = 0;
        while at < element.value.len() {
            let header = Header::read(element.value, at, element.encoding)?;
            let start = at + header.len;
            let end = start.checked_add(header.value_len as usize)?;
            if header.tag != ITEM {
                return None;
            }
            fragments.push(element.value.get(start..end)?);
            at = end;
        }
        Some(fragments.split_off(fragments.len().min(1)))
    }
}

/// Tag, value representation and length of an element.
struct Header {
    tag: u32,
    vr: [u8; 2],
    value_len: u32,
    /// Bytes of the header.
    len: usize,
}

impl Header {
    fn read(bytes: &[u8], at: usize, encoding: Encoding) -> Option<Self> {
        let number = |from: usize, len: usize| {
            let from = at.checked_add(from)?;
            let bytes = bytes.get(from..from + len)?;
            let join = |value: u32, byte: &u8| value << 8 | u32::from(*byte);
            Some(match encoding.big_endian {
                true => bytes.iter().fold(0, join),
                false => bytes.iter().rev().fold(0, join),
            })
        };
        let tag = number(0, 2)? << 16 | number(2, 2)?;
        let vr = *bytes.get(at + 4..)?.first_chunk::<2>()?;
        // Items have no representation; some writers omit it elsewhere, too.
        let stated =
            encoding.explicit && tag >> 16 != 0xfffe && vr.iter().all(u8::is_ascii_uppercase);
        let (vr, value_len, len) = match (stated, LONG.contains(&&vr)) {
            (false, _) => ([0; 2], number(4, 4)?, 8),
            (true, false) => (vr, number(6, 2)?, 8),
            (true, true) => (vr, number(8, 4)?, 12),
        };
        Some(Self {
            tag,
            vr,
            value_len,
            len,
        })
    }

    /// Returns the encoding of nested items: of an unknown representation without a length, they
    /// state none.
    fn inner(&self, encoding: Encoding) -> Encoding {
        match &self.vr {
            b"UN" => Encoding {
                explicit: false,
                big_endian: false,
            },
            _ => encoding,
        }
    }
}

/// Skips a sequence or an item without a length; returns the place of its delimiter and that after
/// it.
fn skip(bytes: &[u8], start: usize, encoding: Encoding) -> Option<(usize, usize)> {
    // Encodings of the open sequences and items, the innermost last.
    let mut open = vec![encoding];
    let mut at = start;
    loop {
        let encoding = *open.last()?;
        let header = Header::read(bytes, at, encoding)?;
        let here = at;
        at += header.len;
        match (header.tag, header.value_len) {
            (ITEM_END | SEQUENCE_END, _) => {
                open.pop();
                if open.is_empty() {
                    return Some((here, at));
                }
            }
            (_, UNDEFINED) => open.push(header.inner(encoding)),
            (_, len) => at = at.checked_add(len as usize)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u32, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        let group = ((tag >> 16) as u16).to_le_bytes();
        let number = (tag as u16).to_le_bytes();
        let len = (value.len() as u16).to_le_bytes();
        [&group[..], &number, vr, &len, value].concat()
    }

    fn open(tag: u32, len: u32) -> Vec<u8> {
        let tag = [
            ((tag >> 16) as u16).to_le_bytes(),
            (tag as u16).to_le_bytes(),
        ]
        .concat();
        [tag, len.to_le_bytes().to_vec()].concat()
    }

    fn sequence(tag: u32, items: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = open(tag, 0)[..4].to_vec();
        bytes.extend(b"SQ\0\0");
        bytes.extend(UNDEFINED.to_le_bytes());
        for item in items {
            bytes.extend(open(ITEM, UNDEFINED));
            bytes.extend(item);
            bytes.extend(open(ITEM_END, 0));
        }
        bytes.extend(open(SEQUENCE_END, 0));
        bytes
    }

    #[test]
    fn nested_sequences_are_skipped_and_read() {
        let slope = element(0x0028_1053, b"DS", b" 2.5 ");
        let inner = sequence(0x0028_9145, &[element(0x0028_1053, b"DS", b"1"), slope]);
        let bytes = [
            sequence(0x5200_9229, &[inner]),
            element(0x7fe0_0001, b"US", &[7, 0, 8, 0]),
        ]
        .concat();
        let (elements, end) = Elements::read(&bytes, EXPLICIT_LITTLE, u16::MAX).unwrap();
        assert_eq!(end, bytes.len());
        assert_eq!(elements.words(0x7fe0_0001).unwrap(), [7, 8]);
        let group = elements.item(0x5200_9229, 0).unwrap();
        let number = |index| group.item(0x0028_9145, index).unwrap().number(0x0028_1053);
        assert_eq!((number(0), number(1)), (Some(1.0), Some(2.5)));
        assert!(group.item(0x0028_9145, 2).is_none());
        for end in 1..bytes.len() - 12 {
            let cut = Elements::read(&bytes[..end], EXPLICIT_LITTLE, u16::MAX);
            assert!(cut.is_none(), "{end}");
        }
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        let mut bytes = Vec::new();
        for _ in 0..200_000 {
            bytes.extend(&sequence(0x0040_0275, &[])[..12]);
            bytes.extend(open(ITEM, UNDEFINED));
        }
        assert!(Elements::read(&bytes, EXPLICIT_LITTLE, u16::MAX).is_none());
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let bytes = [b"\x28\0\x10\0OB\0\0".as_slice(), &[0xfe, 0xff, 0xff, 0xff]].concat();
        assert!(Elements::read(&bytes, EXPLICIT_LITTLE, u16::MAX).is_none());
    }
}
