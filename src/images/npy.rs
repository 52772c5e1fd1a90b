//! The header of numpy's `.npy` format, parsed and written by `ndarray-npy`. This module adds the
//! bounds that untrusted input needs before the parser runs, and element types by kind and width.

use std::io::{self, Read};

use ndarray_npy::WritableElement;
use ndarray_npy::npy::header::{self, Layout};
use thiserror::Error;

/// First bytes of the format.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// Largest accepted header in bytes; numpy itself refuses headers over 10,000.
const MAX_HEADER: usize = 10_000;
/// Brackets of a header: one dictionary and one shape.
const MAX_BRACKETS: usize = 2;
/// Limit of numpy 1.
const MAX_DIMENSIONS: usize = 32;

/// Error of an array's header.
#[derive(Debug, Error)]
pub enum NpyError {
    /// Reading failed.
    #[error("cannot read the array: {0}")]
    Io(io::Error),
    /// The entry does not begin with the magic bytes of the `.npy` format.
    #[error("not an .npy array")]
    Magic,
    /// The version of the format is unknown.
    #[error(".npy version {0} is unknown: expected 1, 2 or 3")]
    Version(u8),
    /// The header is malformed.
    #[error("malformed .npy header: {0}")]
    Header(String),
    /// The element type is neither a plain number nor bytes.
    #[error("dtype `{0}` is not supported: expected a boolean, integer, float or bytes dtype")]
    Dtype(String),
}

impl From<io::Error> for NpyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Kind of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Unsigned,
    Signed,
    Float,
    /// Bytes of a fixed number, padded with zeros (numpy's `S`).
    Bytes,
}

/// Element type: kind, width in bytes, byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dtype {
    pub(super) kind: Kind,
    pub(super) bytes: usize,
    big_endian: bool,
}

impl Dtype {
    fn parse(text: &str) -> Result<Self, NpyError> {
        let unsupported = || NpyError::Dtype(text.chars().take(40).collect());
        let mut chars = text.chars();
        let big_endian = match chars.next() {
            Some('<' | '|') => false,
            Some('>') => true,
            _ => return Err(unsupported()),
        };
        let (kind, bytes) = match chars.as_str() {
            "b1" => (Kind::Bool, 1),
            "u1" => (Kind::Unsigned, 1),
            "u2" => (Kind::Unsigned, 2),
            "u4" => (Kind::Unsigned, 4),
            "u8" => (Kind::Unsigned, 8),
            "i1" => (Kind::Signed, 1),
            "i2" => (Kind::Signed, 2),
            "i4" => (Kind::Signed, 4),
            "i8" => (Kind::Signed, 8),
            "f4" => (Kind::Float, 4),
            "f8" => (Kind::Float, 8),
            text => match text.strip_prefix('S').map(str::parse) {
                // Without bytes, a header could claim any number of elements.
                Some(Ok(bytes)) if bytes > 0 => (Kind::Bytes, bytes),
                _ => return Err(unsupported()),
            },
        };
        Ok(Self {
            kind,
            bytes,
            big_endian,
        })
    }

    /// Returns numpy's name of the type.
    pub(super) fn name(self) -> String {
        let order = match (self.kind, self.bytes, self.big_endian) {
            (Kind::Bytes, ..) | (_, 1, _) => '|',
            (_, _, false) => '<',
            (_, _, true) => '>',
        };
        let kind = match self.kind {
            Kind::Bool => 'b',
            Kind::Unsigned => 'u',
            Kind::Signed => 'i',
            Kind::Float => 'f',
            Kind::Bytes => 'S',
        };
        format!("{order}{kind}{}", self.bytes)
    }
}

/// Element type and shape of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) fortran_order: bool,
    /// The header as it is in the file, from the magic bytes to the line feed.
    bytes: Vec<u8>,
}

impl Header {
    /// Creates the header of an array of `T` in C order.
    ///
    /// # Errors
    /// [`NpyError::Header`] if the shape has too many dimensions.
    pub(super) fn of<T: WritableElement>(shape: &[usize]) -> Result<Self, NpyError> {
        let header = header::Header {
            type_descriptor: T::type_descriptor(),
            layout: Layout::Standard,
            shape: shape.to_vec(),
        };
        let bytes = header
            .to_bytes()
            .map_err(|error| NpyError::Header(error.to_string()))?;
        Self::convert(header, bytes)
    }

