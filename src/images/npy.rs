//! The header of numpy's `.npy` format: what the bytes after it are.
//!
//! Format: numpy's `lib/format.py`, versions 1.0 to 3.0. Headers come from anywhere, so everything in
//! them is checked and bounded; object and structured arrays are refused.

use std::io::{self, Read};

use thiserror::Error;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longer headers than this describe nothing that is read here.
const MAX_HEADER: usize = 1 << 16;
const MAX_DIMENSIONS: usize = 32;

/// Why a header cannot be used.
#[derive(Debug, Error)]
pub enum NpyError {
    /// Reading failed.
    #[error("cannot read the array: {0}")]
    Io(#[from] io::Error),
    /// Not the `.npy` format.
    #[error("not an .npy array")]
    Magic,
    /// A version that is not known.
    #[error(".npy version {0} is unknown: expected 1, 2 or 3")]
    Version(u8),
    /// The header is not as numpy writes it.
    #[error("malformed .npy header: {0}")]
    Header(&'static str),
    /// The element type is not a plain number.
    #[error("dtype `{0}` is not supported: expected a boolean, integer or float dtype")]
    Dtype(String),
}

/// What kind of number an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Unsigned,
    Signed,
    Float,
}

/// An element type: kind, bytes, byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dtype {
    pub(super) kind: Kind,
    pub(super) bytes: usize,
    big_endian: bool,
}

impl Dtype {
    pub(super) const U8: Self = Self::little(Kind::Unsigned, 1);
    pub(super) const I64: Self = Self::little(Kind::Signed, 8);
    pub(super) const F64: Self = Self::little(Kind::Float, 8);

    const fn little(kind: Kind, bytes: usize) -> Self {
        Self {
            kind,
            bytes,
            big_endian: false,
        }
    }

    fn parse(text: &str) -> Result<Self, NpyError> {
        let unsupported = || NpyError::Dtype(text.chars().take(40).collect());
        let mut chars = text.chars();
        let big_endian = match chars.next() {
            Some('<' | '|') => false,
            Some('=') => cfg!(target_endian = "big"),
            Some('>') => true,
            _ => return Err(unsupported()),
        };
        let kind = match chars.next() {
            Some('b') => Kind::Bool,
            Some('u') => Kind::Unsigned,
            Some('i') => Kind::Signed,
            Some('f') => Kind::Float,
            _ => return Err(unsupported()),
        };
        let bytes = match (kind, chars.as_str()) {
            (Kind::Bool | Kind::Unsigned | Kind::Signed, "1") => 1,
            (Kind::Unsigned | Kind::Signed, "2") => 2,
            (Kind::Unsigned | Kind::Signed | Kind::Float, "4") => 4,
            (Kind::Unsigned | Kind::Signed | Kind::Float, "8") => 8,
            _ => return Err(unsupported()),
        };
        Ok(Self {
            kind,
            bytes,
            big_endian,
        })
    }

    /// numpy's name of the type.
    pub(super) fn name(self) -> String {
        let order = match (self.bytes, self.big_endian) {
            (1, _) => '|',
            (_, false) => '<',
            (_, true) => '>',
        };
        let kind = match self.kind {
            Kind::Bool => 'b',
            Kind::Unsigned => 'u',
            Kind::Signed => 'i',
            Kind::Float => 'f',
        };
        format!("{order}{kind}{}", self.bytes)
    }

    /// One element as little-endian bytes, extended to 8 by the sign for signed integers.
    fn widened(self, element: &[u8]) -> [u8; 8] {
        let mut wide = [0u8; 8];
        for (to, from) in wide.iter_mut().zip(element) {
            *to = *from;
        }
        if self.big_endian
            && let Some(part) = wide.get_mut(..self.bytes)
        {
            part.reverse();
        }
        let negative = self.kind == Kind::Signed
            && wide
                .get(self.bytes.wrapping_sub(1))
                .is_some_and(|top| *top >= 0x80);
        if negative {
            wide.iter_mut()
                .skip(self.bytes)
                .for_each(|byte| *byte = 0xff);
        }
        wide
    }

