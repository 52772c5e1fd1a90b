//! The header of a Parquet page, as far as its claims must be checked before the page is read.
//!
//! The parser of the `parquet` crate is private, and its reader allocates what a header claims.
//! This one reads the same bytes (Thrift's compact protocol) and accepts fewer: the fields must be
//! in order and of their types, so that both parsers see the same numbers.

use std::io::Read;

/// Depth of nested values that are passed over.
const MAX_DEPTH: u8 = 16;

/// Wire types of the compact protocol.
const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const STRUCT: u8 = 12;

/// Kind of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    /// Values with levels, in the first version of the format.
    Data,
    /// Values with levels, in the second version, which states the rows.
    DataV2,
    /// The dictionary of a column chunk.
    Dictionary,
}

/// Header of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    /// Bytes of the page when decompressed.
    pub(super) uncompressed: u64,
    /// Bytes of the page in the file.
    pub(super) compressed: u64,
    /// Values, nulls included.
    pub(super) values: u32,
    /// Bytes of the header itself.
    pub(super) len: u64,
}

impl PageHeader {
    /// Reads a header; `None` if it is malformed, incomplete, or that of an index page.
    pub(super) fn read(reader: impl Read) -> Option<Self> {
        let mut fields = Fields { reader, len: 0 };
        let (mut kind, mut sizes, mut values) = (None, [None; 2], [None; 3]);
        let mut last = 0;
        while let Some((id, wire)) = fields.next(&mut last)? {
            match (id, wire) {
                (1, I32) => kind = Some(fields.number()?),
                (2 | 3, I32) => {
                    let size = sizes.get_mut(usize::from(id - 2))?;
                    *size = Some(u64::try_from(fields.number()?).ok()?);
                }
                (5, STRUCT) => values[0] = Some(fields.values()?),
                (7, STRUCT) => values[1] = Some(fields.values()?),
                (8, STRUCT) => values[2] = Some(fields.values()?),
                // A required field of another type.
                (1..=3 | 5 | 7 | 8, _) => return None,
                (_, wire) => fields.skip(wire, 0)?,
            }
        }
        let [v1, dictionary, v2] = values;
        let (kind, values) = match kind? {
            0 => (PageKind::Data, v1?),
            2 => (PageKind::Dictionary, dictionary?),
            3 => (PageKind::DataV2, v2?),
            _ => return None,
        };
        Some(Self {
            kind,
            uncompressed: sizes[0]?,
            compressed: sizes[1]?,
            values,
            len: fields.len,
        })
    }
}

/// Reader of the fields of structures.
struct Fields<R> {
    reader: R,
    /// Bytes that were read.
    len: u64,
}

impl<R: Read> Fields<R> {
    /// Reads the beginning of a field: its number and its type; `Some(None)` at the end of a
    /// structure. The numbers must increase.
    fn next(&mut self, last: &mut u8) -> Option<Option<(u8, u8)>> {
        let byte = self.byte()?;
        if byte & 0x0f == STOP {
            return Some(None);
        }
        // A difference of 0 announces a number in long form, which no field of a header needs.
        let id = last.checked_add(byte >> 4).filter(|id| id > last)?;
        *last = id;
        Some(Some((id, byte & 0x0f)))
    }

    /// Reads the structure of a kind of page: the number of values is its first field.
    fn values(&mut self) -> Option<u32> {
        let (mut values, mut last) = (None, 0);
        while let Some((id, wire)) = self.next(&mut last)? {
            match (id, wire) {
                (1, I32) => values = Some(u32::try_from(self.number()?).ok()?),
                (1, _) => return None,
                (_, wire) => self.skip(wire, 0)?,
            }
        }
        values
    }

    fn skip(&mut self, wire: u8, depth: u8) -> Option<()> {
        if depth == MAX_DEPTH {
            return None;
        }
        match wire {
            TRUE | FALSE => Some(()),
            // A byte.
            3 => self.byte().map(|_| ()),
            // Integers of 16, 32 and 64 bits.
            4..=6 => self.varint().map(|_| ()),
            // A double.
            7 => self.pass(8),
            // Bytes with their length.
            8 => {
                let len = self.varint()?;
                self.pass(len)
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, wire)) = self.next(&mut last)? {
                    self.skip(wire, depth + 1)?;
                }
                Some(())
            }
            // Lists, sets and maps, which no header has.
            _ => None,
        }
    }

    fn pass(&mut self, len: u64) -> Option<()> {
        let passed = std::io::copy(&mut (&mut self.reader).take(len), &mut std::io::sink());
        self.len += len;
        (passed.ok()? == len).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte).ok()?;
        self.len += 1;
        Some(byte[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a 32-bit integer.
    fn number(&mut self) -> Option<i32> {
        let value = self.varint()?;
        let signed = (value >> 1) as i64 ^ -((value & 1) as i64);
        i32::try_from(signed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page of 300 values, 1000 bytes of which 20 are in the file, with statistics.
    const HEADER: [u8; 24] = [
        0x15, 0x00, // type: data page
        0x15, 0xd0, 0x0f, // 1000 bytes
        0x15, 0x28, // 20 bytes
        0x2c, // the data page's structure
        0x15, 0xd8, 0x04, // 300 values
        0x15, 0x00, 0x15, 0x06, 0x15, 0x06, // encodings
        0x1c, 0x58, 0x01, 0x41, 0x00, // statistics: bytes
        0x00, 0x00,
    ];

    #[test]
    fn a_header_is_read_to_its_end() {
        let expected = PageHeader {
            kind: PageKind::Data,
            uncompressed: 1000,
            compressed: 20,
            values: 300,
            len: 24,
        };
        let bytes = [&HEADER[..], b"page"].concat();
        assert_eq!(PageHeader::read(&bytes[..]), Some(expected));
        for len in 0..HEADER.len() {
            assert_eq!(PageHeader::read(&HEADER[..len]), None, "{len}");
        }
    }

    #[test]
    fn headers_that_parsers_may_read_differently_are_refused() {
        let changed = |at: usize, value: u8| {
            let mut bytes = HEADER;
            bytes[at] = value;
            PageHeader::read(&bytes[..])
        };
        // A size that is negative, of another type, or with its number in long form.
        assert_eq!(changed(6, 0x27), None);
        assert_eq!(changed(5, 0x16), None);
        assert_eq!(changed(5, 0x05), None);
        // An index page, and a kind whose structure is absent.
        assert_eq!(changed(1, 0x02), None);
        assert_eq!(changed(1, 0x04), None);
    }
}
