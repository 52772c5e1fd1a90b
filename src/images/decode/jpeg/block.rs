//! Blocks of coefficients, and what the scans of a file send of them.

use super::frame::{Frame, Scan};

/// Coefficients of one block, row by row.
pub(super) type Block = [i16; 64];

/// Index in a block of each coefficient in zigzag order.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Part of a block that a scan sends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Sequential,
    DcFirst { low: u32 },
    DcRefine { low: u32 },
    AcFirst { band: (usize, usize), low: u32 },
    AcRefine { band: (usize, usize), low: u32 },
}

impl Step {
    pub fn of(frame: &Frame, scan: &Scan) -> Self {
        let (band, (high, low)) = (scan.band, scan.bits);
        let low = u32::from(low);
        match (frame.progressive, band.0, high) {
            (false, ..) => Self::Sequential,
            (true, 0, 0) => Self::DcFirst { low },
            (true, 0, _) => Self::DcRefine { low },
            (true, _, 0) => Self::AcFirst { band, low },
            (true, ..) => Self::AcRefine { band, low },
        }
    }
}
