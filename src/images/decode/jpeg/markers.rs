//! Markers of a JPEG file: which segments it has, and where its entropy-coded data lie.

/// Markers without a segment: TEM, and RST0 to RST7 outside a scan.
const TEM: u8 = 0x01;
pub(super) const DHT: u8 = 0xc4;
pub(super) const DAC: u8 = 0xcc;
const RST0: u8 = 0xd0;
const RST7: u8 = 0xd7;
pub(super) const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
pub(super) const SOS: u8 = 0xda;
pub(super) const DQT: u8 = 0xdb;
pub(super) const DRI: u8 = 0xdd;
pub(super) const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
pub(super) const APP14: u8 = 0xee;

/// Before the TIFF block of an APP1 segment.
const EXIF: &[u8] = b"Exif\0\0";

/// One marker with its segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marker<'a> {
    /// The second byte of the marker.
    pub code: u8,
    /// The segment after its length; empty for a marker without one.
    pub segment: &'a [u8],
    /// After SOS: the entropy-coded data with their restart markers, up to the next other marker.
    pub data: &'a [u8],
}

/// The file ends before its EOI marker, or a segment has no valid length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut;

/// Iterates over the markers from SOI to EOI, both included. Bytes between segments that belong to
/// no marker are skipped, as by libjpeg.
pub(super) struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
    ended: bool,
}

impl<'a> Markers<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            ended: false,
        }
    }

    fn read(&mut self) -> Result<Marker<'a>, Cut> {
        let (at, code) = next_marker(self.bytes, self.at).ok_or(Cut)?;
        self.at = at + 2;
        let mut marker = Marker {
            code,
            segment: &[],
            data: &[],
        };
        if matches!(code, TEM | RST0..=EOI) {
            self.ended = code == EOI;
            return Ok(marker);
        }
        let rest = self.bytes.get(self.at..).ok_or(Cut)?;
        let length = usize::from(be16(rest, 0).ok_or(Cut)?);
        marker.segment = rest.get(2..length).ok_or(Cut)?;
        self.at += length;
        if code == SOS {
            let start = self.at;
            self.at = end_of_data(self.bytes, start).ok_or(Cut)?;
            marker.data = self.bytes.get(start..self.at).ok_or(Cut)?;
        }
        Ok(marker)
    }
}

impl<'a> Iterator for Markers<'a> {
    type Item = Result<Marker<'a>, Cut>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let marker = self.read();
        self.ended |= marker.is_err();
        Some(marker)
    }
}

/// Returns the big-endian number at `at`.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Returns the next marker's code, and the position of the last 0xff before it.
fn next_marker(bytes: &[u8], mut from: usize) -> Option<(usize, u8)> {
    loop {
        let at = find_ff(bytes, from)?;
        match *bytes.get(at + 1)? {
            0x00 => from = at + 2,
            0xff => from = at + 1,
            code => return Some((at, code)),
        }
    }
}

/// Returns the end of the entropy-coded data that begin at `from`: the first 0xff of the marker
/// after them.
fn end_of_data(bytes: &[u8], mut from: usize) -> Option<usize> {
    loop {
        let start = find_ff(bytes, from)?;
        let (at, code) = code_after(bytes, start)?;
        match code {
            0x00 | RST0..=RST7 => from = at + 1,
            _ => return Some(start),
        }
    }
}

/// Returns the first byte after 0xff bytes, and its position.
fn code_after(bytes: &[u8], start: usize) -> Option<(usize, u8)> {
    let run = bytes.get(start..)?.iter().position(|byte| *byte != 0xff)?;
    Some((start + run, *bytes.get(start + run)?))
}

/// Returns the position of the first 0xff from `from` on.
fn find_ff(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    // Most blocks have none, and the compiler compares a whole block at once.
    let (blocks, _) = rest.as_chunks::<32>();
    let clear = |block: &&[u8; 32]| !block.iter().fold(false, |any, byte| any | (*byte == 0xff));
    let skipped = 32 * blocks.iter().take_while(clear).count();
    let found = rest.get(skipped..)?.iter().position(|byte| *byte == 0xff)?;
    Some(from + skipped + found)
}

/// Splits entropy-coded data at their restart markers.
///
/// Returns the pieces, or nothing if the markers are not RST0 to RST7 in turn, if their number is
/// not `count`, or if 0xff bytes come before a stuffed zero. One marker more, after the last piece,
/// is what some encoders write.
pub(super) fn split_at_restarts(data: &[u8], count: usize) -> Option<Vec<&[u8]>> {
    let mut pieces = Vec::new();
    let (mut start, mut from) = (0, 0);
    while let Some(first) = find_ff(data, from) {
        let (at, code) = code_after(data, first)?;
        from = at + 1;
        if code == 0x00 {
            if at - first != 1 {
                return None;
            }
        } else {
            if usize::from(code) != usize::from(RST0) + pieces.len() % 8 {
                return None;
            }
            pieces.push(data.get(start..first)?);
            start = from;
        }
    }
    let last = data.get(start..)?;
    if pieces.len() == count {
        pieces.push(last);
        Some(pieces)
    } else if pieces.len() == count + 1 && count > 0 && last.is_empty() {
        Some(pieces)
    } else {
        None
    }
}

