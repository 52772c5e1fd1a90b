//! Frame and scan headers: what a file needs of a decoder, and the reasons to refuse it.

use super::super::{DecodeError, MAX_PIXELS};
use super::markers::{
    APP0, APP14, DRI, EOI, Marker, Markers, SOI, SOS, be16, is_frame, split_at_restarts,
};
use super::{damaged, unsupported};

/// Longest side that libjpeg reads, in pixels.
const MAX_SIDE: u16 = 65_500;
/// Blocks that an MCU may have.
const MAX_BLOCKS: usize = 10;
/// Largest accepted number of scans; encoders write about ten.
const MAX_SCANS: usize = 512;

/// One component of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    /// The identifier by which scans name it.
    pub id: u8,
    /// Horizontal sampling factor, 1 to 4.
    pub h: usize,
    /// Vertical sampling factor, 1 to 4.
    pub v: usize,
    /// Number of its quantization table, 0 to 3.
    pub quantizer: usize,
}

/// Meaning of the components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Color {
    Gray,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// A frame header, with the color that the application segments declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub arithmetic: bool,
    pub progressive: bool,
    pub width: usize,
    pub height: usize,
    pub components: Vec<Component>,
    /// Largest sampling factors, horizontal and vertical.
    pub max: (usize, usize),
    pub color: Color,
}

/// One component in a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    /// Index in the frame.
    pub index: usize,
    /// Number of the table for DC coefficients.
    pub dc: usize,
    /// Number of the table for AC coefficients.
    pub ac: usize,
}

/// A scan header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    pub selected: Vec<Selected>,
    /// First and last coefficient in zigzag order; 0 and 63 in a sequential file.
    pub band: (usize, usize),
    /// Bit positions of successive approximation: of the previous scan (0: none), of this one.
    pub bits: (u8, u8),
}

/// Rows and columns of MCUs of a scan, and of blocks of a component.
pub(super) type Grid = (usize, usize);

