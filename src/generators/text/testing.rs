//! Small TrueType fonts for tests, made here: outlines of straight lines.

use std::path::{Path, PathBuf};

/// Units of an em.
const EM: u16 = 1000;

/// A character and its contours, in units of the font, y up, clockwise.
pub type Letter = (char, Vec<Vec<(i16, i16)>>);

/// Returns a filled rectangle.
pub fn rectangle(left: i16, bottom: i16, right: i16, top: i16) -> Vec<(i16, i16)> {
    vec![(left, bottom), (left, top), (right, top), (right, bottom)]
}

/// Returns the bytes of a font whose characters all have an advance width of `advance`. Glyph 0,
/// which stands for missing characters, is a square.
pub fn font(advance: u16, letters: &[Letter]) -> Vec<u8> {
    let mut letters = letters.to_vec();
    letters.sort_by_key(|(character, _)| *character);
    let missing = [vec![rectangle(100, 0, 600, 500)]];
    let outlines = missing
        .iter()
        .chain(letters.iter().map(|(_, contours)| contours));
    let (mut glyf, mut loca, mut hmtx) = (Vec::new(), Vec::new(), Vec::new());
    for contours in outlines {
        loca.extend(be32(glyf.len()));
        glyf.extend(glyph(contours));
        let left = contours.iter().flatten().map(|point| point.0).min();
        hmtx.extend(be16(advance));
        hmtx.extend(left.unwrap_or(0).to_be_bytes());
    }
    loca.extend(be32(glyf.len()));
    let glyphs = 1 + letters.len() as u16;
    let mut maxp = [be32(0x0001_0000).as_slice(), &be16(glyphs)].concat();
    maxp.resize(32, 0);
    let mut head = [
        be32(0x0001_0000),
        be32(0x0001_0000),
        be32(0),
        be32(0x5f0f_3cf5),
    ]
    .concat();
    head.extend([be16(0), be16(EM)].concat());
    head.resize(54, 0);
    // Offsets in loca have 32 bits.
    head[51] = 1;
    let mut hhea = [
        be32(0x0001_0000).as_slice(),
        &be16(800),
        &(-200i16).to_be_bytes(),
    ]
    .concat();
    hhea.resize(34, 0);
    hhea.extend(be16(glyphs));
    let cmap = cmap(
        &letters
            .iter()
            .map(|(character, _)| *character)
            .collect::<Vec<char>>(),
    );
    file(&[
        (b"cmap", cmap),
        (b"glyf", glyf),
        (b"head", head),
        (b"hhea", hhea),
        (b"hmtx", hmtx),
        (b"loca", loca),
        (b"maxp", maxp),
    ])
}

/// Writes a file of a font into `folder`.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn be16(value: u16) -> [u8; 2] {
    value.to_be_bytes()
}

/// Returns four bytes, the most significant one first.
pub fn be32(value: usize) -> [u8; 4] {
    (value as u32).to_be_bytes()
}

/// A simple glyph of points that are all on the outline.
fn glyph(contours: &[Vec<(i16, i16)>]) -> Vec<u8> {
    if contours.is_empty() {
        return Vec::new();
    }
    let points: Vec<(i16, i16)> = contours.concat();
    let x: Vec<i16> = points.iter().map(|point| point.0).collect();
    let y: Vec<i16> = points.iter().map(|point| point.1).collect();
    let least = |values: &[i16]| *values.iter().min().unwrap();
    let greatest = |values: &[i16]| *values.iter().max().unwrap();
    let mut bytes = be16(contours.len() as u16).to_vec();
    for bound in [least(&x), least(&y), greatest(&x), greatest(&y)] {
        bytes.extend(bound.to_be_bytes());
    }
    let mut end = 0;
    for contour in contours {
        end += contour.len() as u16;
        bytes.extend(be16(end - 1));
    }
    bytes.extend(be16(0));
    bytes.extend(vec![1u8; points.len()]);
    for axis in [&x, &y] {
        let mut last = 0;
        for value in axis {
            bytes.extend((value - last).to_be_bytes());
            last = *value;
        }
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A character map of format 4, with one segment for each character.
fn cmap(characters: &[char]) -> Vec<u8> {
    let codes: Vec<u16> = characters
        .iter()
        .map(|c| *c as u16)
        .chain([0xffff])
        .collect();
    let segments = codes.len() as u16;
    let each = |value: &dyn Fn(usize, u16) -> u16| -> Vec<u8> {
        let values = codes.iter().enumerate();
        values
            .flat_map(|(index, code)| be16(value(index, *code)))
            .collect()
    };
    let delta = |index: usize, code: u16| (index as u16 + 1).wrapping_sub(code);
    let length = 16 + 8 * segments;
    let table = [
        be16(4).to_vec(),
        [length, 0, 2 * segments, 0, 0, 0].map(be16).concat(),
        each(&|_, code| code),
        be16(0).to_vec(),
        each(&|_, code| code),
        each(&|index, code| {
            if code == 0xffff {
                1
            } else {
                delta(index, code)
            }
        }),
        each(&|_, _| 0),
    ]
    .concat();
    [
        be16(0).as_slice(),
        &be16(1),
        &be16(3),
        &be16(1),
        &be32(12),
        &table,
    ]
    .concat()
}

/// The directory of tables, and the tables.
fn file(tables: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut bytes = [
        be32(0x0001_0000).as_slice(),
        &be16(tables.len() as u16),
        &[0; 6],
    ]
    .concat();
    let mut offset = 12 + 16 * tables.len();
    for (tag, table) in tables {
        bytes.extend([tag.as_slice(), &be32(0), &be32(offset), &be32(table.len())].concat());
        offset += table.len().next_multiple_of(4);
    }
    for (_, table) in tables {
        bytes.extend(table);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}