    /// One element as an integer; `None` for a float or an unsigned number above `i64::MAX`.
    pub(super) fn integer(self, element: &[u8]) -> Option<i64> {
        let value = i64::from_le_bytes(self.widened(element));
        match self.kind {
            Kind::Float => None,
            Kind::Unsigned if value < 0 => None,
            _ => Some(value),
        }
    }

    /// One element as a double; integers beyond 2⁵³ are rounded.
    pub(super) fn double(self, element: &[u8]) -> f64 {
        let wide = self.widened(element);
        match (self.kind, self.bytes) {
            (Kind::Float, 4) => {
                let [a, b, c, d, ..] = wide;
                f32::from_le_bytes([a, b, c, d]).into()
            }
            (Kind::Float, _) => f64::from_le_bytes(wide),
            (Kind::Signed, _) => i64::from_le_bytes(wide) as f64,
            _ => u64::from_le_bytes(wide) as f64,
        }
    }
}

/// What an array is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) fortran_order: bool,
}

impl Header {
    /// Number of elements; `None` when it does not fit.
    pub(super) fn count(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |product, side| product.checked_mul(*side))
    }

    /// Bytes of the elements; `None` when they do not fit.
    pub(super) fn data_len(&self) -> Option<usize> {
        self.count()?.checked_mul(self.dtype.bytes)
    }

    /// Reads up to where the elements begin; also gives the number of bytes read.
    pub(super) fn read(reader: &mut impl Read) -> Result<(Self, usize), NpyError> {
        let mut start = [0u8; 8];
        reader.read_exact(&mut start).map_err(|_| NpyError::Magic)?;
        let [magic @ .., version, _minor] = start;
        if magic != MAGIC {
            return Err(NpyError::Magic);
        }
        let (len, prefix) = match version {
            1 => {
                let mut len = [0u8; 2];
                reader.read_exact(&mut len)?;
                (usize::from(u16::from_le_bytes(len)), 10)
            }
            2 | 3 => {
                let mut len = [0u8; 4];
                reader.read_exact(&mut len)?;
                (u32::from_le_bytes(len) as usize, 12)
            }
            other => return Err(NpyError::Version(other)),
        };
        if len > MAX_HEADER {
            return Err(NpyError::Header("too long"));
        }
        let mut text = vec![0u8; len];
        reader.read_exact(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| NpyError::Header("not text"))?;
        Ok((Self::parse(&text)?, prefix + len))
    }

    /// Parses the Python literal `{'descr': …, 'fortran_order': …, 'shape': …}`, in any order.
    fn parse(text: &str) -> Result<Self, NpyError> {
        let mut cursor = Cursor(text.trim());
        let (mut dtype, mut fortran_order, mut shape) = (None, None, None);
        cursor.expect('{')?;
        while !cursor.take('}') {
            let key = cursor.string()?;
            cursor.expect(':')?;
            match key {
                "descr" => dtype = Some(Dtype::parse(cursor.string()?)?),
                "fortran_order" => fortran_order = Some(cursor.boolean()?),
                "shape" => shape = Some(cursor.tuple()?),
                _ => return Err(NpyError::Header("unknown key")),
            }
            if !cursor.take(',') {
                cursor.expect('}')?;
                break;
            }
        }
        if !cursor.0.is_empty() {
            return Err(NpyError::Header("text after the dictionary"));
        }
        Ok(Self {
            dtype: dtype.ok_or(NpyError::Header("no `descr`"))?,
            fortran_order: fortran_order.ok_or(NpyError::Header("no `fortran_order`"))?,
            shape: shape.ok_or(NpyError::Header("no `shape`"))?,
        })
    }

    /// The header's bytes, padded so that the elements begin at a multiple of 64.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let sides: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let shape = match sides.as_slice() {
            [only] => format!("({only},)"),
            _ => format!("({})", sides.join(", ")),
        };
        let order = if self.fortran_order { "True" } else { "False" };
        let mut text = format!(
            "{{'descr': '{}', 'fortran_order': {order}, 'shape': {shape}, }}",
            self.dtype.name()
        );
        // Magic, version and length take 10 bytes, the closing line feed one.
        let unpadded = 10 + text.len() + 1;
        text.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
        text.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        // At most 32 sides of 20 digits: far below 2^16.
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }
}

