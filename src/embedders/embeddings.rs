//! A matrix of vectors, one a row.

use std::io::{self, Read, Write};
use std::ops::Range;

/// Bytes of stored numbers that are read or written at a time.
const BLOCK: usize = 1 << 18;

/// Vectors of one dimension: `float32[count, dimension]`, row-major.
#[derive(Clone, PartialEq)]
pub struct Embeddings {
    data: Vec<f32>,
    dimension: usize,
}

impl Embeddings {
    /// Takes `data` as rows of `dimension` numbers; `None` when they do not divide evenly.
    #[must_use]
    pub fn new(data: Vec<f32>, dimension: usize) -> Option<Self> {
        (dimension > 0 && data.len().is_multiple_of(dimension)).then_some(Self { data, dimension })
    }

    /// No vectors, of this dimension (at least 1).
    #[must_use]
    pub fn empty(dimension: usize) -> Self {
        Self {
            data: Vec::new(),
            dimension: dimension.max(1),
        }
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() / self.dimension
    }

    /// Returns true if there is no vector.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Numbers in one vector.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// All numbers, `[count, dimension]`.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The numbers themselves, `[count, dimension]`.
    #[must_use]
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The vectors in `range`, cut to what exists.
    #[must_use]
    pub fn rows(&self, range: Range<usize>) -> &[f32] {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        &self.data[start * self.dimension..end * self.dimension]
    }

    /// The chosen vectors, in the order of `indices`; indices past the end are left out.
    #[must_use]
    pub fn gather(&self, indices: &[usize]) -> Self {
        let mut data = Vec::with_capacity(indices.len() * self.dimension);
        for &index in indices {
            data.extend_from_slice(self.rows(index..index.saturating_add(1)));
        }
        Self {
            data,
            dimension: self.dimension,
        }
    }

    /// Writes all numbers, little-endian.
    ///
    /// # Errors
    /// Whatever `file` reports.
    pub(crate) fn write(&self, file: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(BLOCK);
        for block in self.data.chunks(BLOCK / size_of::<f32>()) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|number| number.to_le_bytes()));
            file.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Reads `count` vectors as [`Embeddings::write`] wrote them. A large set fills gigabytes: they
    /// are held once, and not before they are there.
    ///
    /// # Errors
    /// Whatever `file` reports; [`io::ErrorKind::OutOfMemory`] when so many do not fit,
    /// [`io::ErrorKind::InvalidData`] when there can be no such vectors.
    pub(crate) fn read(file: &mut dyn Read, count: usize, dimension: usize) -> io::Result<Self> {
        let len = count.checked_mul(dimension);
        let len = len.ok_or(io::ErrorKind::InvalidData)?;
        let mut data = Vec::new();
        data.try_reserve_exact(len)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; BLOCK];
        while data.len() < len {
            let left = (len - data.len()).saturating_mul(size_of::<f32>());
            let block = bytes.get_mut(..left.min(BLOCK)).unwrap_or_default();
            file.read_exact(block)?;
            let numbers = block.as_chunks().0.iter();
            data.extend(numbers.map(|number| f32::from_le_bytes(*number)));
        }
        Ok(Self::new(data, dimension).ok_or(io::ErrorKind::InvalidData)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        // Not a multiple of what is read at a time.
        let numbers = (0..3 * (BLOCK / 8 + 1)).map(|i| i as f32 - 0.5).collect();
        let embeddings = Embeddings::new(numbers, 3).unwrap();
        let mut stored = Vec::new();
        embeddings.write(&mut stored).unwrap();
        let count = embeddings.len();
        let read = |from: &[u8], count| Embeddings::read(&mut &from[..], count, 3);
        assert!(read(&stored, count).unwrap() == embeddings);
        let kind = |found: io::Result<Embeddings>| found.err().map(|error| error.kind());
        let short = read(&stored, count + 1);
        assert_eq!(kind(short), Some(io::ErrorKind::UnexpectedEof));
        let endless = read(&stored, usize::MAX / 16);
        assert_eq!(kind(endless), Some(io::ErrorKind::OutOfMemory));
        let impossible = read(&stored, usize::MAX);
        assert_eq!(kind(impossible), Some(io::ErrorKind::InvalidData));
    }
}
