//! Huffman coding of coefficients, sequential and progressive (T.81, F.2 and G.2).

use super::block::{Block, Step, ZIGZAG};

/// Bits that one look at the table resolves.
const LOOK: u32 = 9;

/// A table of codes.
#[derive(Clone)]
pub(super) struct Table {
    /// By the next [`LOOK`] bits: length of the code and its symbol, or 0 for a longer code.
    short: Box<[(u8, u8); 1 << LOOK]>,
    /// By length: the first code that is too large, aligned to 16 bits.
    limits: [u32; 17],
    /// By length: what to add to a code for the index of its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// Builds a table from the numbers of codes of 1 to 16 bits, and the symbols.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            short: Box::new([(0, 0); 1 << LOOK]),
            limits: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(counts[length as usize - 1]);
            table.offsets[length as usize] = index as i32 - code as i32;
            for symbol in symbols.get(index..index + count)? {
                if length <= LOOK {
                    let from = (code << (LOOK - length)) as usize;
                    let entries = table.short.get_mut(from..from + (1 << (LOOK - length)))?;
                    entries.fill((length as u8, *symbol));
                }
                code += 1;
            }
            // No code is all ones.
            if count > 0 && code >= 1 << length {
                return None;
            }
            index += count;
            table.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// Tells whether all symbols are categories of DC differences.
    pub fn is_for_dc(&self) -> bool {
        self.symbols.iter().all(|symbol| *symbol < 16)
    }

    #[inline]
    fn read(&self, bits: &mut Bits<'_>) -> Option<u8> {
        bits.refill();
        let look = bits.peek(16);
        let (length, symbol) = self.short[(look >> (16 - LOOK)) as usize];
        if length > 0 {
            bits.skip(length.into())?;
            return Some(symbol);
        }
        let length = (LOOK + 1..=16).find(|length| look < self.limits[*length as usize])?;
        bits.skip(length)?;
        let code = (look >> (16 - length)) as i32;
        let index = code + self.offsets[length as usize];
        self.symbols.get(usize::try_from(index).ok()?).copied()
    }
}

/// A one in each byte.
const EACH_BYTE: u64 = u64::MAX / 255;

/// Bits of one piece of entropy-coded data.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    buffer: u64,
    count: u32,
}