    /// Creates the header of `count` texts of `width` bytes each.
    ///
    /// # Errors
    /// Never in practice: the parser of headers reads what is written here.
    pub(super) fn of_bytes(width: usize, count: usize) -> Result<Self, NpyError> {
        let mut text =
            format!("{{'descr': '|S{width}', 'fortran_order': False, 'shape': ({count},), }}");
        // Magic bytes, version, length, text and line feed are a multiple of 64.
        let before = MAGIC.len() + 4;
        let len = (before + text.len() + 1).next_multiple_of(64) - before;
        text.push_str(&" ".repeat(len - text.len() - 1));
        let mut bytes = [MAGIC, &[1, 0]].concat();
        bytes.extend((len as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(b'\n');
        Self::read(&mut bytes.as_slice())
    }

    /// Returns the number of elements; `None` on overflow.
    pub(super) fn count(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |product, side| product.checked_mul(*side))
    }

    /// Returns the size of the elements in bytes; `None` on overflow.
    pub(super) fn data_len(&self) -> Option<usize> {
        self.count()?.checked_mul(self.dtype.bytes)
    }

    /// Returns the header as it is in the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads a header and leaves `reader` at the first element.
    ///
    /// # Errors
    /// [`NpyError`].
    pub(super) fn read(reader: &mut impl Read) -> Result<Self, NpyError> {
        let mut bytes = vec![0; MAGIC.len() + 2];
        reader.read_exact(&mut bytes).map_err(|_| NpyError::Magic)?;
        if !bytes.starts_with(MAGIC) {
            return Err(NpyError::Magic);
        }
        let len = match bytes.get(MAGIC.len()).copied() {
            Some(1) => {
                let mut len = [0; 2];
                reader.read_exact(&mut len)?;
                bytes.extend(len);
                usize::from(u16::from_le_bytes(len))
            }
            Some(2 | 3) => {
                let mut len = [0; 4];
                reader.read_exact(&mut len)?;
                bytes.extend(len);
                u32::from_le_bytes(len) as usize
            }
            version => return Err(NpyError::Version(version.unwrap_or_default())),
        };
        if len > MAX_HEADER {
            let message = format!("{len} bytes long, expected at most {MAX_HEADER}");
            return Err(NpyError::Header(message));
        }
        let start = bytes.len();
        bytes.resize(start + len, 0);
        let text = bytes.get_mut(start..).unwrap_or_default();
        reader.read_exact(text)?;
        // The parser is recursive: deep nesting would exhaust the stack.
        let brackets = text.iter().filter(|byte| b"([{".contains(byte)).count();
        if brackets > MAX_BRACKETS {
            let message = "nested; structured dtypes are not supported".to_owned();
            return Err(NpyError::Header(message));
        }
        let header = header::Header::from_reader(&mut bytes.as_slice())
            .map_err(|error| NpyError::Header(error.to_string()))?;
        Self::convert(header, bytes)
    }

    fn convert(header: header::Header, bytes: Vec<u8>) -> Result<Self, NpyError> {
        if header.shape.len() > MAX_DIMENSIONS {
            let message = format!("more than {MAX_DIMENSIONS} dimensions");
            return Err(NpyError::Header(message));
        }
        // A string displays as a Python literal, in quotes.
        let descriptor = header.type_descriptor.to_string();
        Ok(Self {
            dtype: Dtype::parse(descriptor.trim_matches('\''))?,
            shape: header.shape,
            fortran_order: matches!(header.layout, Layout::Fortran),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn header(text: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[1, 0]].concat();
        bytes.extend((text.len() as u16 + 1).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    fn parse(text: &str) -> Result<Header, NpyError> {
        Header::read(&mut header(text).as_slice())
    }

    #[test]
    fn written_headers_are_read() {
        for header in [
            Header::of::<u8>(&[3, 4, 5, 3]).unwrap(),
            Header::of::<i64>(&[7]).unwrap(),
            Header::of::<f64>(&[]).unwrap(),
            Header::of_bytes(1, 0).unwrap(),
            Header::of_bytes(4096, 1_000_000_000).unwrap(),
        ] {
            assert_eq!(header.bytes().len() % 64, 0);
            assert_eq!(Header::read(&mut header.bytes()).unwrap(), header);
        }
    }

    #[test]
    fn types_have_a_kind_and_a_width() {
        for name in ["|b1", "|u1", "<u2", ">u4", "<i8", ">f4", "<f8", "|S12"] {
            assert_eq!(Dtype::parse(name).unwrap().name(), name);
        }
        for bad in [
            "<f2", "|O", "<U3", "<c8", "", "<i", "<i3", "|b8", "|S", "|Sx",
        ] {
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
            "{'descr': '<O', 'fortran_order': False, 'shape': (3,)}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        for nested in ["(", "[", "{"] {
            let error = parse(&nested.repeat(9_000)).unwrap_err().to_string();
            assert!(error.contains("nested"), "{error}");
        }
        let long = parse(&" ".repeat(20_000)).unwrap_err().to_string();
        assert!(long.contains("expected at most 10000"), "{long}");
        let huge =
            parse("{'shape': (18446744073709551615, 2), 'fortran_order': True, \"descr\": '|u1'}");
        assert_eq!(huge.unwrap().count(), None);
    }
}