impl Frame {
    /// Reads a frame header.
    fn parse(marker: Marker<'_>) -> Result<Self, DecodeError> {
        let kind = match marker.code {
            0xc0..=0xc2 | 0xc9 | 0xca => None,
            0xc3 | 0xcb => Some("it is lossless"),
            _ => Some("it is hierarchical"),
        };
        if let Some(kind) = kind {
            return Err(unsupported(kind));
        }
        let segment = marker.segment;
        let (Some(&[precision, ..]), Some(height), Some(width), Some(&count)) = (
            segment.get(..1),
            be16(segment, 1),
            be16(segment, 3),
            segment.get(5),
        ) else {
            return Err(damaged());
        };
        let list = segment.get(6..).unwrap_or_default();
        if width == 0 || count == 0 || list.len() != 3 * usize::from(count) {
            return Err(damaged());
        }
        check_size(precision, width, height)?;
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(format!("it has {count} components")));
        }
        let components: Vec<Component> = list
            .chunks_exact(3)
            .map(|entry| Component {
                id: entry[0],
                h: usize::from(entry[1] >> 4),
                v: usize::from(entry[1] & 15),
                quantizer: usize::from(entry[2]),
            })
            .collect();
        let valid =
            |c: &Component| (1..=4).contains(&c.h) && (1..=4).contains(&c.v) && c.quantizer < 4;
        if !components.iter().all(valid) {
            return Err(damaged());
        }
        let max = components
            .iter()
            .fold((1, 1), |(h, v), c| (h.max(c.h), v.max(c.v)));
        if components
            .iter()
            .any(|c| max.0 % c.h != 0 || max.1 % c.v != 0)
        {
            return Err(unsupported(format!(
                "its sampling factors are {}, and no whole multiples of each other",
                factors(&components)
            )));
        }
        Ok(Self {
            arithmetic: marker.code > 0xc8,
            progressive: matches!(marker.code, 0xc2 | 0xca),
            width: width.into(),
            height: height.into(),
            components,
            max,
            color: Color::YCbCr,
        })
    }

    /// Returns MCU rows and columns of a scan over several components.
    pub fn mcus(&self) -> Grid {
        (
            self.height.div_ceil(8 * self.max.1),
            self.width.div_ceil(8 * self.max.0),
        )
    }

    /// Returns rows and columns of samples of a component, without those that fill its blocks.
    pub fn samples(&self, component: &Component) -> Grid {
        (
            (self.height * component.v).div_ceil(self.max.1),
            (self.width * component.h).div_ceil(self.max.0),
        )
    }

    /// Returns rows and columns of blocks that a scan of one component has.
    pub fn blocks(&self, component: &Component) -> Grid {
        let (rows, columns) = self.samples(component);
        (rows.div_ceil(8), columns.div_ceil(8))
    }

    /// Returns the MCUs of a scan, row by row.
    pub fn units(&self, scan: &Scan) -> Grid {
        match scan.selected[..] {
            [one] => self.blocks(&self.components[one.index]),
            _ => self.mcus(),
        }
    }

    /// Reads a scan header.
    pub fn scan(&self, segment: &[u8]) -> Result<Scan, DecodeError> {
        let (&count, rest) = segment.split_first().ok_or_else(damaged)?;
        let count = usize::from(count);
        let Some((list, &[first, last, bits])) = rest.split_at_checked(2 * count) else {
            return Err(damaged());
        };
        if !(1..=4).contains(&count) {
            return Err(damaged());
        }
        let mut selected: Vec<Selected> = Vec::with_capacity(count);
        for (position, entry) in list.chunks_exact(2).enumerate() {
            // Components come in the order of the frame, which decides between equal identifiers.
            let index = (position..self.components.len())
                .find(|index| self.components[*index].id == entry[0])
                .filter(|index| selected.iter().all(|earlier| earlier.index != *index))
                .ok_or_else(damaged)?;
            let (dc, ac) = (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
            selected.push(Selected { index, dc, ac });
        }
        let blocks: usize = selected
            .iter()
            .map(|s| self.components[s.index].h * self.components[s.index].v)
            .sum();
        if count > 1 && blocks > MAX_BLOCKS {
            return Err(unsupported(format!(
                "its sampling factors {} give more than {MAX_BLOCKS} blocks to an MCU",
                factors(&self.components)
            )));
        }
        let mut scan = Scan {
            selected,
            band: (usize::from(first), usize::from(last)),
            bits: (bits >> 4, bits & 15),
        };
        if !self.progressive {
            // Some encoders leave these fields unset.
            (scan.band, scan.bits) = ((0, 63), (0, 0));
        }
        let (band, (high, low)) = (scan.band, scan.bits);
        let dc_only = band == (0, 0);
        let ac_only = band.0 > 0 && band.0 <= band.1 && band.1 < 64 && count == 1;
        if self.progressive && !(dc_only || ac_only) || low > 13 || high != 0 && low + 1 != high {
            return Err(damaged());
        }
        Ok(scan)
    }

    /// Sets the color as libjpeg guesses it.
    fn set_color(&mut self, jfif: bool, adobe: Option<u8>) {
        let ids: Vec<u8> = self.components.iter().map(|c| c.id).collect();
        self.color = match (self.components.len(), adobe) {
            (1, _) => Color::Gray,
            (3, Some(0)) if !jfif => Color::Rgb,
            (3, None) if !jfif && ids == *b"RGB" => Color::Rgb,
            (3, _) => Color::YCbCr,
            (_, None | Some(0)) => Color::Cmyk,
            _ => Color::Ycck,
        };
    }
}

fn check_size(precision: u8, width: u16, height: u16) -> Result<(), DecodeError> {
    if precision != 8 {
        return Err(unsupported(format!("it has {precision} bits per sample")));
    }
    if height == 0 {
        return Err(unsupported("its height comes after the pixels (DNL)"));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge);
    }
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(unsupported(format!(
            "a side of it is longer than {MAX_SIDE} pixels"
        )));
    }
    Ok(())
}

/// Returns the sampling factors, as `2x2, 1x1, 1x1`.
fn factors(components: &[Component]) -> String {
    let factors: Vec<String> = components
        .iter()
        .map(|c| format!("{}x{}", c.h, c.v))
        .collect();
    factors.join(", ")
}