/// What is left of the header's text.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn take(&mut self, wanted: char) -> bool {
        match self.0.trim_start().strip_prefix(wanted) {
            Some(rest) => {
                self.0 = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), NpyError> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(NpyError::Header("not a dictionary of the expected form"))
        }
    }

    fn string(&mut self) -> Result<&'a str, NpyError> {
        let quote = ['\'', '"']
            .into_iter()
            .find(|quote| self.0.starts_with(*quote))
            .ok_or(NpyError::Header(
                "expected a string (structured dtypes are not supported)",
            ))?;
        let rest = self.0.get(1..).unwrap_or_default();
        let (text, rest) = rest
            .split_once(quote)
            .ok_or(NpyError::Header("unterminated string"))?;
        self.0 = rest.trim_start();
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.0.strip_prefix(word) {
                self.0 = rest.trim_start();
                return Ok(value);
            }
        }
        Err(NpyError::Header("`fortran_order` is not a boolean"))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, NpyError> {
        let mut sides = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            let digits = self.0.len()
                - self
                    .0
                    .trim_start_matches(|c: char| c.is_ascii_digit())
                    .len();
            let (number, rest) = self.0.split_at(digits);
            // Python 2 wrote long integers with an L.
            self.0 = rest.strip_prefix('L').unwrap_or(rest).trim_start();
            sides.push(
                number
                    .parse()
                    .map_err(|_| NpyError::Header("`shape` is not a tuple of sizes"))?,
            );
            if sides.len() > MAX_DIMENSIONS {
                return Err(NpyError::Header("too many dimensions"));
            }
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(sides)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (dtype, shape) in [
            (Dtype::U8, vec![3, 4, 5, 3]),
            (Dtype::I64, vec![7]),
            (Dtype::F64, vec![]),
        ] {
            let header = Header {
                dtype,
                shape,
                fortran_order: false,
            };
            let bytes = header.to_bytes();
            assert_eq!(bytes.len() % 64, 0);
            let (read, len) = Header::read(&mut bytes.as_slice()).unwrap();
            assert_eq!((read, len), (header, bytes.len()));
        }
    }

    #[test]
    fn numbers_of_every_type_are_widened() {
        let dtype = |name| Dtype::parse(name).unwrap();
        assert_eq!(dtype("<i2").integer(&[0xfe, 0xff]), Some(-2));
        assert_eq!(dtype(">i2").integer(&[0xff, 0xfe]), Some(-2));
        assert_eq!(dtype("<u2").integer(&[0xfe, 0xff]), Some(65_534));
        assert_eq!(dtype("|b1").integer(&[1]), Some(1));
        assert_eq!(dtype("<u8").integer(&[0xff; 8]), None);
        assert_eq!(dtype("<f4").double(&1.5f32.to_le_bytes()), 1.5);
        assert_eq!(dtype(">f8").double(&(-2.5f64).to_be_bytes()), -2.5);
        assert_eq!(dtype("|u1").double(&[200]), 200.0);
        for bad in ["<f2", "|O", "<U3", "<c8", "", "<i", "<i3", "|b8"] {
            assert!(Dtype::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        for text in [
            "",
            "{}",
            "{'descr': '<i8', 'fortran_order': False, 'shape': (3,)",
            "{'descr': '<i8', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
            "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<i8', 'fortran_order': 1, 'shape': (3,)}",
            "{'descr': '<i8', 'fortran_order': False, 'shape': (3,)} x",
        ] {
            assert!(Header::parse(text).is_err(), "{text}");
        }
        let header = Header::parse(
            "{'shape': (18446744073709551615, 2), 'fortran_order': True, \"descr\": '|u1'}",
        );
        assert_eq!(header.unwrap().count(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::read(&mut bytes.as_slice());
        }

        #[test]
        fn no_text_panics(text in "[{}'\":,()a-z0-9 <>|é]{0,60}") {
            let _ = Header::parse(&text);
        }

        #[test]
        fn damaged_headers_do_not_panic(place in 0usize..128, value: u8) {
            let header = Header { dtype: Dtype::U8, shape: vec![10, 32, 32, 3], fortran_order: false };
            let mut bytes = header.to_bytes();
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
            let _ = Header::read(&mut bytes.as_slice());
        }
    }
}
