//! Coefficients of all components, out of all scans of a file.

use super::super::{DecodeError, MAX_ALLOCATION};
use super::frame::{Frame, Outline, Scan};
use super::huffman::{self, Table};
use super::markers::{DAC, DHT, DQT, DRI, Markers, SOS, be16, split_at_restarts};
use super::{arithmetic, damaged, unsupported};

/// Coefficients of one block, row by row.
pub(super) type Block = [i16; 64];

/// Index in a block of each coefficient in zigzag order.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Coefficients of one component.
pub(super) struct Coefficients {
    /// Blocks, row by row.
    pub blocks: Vec<Block>,
    /// Blocks of a row, with those that fill the MCUs.
    pub columns: usize,
    /// The quantization table, row by row.
    pub quantizer: [u16; 64],
}

/// What a scan sends of a block.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Sequential,
    DcFirst { low: u32 },
    DcRefine { low: u32 },
    AcFirst { band: (usize, usize), low: u32 },
    AcRefine { band: (usize, usize), low: u32 },
}

impl Step {
    fn of(frame: &Frame, scan: &Scan) -> Self {
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

enum Coder<'a> {
    Huffman(huffman::Decoder<'a>),
    Arithmetic(Box<arithmetic::Decoder<'a>>),
}

impl<'a> Coder<'a> {
    fn restart(&mut self, data: &'a [u8]) {
        match self {
            Self::Huffman(decoder) => decoder.restart(data),
            Self::Arithmetic(decoder) => decoder.restart(data),
        }
    }

    fn block(&mut self, step: Step, position: usize, block: &mut Block) -> Option<()> {
        match self {
            Self::Huffman(decoder) => decoder.block(step, position, block),
            Self::Arithmetic(decoder) => decoder.block(step, position, block),
        }
    }
}

/// Tables in force, by number.
#[derive(Default)]
struct Tables {
    quantizers: [Option<[u16; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    conditioning: arithmetic::Conditioning,
    restart: usize,
}

/// Reads the coefficients of all components.
///
/// # Errors
/// [`DecodeError`] if the data are damaged, or too large for [`MAX_ALLOCATION`].
pub(super) fn coefficients(
    bytes: &[u8],
    outline: &Outline,
) -> Result<Vec<Coefficients>, DecodeError> {
    let frame = &outline.frame;
    let mut components = allocate(frame)?;
    let mut latched = vec![false; components.len()];
    let mut tables = Tables::default();
    let mut scans = outline.scans.iter();
    for marker in Markers::new(bytes) {
        let marker = marker.map_err(|_| damaged())?;
        match marker.code {
            DQT => tables
                .define_quantizers(marker.segment)
                .ok_or_else(damaged)?,
            DHT => tables.define_codes(marker.segment).ok_or_else(damaged)?,
            DAC => tables
                .conditioning
                .define(marker.segment)
                .ok_or_else(damaged)?,
            DRI => tables.restart = usize::from(be16(marker.segment, 0).ok_or_else(damaged)?),
            SOS => {
                let scan = scans.next().ok_or_else(damaged)?;
                for selected in &scan.selected {
                    // A component keeps the table in force at its first scan.
                    if !std::mem::replace(&mut latched[selected.index], true) {
                        let number = frame.components[selected.index].quantizer;
                        components[selected.index].quantizer =
                            tables.quantizers[number].ok_or_else(damaged)?;
                    }
                }
                read_scan(frame, scan, &mut tables, marker.data, &mut components)
                    .ok_or_else(damaged)?;
            }
            _ => {}
        }
    }
    Ok(components)
}

fn allocate(frame: &Frame) -> Result<Vec<Coefficients>, DecodeError> {
    let (rows, columns) = frame.mcus();
    let counts = frame.components.iter().map(|c| (rows * c.v, columns * c.h));
    let samples: u64 = counts.clone().map(|(r, c)| 64 * (r * c) as u64).sum();
    // Two bytes of a coefficient and one of a sample, and the result.
    let needed = 3 * samples + 3 * (frame.width * frame.height) as u64;
    if needed > MAX_ALLOCATION {
        return Err(unsupported(format!(
            "its coefficients take {} MB, more than the limit of {} MB",
            needed / 1_000_000,
            MAX_ALLOCATION / 1_000_000
        )));
    }
    Ok(counts
        .map(|(rows, columns)| Coefficients {
            blocks: vec![[0; 64]; rows * columns],
            columns,
            quantizer: [0; 64],
        })
        .collect())
}

fn read_scan<'a>(
    frame: &Frame,
    scan: &Scan,
    tables: &'a mut Tables,
    data: &'a [u8],
    components: &mut [Coefficients],
) -> Option<()> {
    let (rows, columns) = frame.units(scan);
    let units = rows * columns;
    let interval = if tables.restart == 0 {
        units
    } else {
        tables.restart
    };
    let mut pieces = split_at_restarts(data, (units - 1) / interval)?.into_iter();
    let step = Step::of(frame, scan);
    let mut coder = tables.coder(frame, scan);
    for unit in 0..units {
        if unit % interval == 0 {
            coder.restart(pieces.next()?);
        }
        let (row, column) = (unit / columns, unit % columns);
        if let [one] = scan.selected[..] {
            let component = &mut components[one.index];
            let at = row * component.columns + column;
            coder.block(step, 0, component.blocks.get_mut(at)?)?;
            continue;
        }
        for (position, selected) in scan.selected.iter().enumerate() {
            let (h, v) = {
                let component = &frame.components[selected.index];
                (component.h, component.v)
            };
            let component = &mut components[selected.index];
            for within in 0..h * v {
                let (y, x) = (row * v + within / h, column * h + within % h);
                let at = y * component.columns + x;
                coder.block(step, position, component.blocks.get_mut(at)?)?;
            }
        }
    }
    Some(())
}

impl Tables {
    fn coder(&mut self, frame: &Frame, scan: &Scan) -> Coder<'_> {
        if frame.arithmetic {
            let tables = scan.selected.iter().map(|s| (s.dc, s.ac)).collect();
            return Coder::Arithmetic(Box::new(arithmetic::Decoder::new(
                tables,
                &self.conditioning,
            )));
        }
        if !frame.progressive {
            for (number, chroma) in [(0, false), (1, true)] {
                if self.dc[number].is_none() {
                    self.dc[number] = huffman::standard(false, chroma);
                }
                if self.ac[number].is_none() {
                    self.ac[number] = huffman::standard(true, chroma);
                }
            }
        }
        let of = |s: &super::frame::Selected| {
            let dc = self.dc.get(s.dc).and_then(Option::as_ref);
            let ac = self.ac.get(s.ac).and_then(Option::as_ref);
            (dc.filter(|table| table.is_for_dc()), ac)
        };
        Coder::Huffman(huffman::Decoder::new(
            scan.selected.iter().map(of).collect(),
        ))
    }

    fn define_quantizers(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = segment.split_first() {
            let table = self.quantizers.get_mut(usize::from(head & 15))?;
            let width = if head >> 4 == 0 { 1 } else { 2 };
            let (values, rest) = rest.split_at_checked(64 * width)?;
            let mut quantizer = [0; 64];
            for (at, value) in ZIGZAG.iter().zip(values.chunks_exact(width)) {
                quantizer[usize::from(*at)] = value
                    .iter()
                    .fold(0, |number, byte| number << 8 | u16::from(*byte));
            }
            *table = Some(quantizer);
            segment = rest;
        }
        Some(())
    }

    fn define_codes(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((head, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let count = counts.iter().map(|n| usize::from(*n)).sum();
            let (symbols, rest) = rest.split_at_checked(count)?;
            let tables = match head >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(head & 15))? = Some(Table::new(counts, symbols)?);
            segment = rest;
        }
        Some(())
    }
}
