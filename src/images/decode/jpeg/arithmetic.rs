//! Arithmetic coding of coefficients, sequential and progressive (T.81, D.2, F.2.4 and G.2).

use super::block::{Block, Step, ZIGZAG};

/// Bounds of the conditioning (T.81, B.2.4.3), by table.
pub(super) struct Conditioning {
    /// Lower and upper bound of small DC differences, as bits.
    dc: [(u8, u8); 16],
    /// The last coefficient of the low band.
    ac: [u8; 16],
}

impl Default for Conditioning {
    fn default() -> Self {
        Self {
            dc: [(0, 1); 16],
            ac: [5; 16],
        }
    }
}

impl Conditioning {
    /// Reads a DAC segment.
    pub fn define(&mut self, segment: &[u8]) -> Option<()> {
        for pair in segment.chunks(2) {
            let &[head, value] = pair else { return None };
            let number = usize::from(head & 15);
            match head >> 4 {
                0 => {
                    let bounds = (value & 15, value >> 4);
                    if bounds.0 > bounds.1 {
                        return None;
                    }
                    self.dc[number] = bounds;
                }
                1 => self.ac[number] = value,
                _ => return None,
            }
        }
        Some(())
    }
}

/// State of one adaptive decision: index into [`STATES`], and the more probable symbol.
#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    state: u8,
    likely: bool,
}

/// Bits of one piece of entropy-coded data.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    code: u64,
    interval: u32,
    /// Bits of `code` below the interval, or a negative number while the code is read.
    count: i32,
}

impl Bits<'_> {
    /// Returns the next byte; zeros after the end, which encoders leave out.
    fn byte(&mut self) -> u8 {
        let byte = self.data.get(self.at).copied().unwrap_or(0);
        self.at += 1 + usize::from(byte == 0xff);
        byte
    }

    /// Decides one symbol.
    fn decide(&mut self, bin: &mut Bin) -> bool {
        while self.interval < 0x8000 {
            self.count -= 1;
            if self.count < 0 {
                self.code = self.code << 8 | u64::from(self.byte());
                self.count += 8;
                if self.count < 0 {
                    self.count += 1;
                    if self.count == 0 {
                        self.interval = 0x8000;
                    }
                }
            }
            self.interval <<= 1;
        }
        let (estimate, after_unlikely, after_likely, exchange) = STATES[usize::from(bin.state)];
        let estimate = u32::from(estimate);
        self.interval -= estimate;
        let bound = u64::from(self.interval) << self.count;
        let upper = self.code >= bound;
        let smaller = self.interval < estimate;
        if upper {
            self.code -= bound;
            self.interval = estimate;
        } else if self.interval >= 0x8000 {
            return bin.likely;
        }
        // The larger part of the interval is the likely symbol's.
        if upper == smaller {
            bin.state = after_likely;
            return bin.likely;
        }
        let unlikely = !bin.likely;
        bin.state = after_unlikely;
        bin.likely ^= exchange;
        unlikely
    }

    /// Decides a symbol whose probability is fixed at one half.
    fn even(&mut self) -> bool {
        self.decide(&mut Bin {
            state: FIXED,
            likely: false,
        })
    }
}

/// Reads the blocks of a scan.
pub(super) struct Decoder<'a> {
    bits: Bits<'a>,
    /// By component of the scan: numbers of the tables for DC and AC.
    tables: Vec<(usize, usize)>,
    conditioning: &'a Conditioning,
    dc: [[Bin; 64]; 16],
    ac: [[Bin; 256]; 16],
    predictions: [i32; 4],
    /// By component: where the bins of its next DC difference begin.
    contexts: [usize; 4],
}

impl<'a> Decoder<'a> {
    /// Begins a scan, with the numbers of the tables for DC and AC of each of its components.
    pub fn new(tables: Vec<(usize, usize)>, conditioning: &'a Conditioning) -> Self {
        Self {
            bits: Bits {
                data: &[],
                at: 0,
                code: 0,
                interval: 0,
                count: -16,
            },
            tables,
            conditioning,
            dc: [[Bin::default(); 64]; 16],
            ac: [[Bin::default(); 256]; 16],
            predictions: [0; 4],
            contexts: [0; 4],
        }
    }

    /// Begins a piece of the data, at the beginning or after a restart marker.
    pub fn restart(&mut self, data: &'a [u8]) {
        *self = Self::new(std::mem::take(&mut self.tables), self.conditioning);
        self.bits.data = data;
    }