/// Facts about a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    pub frame: Frame,
    pub scans: Vec<Scan>,
}

/// State of [`outline`].
#[derive(Default)]
struct Survey {
    frame: Option<Frame>,
    scans: Vec<Scan>,
    jfif: bool,
    adobe: Option<u8>,
    restart: usize,
    /// The lowest bit that was sent of each coefficient of each component.
    sent: Vec<[Option<u8>; 64]>,
}

/// Reads all headers of a file from SOI to EOI.
///
/// # Errors
/// [`DecodeError`] if a part is missing, if restart markers are not those that the headers
/// announce, or if a property is not supported.
pub(super) fn outline(bytes: &[u8]) -> Result<Outline, DecodeError> {
    let mut survey = Survey::default();
    for (index, marker) in Markers::new(bytes).enumerate() {
        let marker = marker.map_err(|_| damaged())?;
        if (index == 0) != (marker.code == SOI) {
            return Err(damaged());
        }
        survey.take(marker)?;
    }
    let (Some(frame), scans) = (survey.frame, survey.scans) else {
        return Err(damaged());
    };
    let complete = |sent: &[Option<u8>; 64]| sent.iter().all(|low| *low == Some(0));
    if !survey.sent.iter().all(complete) || scans.is_empty() {
        return Err(if frame.progressive && !scans.is_empty() {
            unsupported("it is progressive and lacks scans")
        } else {
            damaged()
        });
    }
    Ok(Outline { frame, scans })
}

impl Survey {
    fn take(&mut self, marker: Marker<'_>) -> Result<(), DecodeError> {
        let segment = marker.segment;
        match marker.code {
            DRI => self.restart = usize::from(be16(segment, 0).ok_or_else(damaged)?),
            APP0 if segment.starts_with(b"JFIF\0") && segment.len() >= 14 => self.jfif = true,
            APP14 if segment.starts_with(b"Adobe") && segment.len() >= 12 => {
                self.adobe = segment.get(11).copied();
            }
            SOS => self.take_scan(marker)?,
            // Reserved for extensions, or of a hierarchical file.
            0x02..=0xbf | 0xc8 | 0xde | 0xdf | 0xf0..=0xfd => {
                return Err(unsupported("it has markers of an extension"));
            }
            code if is_frame(code) => {
                if self.frame.is_some() {
                    return Err(damaged());
                }
                let frame = Frame::parse(marker)?;
                self.sent = vec![[None; 64]; frame.components.len()];
                self.frame = Some(frame);
            }
            _ => debug_assert_ne!(marker.code, 0),
        }
        debug_assert!(marker.code != EOI || segment.is_empty());
        Ok(())
    }

    fn take_scan(&mut self, marker: Marker<'_>) -> Result<(), DecodeError> {
        let frame = self.frame.as_mut().ok_or_else(damaged)?;
        if self.scans.is_empty() {
            frame.set_color(self.jfif, self.adobe);
        }
        if self.scans.len() == MAX_SCANS {
            return Err(unsupported(format!("it has more than {MAX_SCANS} scans")));
        }
        let scan = frame.scan(marker.segment)?;
        let (first, last) = scan.band;
        let (high, low) = scan.bits;
        for selected in &scan.selected {
            let sent = &mut self.sent[selected.index];
            // libjpeg reads scans that do not continue earlier ones, with a warning.
            let continues = |low: &Option<u8>| *low == (high > 0).then_some(high);
            let after_dc = first == 0 || sent[0].is_some();
            if !after_dc || !sent[first..=last].iter().all(continues) {
                return Err(unsupported("its scans repeat or contradict each other"));
            }
            sent[first..=last].fill(Some(low));
        }
        let (rows, columns) = frame.units(&scan);
        let restarts = (rows * columns - 1).checked_div(self.restart).unwrap_or(0);
        if split_at_restarts(marker.data, restarts).is_none() {
            return Err(damaged());
        }
        self.scans.push(scan);
        Ok(())
    }
}