/// Returns the TIFF block of the first EXIF segment before the pixels.
pub(in super::super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    Markers::new(bytes)
        .map_while(Result::ok)
        .take_while(|marker| marker.code != SOS)
        .filter(|marker| marker.code == APP1)
        .find_map(|marker| marker.segment.strip_prefix(EXIF))
}

/// Returns width, height and number of components, as the frame header says.
pub(in super::super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32, u8)> {
    let frame = Markers::new(bytes)
        .map_while(Result::ok)
        .take_while(|marker| marker.code != SOS)
        .find(|marker| is_frame(marker.code))?;
    let height = be16(frame.segment, 1)?;
    let width = be16(frame.segment, 3)?;
    Some((width.into(), height.into(), *frame.segment.get(5)?))
}

/// Tells whether a marker is SOF0 to SOF15.
pub(super) fn is_frame(code: u8) -> bool {
    matches!(code, 0xc0..=0xcf) && !matches!(code, DHT | 0xc8 | DAC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codes(bytes: &[u8]) -> Vec<Result<u8, Cut>> {
        Markers::new(bytes).map(|m| m.map(|m| m.code)).collect()
    }

    #[test]
    fn segments_and_data_are_found() {
        let bytes = [
            0xff, 0xd8, 0xff, 0xe1, 0, 10, b'E', b'x', b'i', b'f', 0, 0, 7, 8, 0xff, 0xff, 0xc0, 0,
            8, 8, 0, 3, 1, 4, 1, 0xff, 0xda, 0, 3, 1, 5, 0xff, 0, 6, 0xff, 0xd0, 7, 0xff, 0xff,
            0xd9, 0xff,
        ];
        let markers: Vec<_> = Markers::new(&bytes).map(Result::unwrap).collect();
        let codes: Vec<u8> = markers.iter().map(|m| m.code).collect();
        assert_eq!(codes, [SOI, APP1, 0xc0, SOS, EOI]);
        assert_eq!(markers[3].segment, [1]);
        assert_eq!(markers[3].data, [5, 0xff, 0, 6, 0xff, 0xd0, 7]);
        assert_eq!(exif(&bytes), Some(&[7, 8][..]));
        assert_eq!(dimensions(&bytes), Some((260, 3, 1)));
    }

    #[test]
    fn a_missing_end_is_seen() {
        assert_eq!(codes(&[0xff, 0xd8]), [Ok(SOI), Err(Cut)]);
        assert_eq!(
            codes(&[0xff, 0xd8, 0xff, 0xe0, 0, 9, 1]),
            [Ok(SOI), Err(Cut)]
        );
        assert_eq!(
            codes(&[0xff, 0xd8, 0xff, 0xda, 0, 2, 1, 2]),
            [Ok(SOI), Err(Cut)]
        );
        assert_eq!(
            codes(&[0xff, 0xd8, 0xff, 0xe0, 0, 1, 0xff, 0xd9]),
            [Ok(SOI), Err(Cut)]
        );
    }

    #[test]
    fn restarts_are_counted_in_turn() {
        let data = [1, 0xff, 0, 0xff, 0xd0, 2, 0xff, 0xff, 0xd1, 3];
        let pieces = split_at_restarts(&data, 2).unwrap();
        assert_eq!(pieces, [&[1, 0xff, 0][..], &[2][..], &[3][..]]);
        assert_eq!(split_at_restarts(&data, 1), None);
        assert_eq!(split_at_restarts(&data, 3), None);
        assert_eq!(split_at_restarts(&[1, 0xff, 0xd1, 2], 1), None);
        assert_eq!(split_at_restarts(&[1, 0xff, 0xff, 0, 2], 0), None);
        let extra = [1, 0xff, 0xd0, 2, 0xff, 0xd1];
        assert_eq!(split_at_restarts(&extra, 1).unwrap(), [&[1][..], &[2][..]]);
    }

    #[test]
    fn an_ff_is_found_anywhere() {
        for len in [0, 1, 31, 32, 33, 64, 100] {
            assert_eq!(find_ff(&vec![0; len], 0), None);
            for at in 0..len {
                let mut bytes = vec![0; len];
                bytes[at] = 0xff;
                for from in 0..=len {
                    assert_eq!(find_ff(&bytes, from), (from <= at).then_some(at));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(
            bytes in proptest::collection::vec(
                prop_oneof![Just(0xffu8), Just(0), 0xc0..=0xe2u8, any::<u8>()], 0..300),
            count in 0..9usize,
        ) {
            let markers: Vec<_> = Markers::new(&bytes).collect();
            prop_assert!(markers.len() <= bytes.len() + 1);
            // The last is EOI or an error, and no other is.
            for (index, marker) in markers.iter().enumerate() {
                let last = marker.is_err() || marker.is_ok_and(|m| m.code == EOI);
                prop_assert_eq!(last, index + 1 == markers.len());
            }
            exif(&bytes);
            dimensions(&bytes);
            if let Some(pieces) = split_at_restarts(&bytes, count) {
                prop_assert_eq!(pieces.len(), count + 1);
            }
        }
    }
}