    /// Reads one block of the component at `position` in the scan; nothing if the data are damaged.
    pub fn block(&mut self, step: Step, position: usize, block: &mut Block) -> Option<()> {
        match step {
            Step::Sequential => {
                block[0] = self.dc(position)?;
                self.ac_first(position, (1, 63), 0, block)
            }
            Step::DcFirst { low } => {
                let dc = i32::from(self.dc(position)?) << low;
                block[0] = i16::try_from(dc).ok()?;
                Some(())
            }
            Step::DcRefine { low } => {
                block[0] |= i16::from(self.bits.even()) << low;
                Some(())
            }
            Step::AcFirst { band, low } => self.ac_first(position, band, low, block),
            Step::AcRefine { band, low } => self.ac_refine(position, band, low, block),
        }
    }

    fn dc(&mut self, position: usize) -> Option<i16> {
        let number = self.tables[position].0;
        let bins = &mut self.dc[number];
        let at = self.contexts[position];
        if !self.bits.decide(&mut bins[at]) {
            self.contexts[position] = 0;
            return i16::try_from(self.predictions[position]).ok();
        }
        let negative = self.bits.decide(&mut bins[at + 1]);
        let mut at = at + 2 + usize::from(negative);
        let mut top = i32::from(self.bits.decide(&mut bins[at]));
        if top > 0 {
            at = 20;
            while self.bits.decide(&mut bins[at]) {
                top = double(top)?;
                at += 1;
            }
        }
        let (lower, upper) = self.conditioning.dc[number];
        self.contexts[position] = if top < (1 << lower) >> 1 {
            0
        } else if top > (1 << upper) >> 1 {
            12 + 4 * usize::from(negative)
        } else {
            4 + 4 * usize::from(negative)
        };
        let magnitude = magnitude(&mut self.bits, top, &mut bins[at + 14]);
        self.predictions[position] += if negative { -magnitude } else { magnitude };
        i16::try_from(self.predictions[position]).ok()
    }

    fn ac_first(
        &mut self,
        position: usize,
        (first, last): (usize, usize),
        low: u32,
        block: &mut Block,
    ) -> Option<()> {
        let number = self.tables[position].1;
        let bins = &mut self.ac[number];
        let mut at = first;
        while at <= last {
            if self.bits.decide(&mut bins[3 * (at - 1)]) {
                break;
            }
            while !self.bits.decide(&mut bins[3 * (at - 1) + 1]) {
                at += 1;
                if at > last {
                    return None;
                }
            }
            let negative = self.bits.even();
            let mut bin = 3 * (at - 1) + 2;
            let mut top = i32::from(self.bits.decide(&mut bins[bin]));
            if top > 0 && self.bits.decide(&mut bins[bin]) {
                top = 2;
                let low_band = at <= usize::from(self.conditioning.ac[number]);
                bin = if low_band { 189 } else { 217 };
                while self.bits.decide(&mut bins[bin]) {
                    top = double(top)?;
                    bin += 1;
                }
            }
            let magnitude = magnitude(&mut self.bits, top, &mut bins[bin + 14]) << low;
            let value = if negative { -magnitude } else { magnitude };
            block[usize::from(ZIGZAG[at])] = i16::try_from(value).ok()?;
            at += 1;
        }
        Some(())
    }

    fn ac_refine(
        &mut self,
        position: usize,
        (first, last): (usize, usize),
        low: u32,
        block: &mut Block,
    ) -> Option<()> {
        let one = 1i16 << low;
        let bins = &mut self.ac[self.tables[position].1];
        let sent = |at: &usize| block[usize::from(ZIGZAG[*at])] != 0;
        let end = (1..=last).rev().find(sent).unwrap_or(0);
        let mut at = first;
        while at <= last {
            if at > end && self.bits.decide(&mut bins[3 * (at - 1)]) {
                break;
            }
            loop {
                let value = &mut block[usize::from(ZIGZAG[at])];
                if *value != 0 {
                    if self.bits.decide(&mut bins[3 * (at - 1) + 2]) {
                        *value = value.checked_add(if *value > 0 { one } else { -one })?;
                    }
                    break;
                }
                if self.bits.decide(&mut bins[3 * (at - 1) + 1]) {
                    *value = if self.bits.even() { -one } else { one };
                    break;
                }
                at += 1;
                if at > last {
                    return None;
                }
            }
            at += 1;
        }
        Some(())
    }
}

/// Doubles the top bit of a magnitude; nothing beyond 15 bits.
fn double(top: i32) -> Option<i32> {
    (top < 0x4000).then_some(2 * top)
}

/// Reads the bits of a magnitude below its top bit.
fn magnitude(bits: &mut Bits<'_>, mut top: i32, bin: &mut Bin) -> i32 {
    let mut value = top;
    while top > 1 {
        top >>= 1;
        if bits.decide(bin) {
            value |= top;
        }
    }
    value + 1
}

