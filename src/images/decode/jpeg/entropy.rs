//! Samples of all components, out of all scans of a file.

use super::super::{DecodeError, MAX_ALLOCATION};
use super::block::{Block, Step, ZIGZAG};
use super::frame::{Component, Frame, Outline, Scan, Selected};
use super::huffman::{self, Table};
use super::markers::{DAC, DHT, DQT, DRI, Markers, SOS, be16, split_at_restarts};
use super::pixels::Plane;
use super::transform::transform;
use super::{arithmetic, damaged};

/// One component as it is read.
struct Channel {
    plane: Plane,
    /// Blocks, row by row, of a progressive file; otherwise none.
    blocks: Vec<Block>,
    /// Blocks of a row, with those that fill the MCUs.
    columns: usize,
    /// The quantization table, row by row, once a scan has begun.
    quantizer: Option<[i16; 64]>,
}

impl Channel {
    fn transform(&mut self, at: usize, block: &Block) -> Option<()> {
        let (row, column) = (8 * (at / self.columns), 8 * (at % self.columns));
        let plane = &mut self.plane;
        if row >= plane.size.0 || column >= plane.size.1 {
            return Some(());
        }
        let out = plane.samples.get_mut(row * plane.stride + column..)?;
        transform(block, self.quantizer.as_ref()?, out, plane.stride)
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
    quantizers: [Option<[i16; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    conditioning: arithmetic::Conditioning,
    restart: usize,
}

/// Reads the samples of all components.
///
/// # Errors
/// [`DecodeError`] if the data are damaged, or too large for [`MAX_ALLOCATION`].
pub(super) fn planes(bytes: &[u8], outline: &Outline) -> Result<Vec<Plane>, DecodeError> {
    let frame = &outline.frame;
    let mut channels = allocate(frame)?;
    let mut tables = Tables::default();
    let mut scans = outline.scans.iter();
    for marker in Markers::new(bytes) {
        let marker = marker.map_err(|_| damaged())?;
        let segment = marker.segment;
        match marker.code {
            DQT => tables.define_quantizers(segment).ok_or_else(damaged)?,
            DHT => tables.define_codes(segment).ok_or_else(damaged)?,
            DAC => tables.conditioning.define(segment).ok_or_else(damaged)?,
            DRI => tables.restart = usize::from(be16(segment, 0).ok_or_else(damaged)?),
            SOS => {
                let scan = scans.next().ok_or_else(damaged)?;
                for selected in &scan.selected {
                    let channel = &mut channels[selected.index];
                    // A component keeps the table in force at its first scan.
                    if channel.quantizer.is_none() {
                        let number = frame.components[selected.index].quantizer;
                        channel.quantizer = Some(tables.quantizers[number].ok_or_else(damaged)?);
                    }
                }
                read_scan(frame, scan, &mut tables, marker.data, &mut channels)
                    .ok_or_else(damaged)?;
            }
            _ => {}
        }
    }
    for channel in &mut channels {
        for (at, block) in std::mem::take(&mut channel.blocks).iter().enumerate() {
            channel.transform(at, block).ok_or_else(damaged)?;
        }
    }
    Ok(channels.into_iter().map(|channel| channel.plane).collect())
}

fn allocate(frame: &Frame) -> Result<Vec<Channel>, DecodeError> {
    let (rows, columns) = frame.mcus();
    let count = |c: &Component| (rows * c.v) * (columns * c.h);
    let samples: usize = frame.components.iter().map(|c| 64 * count(c)).sum();
    // A byte of a sample, two of a coefficient that waits for later scans, and the result.
    let kept = if frame.progressive { 3 } else { 1 };
    let needed = (kept * samples + 3 * frame.width * frame.height) as u64;
    if needed > MAX_ALLOCATION {
        return Err(DecodeError::Memory("JPEG"));
    }
    let channel = |component: &Component| Channel {
        plane: Plane::new(frame, component),
        blocks: if frame.progressive {
            vec![[0; 64]; count(component)]
        } else {
            Vec::new()
        },
        columns: columns * component.h,
        quantizer: None,
    };
    Ok(frame.components.iter().map(channel).collect())
}

fn read_scan<'a>(
    frame: &Frame,
    scan: &Scan,
    tables: &'a mut Tables,
    data: &'a [u8],
    channels: &mut [Channel],
) -> Option<()> {
    let (rows, columns) = frame.units(scan);
    let units = rows * columns;
    let interval = match tables.restart {
        0 => units,
        restart => restart,
    };
    let mut pieces = split_at_restarts(data, (units - 1) / interval)?.into_iter();
    let step = Step::of(frame, scan);
    let mut coder = tables.coder(frame, scan);
    let read = |coder: &mut Coder<'a>, channel: &mut Channel, position, y, x| {
        let at = y * channel.columns + x;
        if let Step::Sequential = step {
            let mut block = [0; 64];
            coder.block(step, position, &mut block)?;
            return channel.transform(at, &block);
        }
        coder.block(step, position, channel.blocks.get_mut(at)?)
    };
    let (mut row, mut column) = (0, 0);
    for unit in 0..units {
        if unit % interval == 0 {
            coder.restart(pieces.next()?);
        }
        if let [one] = scan.selected[..] {
            read(&mut coder, &mut channels[one.index], 0, row, column)?;
        } else {
            for (position, selected) in scan.selected.iter().enumerate() {
                let Component { h, v, .. } = frame.components[selected.index];
                let channel = &mut channels[selected.index];
                for (y, x) in (0..v).flat_map(|y| (0..h).map(move |x| (y, x))) {
                    read(&mut coder, channel, position, row * v + y, column * h + x)?;
                }
            }
        }
        column += 1;
        if column == columns {
            (row, column) = (row + 1, 0);
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
        let of = |s: &Selected| {
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
                let value = value
                    .iter()
                    .fold(0, |number, byte| number << 8 | i32::from(*byte));
                // Sound files with samples of 8 bits have steps of 8 bits.
                quantizer[usize::from(*at)] = i16::try_from(value).ok()?;
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