impl Bits<'_> {
    /// Reads bytes until there are more bits than one code and its number have.
    #[inline]
    fn refill(&mut self) {
        if self.count <= 32 {
            self.read_bytes();
        }
    }

    fn read_bytes(&mut self) {
        if let Some(bytes) = self.data.get(self.at..).and_then(|rest| rest.first_chunk()) {
            let word = u64::from_be_bytes(*bytes);
            // Tells whether no byte is 0xff.
            let inverse = !word;
            if inverse.wrapping_sub(EACH_BYTE) & word & (EACH_BYTE << 7) == 0 {
                let bytes = (64 - self.count) / 8;
                self.buffer |=
                    (word & !(u64::MAX.checked_shr(8 * bytes).unwrap_or(0))) >> self.count;
                self.at += bytes as usize;
                self.count += 8 * bytes;
                return;
            }
        }
        while self.count <= 56 {
            let Some(byte) = self.data.get(self.at) else {
                break;
            };
            // A stuffed zero follows 0xff.
            self.at += 1 + usize::from(*byte == 0xff);
            self.buffer |= u64::from(*byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Returns the next bits, 1 to 16; zeros after the end.
    fn peek(&self, count: u32) -> u32 {
        (self.buffer >> (64 - count)) as u32
    }

    /// Passes over bits that [`Self::peek`] has returned; nothing if the data have ended.
    fn skip(&mut self, count: u32) -> Option<()> {
        self.count = self.count.checked_sub(count)?;
        self.buffer <<= count;
        Some(())
    }

    /// Reads up to 16 bits.
    #[inline]
    fn take(&mut self, count: u32) -> Option<i32> {
        if count == 0 {
            return Some(0);
        }
        self.refill();
        let bits = self.peek(count);
        self.skip(count)?;
        Some(bits as i32)
    }

    /// Reads a number of the category `count` (T.81, F.12).
    #[inline]
    fn number(&mut self, count: u32) -> Option<i32> {
        let bits = self.take(count)?;
        Some(if count > 0 && bits < 1 << (count - 1) {
            bits - (1 << count) + 1
        } else {
            bits
        })
    }
}

/// Reads the blocks of a scan.
pub(super) struct Decoder<'a> {
    bits: Bits<'a>,
    /// By component of the scan.
    tables: Vec<(Option<&'a Table>, Option<&'a Table>)>,
    predictions: [i32; 4],
    /// Blocks still to come that have nothing new in the band.
    empty: u32,
}

impl<'a> Decoder<'a> {
    /// Begins a scan, with the tables for DC and AC of each of its components.
    pub fn new(tables: Vec<(Option<&'a Table>, Option<&'a Table>)>) -> Self {
        Self {
            bits: Bits {
                data: &[],
                at: 0,
                buffer: 0,
                count: 0,
            },
            tables,
            predictions: [0; 4],
            empty: 0,
        }
    }

    /// Begins a piece of the data, at the beginning or after a restart marker.
    pub fn restart(&mut self, data: &'a [u8]) {
        self.bits = Bits {
            data,
            at: 0,
            buffer: 0,
            count: 0,
        };
        self.predictions = [0; 4];
        self.empty = 0;
    }

    /// Reads one block of the component at `position` in the scan; nothing if the data are damaged.
    pub fn block(&mut self, step: Step, position: usize, block: &mut Block) -> Option<()> {
        match step {
            Step::Sequential => self.sequential(position, block),
            Step::DcFirst { low } => {
                let dc = self.dc(position)?;
                block[0] = i16::try_from(dc << low).ok()?;
                Some(())
            }
            Step::DcRefine { low } => {
                block[0] |= (self.bits.take(1)? << low) as i16;
                Some(())
            }
            Step::AcFirst { band, low } => self.ac_first(position, band, low, block),
            Step::AcRefine { band, low } => self.ac_refine(position, band, low, block),
        }
    }

    fn dc(&mut self, position: usize) -> Option<i32> {
        let category = self.tables[position].0?.read(&mut self.bits)?;
        let difference = self.bits.number(category.into())?;
        self.predictions[position] += difference;
        // A sound file has 11 bits; this keeps the sum in range.
        i16::try_from(self.predictions[position])
            .ok()
            .map(i32::from)
    }

    fn sequential(&mut self, position: usize, block: &mut Block) -> Option<()> {
        block[0] = i16::try_from(self.dc(position)?).ok()?;
        let table = self.tables[position].1?;
        let mut at = 1;
        while at < 64 {
            let symbol = table.read(&mut self.bits)?;
            let (run, category) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if category == 0 {
                if run != 15 {
                    break;
                }
                at += 16;
                continue;
            }
            at += run;
            let value = self.bits.number(category)?;
            block[usize::from(*ZIGZAG.get(at)?)] = i16::try_from(value).ok()?;
            at += 1;
        }
        // A run of zeros over the end is no valid code.
        (at <= 64).then_some(())
    }

    /// Reads the number of blocks that an end of band covers, this one included.
    fn end_of_band(&mut self, run: u32) -> Option<u32> {
        Some((1 << run) + self.bits.take(run)? as u32)
    }

    fn ac_first(
        &mut self,
        position: usize,
        (first, last): (usize, usize),
        low: u32,
        block: &mut Block,
    ) -> Option<()> {
        if self.empty > 0 {
            self.empty -= 1;
            return Some(());
        }
        let table = self.tables[position].1?;
        let mut at = first;
        while at <= last {
            let symbol = table.read(&mut self.bits)?;
            let (run, category) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if category == 0 {
                if run != 15 {
                    self.empty = self.end_of_band(run as u32)? - 1;
                    return Some(());
                }
                at += 16;
                continue;
            }
            at += run;
            if at > last {
                return None;
            }
            let value = self.bits.number(category)?;
            block[usize::from(ZIGZAG[at])] = i16::try_from(value << low).ok()?;
            at += 1;
        }
        (at == last + 1).then_some(())
    }

    fn ac_refine(
        &mut self,
        position: usize,
        (first, last): (usize, usize),
        low: u32,
        block: &mut Block,
    ) -> Option<()> {
        let one = 1i16 << low;
        let table = self.tables[position].1?;
        let mut at = first;
        while self.empty == 0 && at <= last {
            let symbol = table.read(&mut self.bits)?;
            let (run, category) = (u32::from(symbol >> 4), symbol & 15);
            let new = match category {
                0 if run != 15 => {
                    self.empty = self.end_of_band(run)?;
                    break;
                }
                0 => 0,
                1 if self.bits.take(1)? == 1 => one,
                1 => -one,
                _ => return None,
            };
            let target = self.correct(block, &mut at, last, one, run)?;
            if new != 0 {
                block[target?] = new;
            }
            at += 1;
        }
        if self.empty > 0 {
            self.correct(block, &mut at, last, one, u32::MAX)?;
            self.empty -= 1;
        }
        Some(())
    }

    /// Corrects the coefficients that are not zero, past `zeros` zeros. Returns the index of the
    /// zero after them, if the band has it.
    fn correct(
        &mut self,
        block: &mut Block,
        at: &mut usize,
        last: usize,
        one: i16,
        mut zeros: u32,
    ) -> Option<Option<usize>> {
        while *at <= last {
            let index = usize::from(ZIGZAG[*at]);
            let value = &mut block[index];
            if *value == 0 {
                if zeros == 0 {
                    return Some(Some(index));
                }
                zeros -= 1;
            } else if self.bits.take(1)? == 1 && *value & one == 0 {
                *value = value.checked_add(if *value > 0 { one } else { -one })?;
            }
            *at += 1;
        }
        Some(None)
    }
}

/// Returns a table of T.81, K.3, which motion JPEG leaves out: for DC or AC, luma or chroma.
pub(super) fn standard(ac: bool, chroma: bool) -> Option<Table> {
    let (counts, symbols): (&[u8; 16], &[u8]) = match (ac, chroma) {
        (false, false) => (
            &[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
            &DC_SYMBOLS,
        ),
        (false, true) => (
            &[0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
            &DC_SYMBOLS,
        ),
        (true, false) => (
            &[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
            &AC_LUMA_SYMBOLS,
        ),
        (true, true) => (
            &[0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
            &AC_CHROMA_SYMBOLS,
        ),
    };
    Table::new(counts, symbols)
}

#[rustfmt::skip]
const DC_SYMBOLS: [u8; 12] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
];

#[rustfmt::skip]
const AC_LUMA_SYMBOLS: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
    0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];

#[rustfmt::skip]
const AC_CHROMA_SYMBOLS: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
    0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
    0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];