/// Number of the state whose probability stays one half.
const FIXED: u8 = 113;

/// Estimate of the less probable symbol, next states after it and after the other, and whether it
/// then becomes the more probable one (T.81, table D.3).
#[rustfmt::skip]
const STATES: [(u16, u8, u8, bool); 114] = [
    (0x5a1d, 1, 1, true), (0x2586, 14, 2, false), (0x1114, 16, 3, false),
    (0x080b, 18, 4, false), (0x03d8, 20, 5, false), (0x01da, 23, 6, false),
    (0x00e5, 25, 7, false), (0x006f, 28, 8, false), (0x0036, 30, 9, false),
    (0x001a, 33, 10, false), (0x000d, 35, 11, false), (0x0006, 9, 12, false),
    (0x0003, 10, 13, false), (0x0001, 12, 13, false), (0x5a7f, 15, 15, true),
    (0x3f25, 36, 16, false), (0x2cf2, 38, 17, false), (0x207c, 39, 18, false),
    (0x17b9, 40, 19, false), (0x1182, 42, 20, false), (0x0cef, 43, 21, false),
    (0x09a1, 45, 22, false), (0x072f, 46, 23, false), (0x055c, 48, 24, false),
    (0x0406, 49, 25, false), (0x0303, 51, 26, false), (0x0240, 52, 27, false),
    (0x01b1, 54, 28, false), (0x0144, 56, 29, false), (0x00f5, 57, 30, false),
    (0x00b7, 59, 31, false), (0x008a, 60, 32, false), (0x0068, 62, 33, false),
    (0x004e, 63, 34, false), (0x003b, 32, 35, false), (0x002c, 33, 9, false),
    (0x5ae1, 37, 37, true), (0x484c, 64, 38, false), (0x3a0d, 65, 39, false),
    (0x2ef1, 67, 40, false), (0x261f, 68, 41, false), (0x1f33, 69, 42, false),
    (0x19a8, 70, 43, false), (0x1518, 72, 44, false), (0x1177, 73, 45, false),
    (0x0e74, 74, 46, false), (0x0bfb, 75, 47, false), (0x09f8, 77, 48, false),
    (0x0861, 78, 49, false), (0x0706, 79, 50, false), (0x05cd, 48, 51, false),
    (0x04de, 50, 52, false), (0x040f, 50, 53, false), (0x0363, 51, 54, false),
    (0x02d4, 52, 55, false), (0x025c, 53, 56, false), (0x01f8, 54, 57, false),
    (0x01a4, 55, 58, false), (0x0160, 56, 59, false), (0x0125, 57, 60, false),
    (0x00f6, 58, 61, false), (0x00cb, 59, 62, false), (0x00ab, 61, 63, false),
    (0x008f, 61, 32, false), (0x5b12, 65, 65, true), (0x4d04, 80, 66, false),
    (0x412c, 81, 67, false), (0x37d8, 82, 68, false), (0x2fe8, 83, 69, false),
    (0x293c, 84, 70, false), (0x2379, 86, 71, false), (0x1edf, 87, 72, false),
    (0x1aa9, 87, 73, false), (0x174e, 72, 74, false), (0x1424, 72, 75, false),
    (0x119c, 74, 76, false), (0x0f6b, 74, 77, false), (0x0d51, 75, 78, false),
    (0x0bb6, 77, 79, false), (0x0a40, 77, 48, false), (0x5832, 80, 81, true),
    (0x4d1c, 88, 82, false), (0x438e, 89, 83, false), (0x3bdd, 90, 84, false),
    (0x34ee, 91, 85, false), (0x2eae, 92, 86, false), (0x299a, 93, 87, false),
    (0x2516, 86, 71, false), (0x5570, 88, 89, true), (0x4ca9, 95, 90, false),
    (0x44d9, 96, 91, false), (0x3e22, 97, 92, false), (0x3824, 99, 93, false),
    (0x32b4, 99, 94, false), (0x2e17, 93, 86, false), (0x56a8, 95, 96, true),
    (0x4f46, 101, 97, false), (0x47e5, 102, 98, false), (0x41cf, 103, 99, false),
    (0x3c3d, 104, 100, false), (0x375e, 99, 93, false), (0x5231, 105, 102, false),
    (0x4c0f, 106, 103, false), (0x4639, 107, 104, false), (0x415e, 103, 99, false),
    (0x5627, 105, 106, true), (0x50e7, 108, 107, false), (0x4b85, 109, 103, false),
    (0x5597, 110, 109, false), (0x504f, 111, 107, false), (0x5a10, 110, 111, true),
    (0x5522, 112, 109, false), (0x59eb, 112, 111, true), (0x5a1d, 113, 113, false),
];
