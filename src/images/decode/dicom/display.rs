//! Stored values of a DICOM file as levels of gray or colors.
//!
//! A stored value passes through the modality's table or rescale slope and intercept, then through
//! the window of the configuration, or else the file's first VOI table or window (PS3.3 C.11.2), or
//! else the range of the stored bits.

use super::super::DecodeError;
use super::super::SixteenBit;
use super::super::sixteen_bit::windowed;
use super::elements::Elements;
use super::frames::Frame;
use super::{Attributes, damaged, unsupported};

const LUT_DESCRIPTOR: u32 = 0x0028_3002;
const LUT_DATA: u32 = 0x0028_3006;

/// Table of values.
struct Table {
    /// Value of the first entry; lower ones have the same.
    first: i64,
    entries: Vec<u16>,
    /// Bits of an entry.
    bits: u32,
}

impl Table {
    /// Reads a table by the tags of its descriptor and its data; `Ok(None)` if there is none.
    fn read(
        elements: &Elements<'_>,
        descriptor: u32,
        data: u32,
        signed: bool,
    ) -> Result<Option<Self>, DecodeError> {
        let Some(described) = elements.words(descriptor) else {
            return Ok(None);
        };
        let ([len, first, bits, ..], Some(element)) = (&described[..], elements.get(data)) else {
            return Err(damaged());
        };
        let len = match *len {
            0 => 1 << 16,
            len => usize::from(len),
        };
        let bits = u32::from(*bits);
        if !(1..=16).contains(&bits) {
            return Err(damaged());
        }
        // Entries of 8 bits may be packed.
        let mut entries = match bits <= 8 && element.value.len() < 2 * len {
            true => element.value.iter().map(|byte| u16::from(*byte)).collect(),
            false => elements.words(data).unwrap_or_default(),
        };
        entries.truncate(len);
        if entries.len() < len {
            return Err(damaged());
        }
        let first = match signed {
            true => i64::from(*first as i16),
            false => i64::from(*first),
        };
        Ok(Some(Self {
            first,
            entries,
            bits,
        }))
    }

    fn value(&self, input: i64) -> u16 {
        let index = input.saturating_sub(self.first).max(0);
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let index = index.min(self.entries.len().saturating_sub(1));
        self.entries.get(index).copied().unwrap_or_default()
    }

    /// Returns the largest value that the bits of an entry allow.
    fn largest(&self) -> f64 {
        f64::from((1u32 << self.bits) - 1)
    }
}

/// Transform of stored values to those of the modality.
enum Modality {
    Table(Table),
    Rescale { slope: f64, intercept: f64 },
}

impl Modality {
    fn value(&self, stored: i64) -> f64 {
        match self {
            Self::Table(table) => f64::from(table.value(stored)),
            Self::Rescale { slope, intercept } => stored as f64 * slope + intercept,
        }
    }
}

/// Transform of the modality's values to 0 to 255.
enum Levels {
    Window(i32, i32),
    Table(Table),
    /// Center and width by the function `LINEAR`.
    Linear(f64, f64),
    /// Center and width by the function `LINEAR_EXACT`.
    LinearExact(f64, f64),
    /// Center and width by the function `SIGMOID`.
    Sigmoid(f64, f64),
    Range(f64, f64),
}

impl Levels {
    fn level(&self, value: f64) -> u8 {
        let part = match self {
            Self::Window(low, high) => {
                // Whole numbers are exact up to 2^53.
                if value.fract() == 0.0 {
                    return windowed(value as i64, *low, *high);
                }
                let (low, high) = (f64::from(*low), f64::from(*high));
                (value - low) / (high - low)
            }
            Self::Table(table) => f64::from(table.value(value as i64)) / table.largest(),
            Self::Linear(center, width) => {
                let (center, width) = (center - 0.5, width - 1.0);
                if value <= center - width / 2.0 {
                    0.0
                } else if value > center + width / 2.0 {
                    1.0
                } else {
                    (value - center) / width + 0.5
                }
            }
            Self::LinearExact(center, width) => (value - center) / width + 0.5,
            Self::Sigmoid(center, width) => {
                1.0 / (1.0 + libm::exp(-4.0 * (value - center) / width))
            }
            Self::Range(low, high) if high > low => (value - low) / (high - low),
            Self::Range(..) => 0.0,
        };
        // A number that is no number becomes 0.
        (255.0 * part + 0.5).floor().clamp(0.0, 255.0) as u8
    }
}

/// Returns the levels of a frame of gray, one byte a pixel.
pub fn gray(
    frame: &Frame<'_>,
    elements: &Elements<'_>,
    attributes: &Attributes<'_>,
    (page, rule): (usize, SixteenBit),
) -> Result<Vec<u8>, DecodeError> {
    let modality = modality(elements, attributes, page)?;
    let count = 1u32 << attributes.stored;
    let stored = |raw: u32| match attributes.signed && raw >= count / 2 {
        true => i64::from(raw) - i64::from(count),
        false => i64::from(raw),
    };
    let levels = match rule {
        SixteenBit::Window(low, high) if attributes.stored > 8 => Levels::Window(low, high),
        _ => match voi(elements, attributes, page)? {
            Some(levels) => levels,
            None => range(
                &modality,
                [stored(count / 2), stored(count / 2 - 1)],
                attributes,
            ),
        },
    };
    let inverted = attributes.photometric == "MONOCHROME1";
    let table: Vec<u8> = (0..count)
        .map(|raw| levels.level(modality.value(stored(raw))))
        .map(|level| if inverted { 255 - level } else { level })
        .collect();
    let values = frame.values(attributes);
    let levels = values.map(|raw| table.get(usize::from(raw)).copied().unwrap_or_default());
    Ok(levels.collect())
}

/// Returns the range of the modality's values. `middle` are the stored values around the sign bit:
/// the least and the greatest of signed values.
fn range(modality: &Modality, middle: [i64; 2], attributes: &Attributes<'_>) -> Levels {
    match modality {
        Modality::Table(table) => Levels::Range(0.0, table.largest()),
        Modality::Rescale { .. } => {
            let ends = match attributes.signed {
                true => middle,
                false => [0, (1 << attributes.stored) - 1],
            };
            let [a, b] = ends.map(|stored| modality.value(stored));
            Levels::Range(a.min(b), a.max(b))
        }
    }
}

/// Finds the modality's table, or slope and intercept: those of the frame, of all frames, or of the
/// file.
fn modality(
    elements: &Elements<'_>,
    attributes: &Attributes<'_>,
    page: usize,
) -> Result<Modality, DecodeError> {
    if let Some(item) = elements.item(0x0028_3000, 0)
        && let Some(table) = Table::read(&item, LUT_DESCRIPTOR, LUT_DATA, attributes.signed)?
    {
        return Ok(Modality::Table(table));
    }
    let group = functional_group(elements, page, 0x0028_9145);
    let number = |tag| group.as_ref().unwrap_or(elements).number(tag);
    Ok(Modality::Rescale {
        slope: number(0x0028_1053).unwrap_or(1.0),
        intercept: number(0x0028_1052).unwrap_or(0.0),
    })
}

/// Finds the first VOI table or window.
fn voi(
    elements: &Elements<'_>,
    attributes: &Attributes<'_>,
    page: usize,
) -> Result<Option<Levels>, DecodeError> {
    if let Some(item) = elements.item(0x0028_3010, 0)
        && let Some(table) = Table::read(&item, LUT_DESCRIPTOR, LUT_DATA, attributes.signed)?
    {
        return Ok(Some(Levels::Table(table)));
    }
    let group = functional_group(elements, page, 0x0028_9132);
    let source = group.as_ref().unwrap_or(elements);
    let (Some(center), Some(width)) = (source.number(0x0028_1050), source.number(0x0028_1051))
    else {
        return Ok(None);
    };
    let function = source.text(0x0028_1056).unwrap_or("LINEAR");
    let levels = match function {
        "LINEAR_EXACT" if width > 0.0 => Levels::LinearExact(center, width),
        "SIGMOID" if width > 0.0 => Levels::Sigmoid(center, width),
        "LINEAR" | "" if width >= 1.0 => Levels::Linear(center, width),
        _ => {
            return Err(unsupported(
                "a window (VOI) that is not valid: declare data.sixteen_bit",
            ));
        }
    };
    Ok(Some(levels))
}

/// Returns the item of a macro in the functional groups of a frame, or of all frames.
fn functional_group<'a>(elements: &Elements<'a>, page: usize, tag: u32) -> Option<Elements<'a>> {
    let of_frame = elements
        .item(0x5200_9230, page)
        .and_then(|group| group.item(tag, 0));
    of_frame.or_else(|| elements.item(0x5200_9229, 0)?.item(tag, 0))
}

/// Returns the colors of a frame of palette indices.
pub fn palette(
    frame: &Frame<'_>,
    elements: &Elements<'_>,
    attributes: &Attributes<'_>,
) -> Result<Vec<u8>, DecodeError> {
    let tables = [0, 1, 2].map(|channel| {
        Table::read(
            elements,
            0x0028_1101 + channel,
            0x0028_1201 + channel,
            attributes.signed,
        )
    });
    let [Some(red), Some(green), Some(blue)] =
        [tables[0].as_ref(), tables[1].as_ref(), tables[2].as_ref()]
            .map(|table| table.ok().and_then(Option::as_ref))
    else {
        return Err(unsupported("a palette in segments, or none"));
    };
    let color = |raw: u16| {
        [red, green, blue].map(|table| {
            let value = table.value(i64::from(raw));
            if table.bits > 8 {
                (value >> 8) as u8
            } else {
                value as u8
            }
        })
    };
    Ok(frame.values(attributes).flat_map(color).collect())
}

/// Returns the colors of a frame of RGB or YBR.
pub fn color(frame: &Frame<'_>, attributes: &Attributes<'_>) -> Result<Vec<u8>, DecodeError> {
    let largest = (1u32 << attributes.stored) - 1;
    let byte = |raw: u16| match largest {
        255 => raw as u8,
        largest => ((2 * 255 * u32::from(raw) + largest) / (2 * largest)).min(255) as u8,
    };
    let mut colors: Vec<u8> = frame.values(attributes).map(byte).collect();
    if attributes.photometric.starts_with("YBR") && !frame.is_rgb {
        for pixel in colors.as_chunks_mut::<3>().0 {
            *pixel = rgb(*pixel);
        }
    }
    Ok(colors)
}

/// Converts a color of full range by PS3.3 C.7.6.3.1.2, rounded to the nearest.
fn rgb([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    let (luma, blue, red) = (i64::from(luma), i64::from(blue) - 128, i64::from(red) - 128);
    // Millionths; green follows from the luma 0.299 R + 0.587 G + 0.114 B.
    let (to_red, to_blue) = (1_402_000 * red, 1_772_000 * blue);
    let to_green = -(299 * to_red + 114 * to_blue) / 587;
    [to_red, to_green, to_blue].map(|part| {
        let sum = 1_000_000 * luma + part;
        (sum + 500_000).div_euclid(1_000_000).clamp(0, 255) as u8
    })
}
