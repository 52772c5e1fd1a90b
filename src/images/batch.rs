//! A batch of 8-bit RGB images of one size.

use std::ops::Range;

use thiserror::Error;

/// Bytes do not form an [`ImageBatch`].
#[derive(Debug, Error)]
pub enum BatchError {
    /// The number of bytes does not fit the shape.
    #[error("{len} bytes are not {count} images of {height}x{width} with 3 channels")]
    Length {
        /// Number of bytes.
        len: usize,
        /// Expected number of images.
        count: usize,
        /// Rows of one image.
        height: usize,
        /// Columns of one image.
        width: usize,
    },
    /// Batches of different image sizes cannot be joined.
    #[error(
        "images of {found_height}x{found_width} cannot join images of {expected_height}x{expected_width}"
    )]
    Size {
        /// Rows expected.
        expected_height: usize,
        /// Columns expected.
        expected_width: usize,
        /// Rows found.
        found_height: usize,
        /// Columns found.
        found_width: usize,
    },
}

/// Images of one size: `uint8[count, height, width, 3]`, row-major, RGB.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageBatch {
    data: Vec<u8>,
    count: usize,
    height: usize,
    width: usize,
}

impl ImageBatch {
    /// Creates a batch from `data`, `[count, height, width, 3]`.
    ///
    /// # Errors
    /// [`BatchError::Length`] if the number of bytes does not fit the shape.
    pub fn new(
        data: Vec<u8>,
        count: usize,
        height: usize,
        width: usize,
    ) -> Result<Self, BatchError> {
        let expected = count
            .checked_mul(height)
            .and_then(|n| n.checked_mul(width))
            .and_then(|n| n.checked_mul(3));
        if expected != Some(data.len()) {
            return Err(BatchError::Length {
                len: data.len(),
                count,
                height,
                width,
            });
        }
        Ok(Self {
            data,
            count,
            height,
            width,
        })
    }

    /// Creates an empty batch of this image size, for [`ImageBatch::extend`].
    #[must_use]
    pub fn empty(height: usize, width: usize) -> Self {
        Self {
            data: Vec::new(),
            count: 0,
            height,
            width,
        }
    }

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns true if the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the rows of each image.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the columns of each image.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the size of one image in bytes.
    #[must_use]
    pub fn image_len(&self) -> usize {
        self.height * self.width * 3
    }

    /// Returns all bytes, `[count, height, width, 3]`.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the bytes of image `index`, `[height, width, 3]`, or `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let len = self.image_len();
        self.data
            .get(index.checked_mul(len)?..(index + 1).checked_mul(len)?)
    }

    /// Iterates over the images, `[height, width, 3]` each.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        self.data.chunks_exact(self.image_len().max(1))
    }

    /// Copies the images in `range`, clamped to the batch.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.count);
        let start = range.start.min(end);
        let len = self.image_len();
        Self {
            data: self.data[start * len..end * len].to_vec(),
            count: end - start,
            height: self.height,
            width: self.width,
        }
    }

    /// Copies the images at whose index `kept` is true, in order.
    #[must_use]
    pub fn select(&self, kept: &[bool]) -> Self {
        let chosen = self.iter().zip(kept).filter(|(_, kept)| **kept);
        let mut selected = Self::empty(self.height, self.width);
        for (image, _) in chosen {
            selected.data.extend_from_slice(image);
            selected.count += 1;
        }
        selected
    }

    /// Appends the images of `other`.
    ///
    /// # Errors
    /// [`BatchError::Size`] if their size differs.
    pub fn extend(&mut self, other: &ImageBatch) -> Result<(), BatchError> {
        if (other.height, other.width) != (self.height, self.width) {
            return Err(BatchError::Size {
                expected_height: self.height,
                expected_width: self.width,
                found_height: other.height,
                found_width: other.width,
            });
        }
        self.data.extend_from_slice(&other.data);
        self.count += other.count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_must_fit_the_bytes() {
        assert!(ImageBatch::new(vec![0; 24], 2, 2, 2).is_ok());
        assert!(ImageBatch::new(vec![0; 23], 2, 2, 2).is_err());
        assert!(ImageBatch::new(vec![], usize::MAX, 2, 2).is_err());
    }

    #[test]
    fn slices_are_cut_to_what_exists() {
        let batch = ImageBatch::new((0..24).collect(), 2, 2, 2).unwrap();
        assert_eq!(batch.slice(1..9).data(), &batch.data()[12..]);
        assert_eq!(batch.slice(5..9).len(), 0);
        assert_eq!(batch.get(1), Some(&batch.data()[12..]));
        assert_eq!(batch.get(2), None);
    }

    #[test]
    fn selected_images_keep_their_order() {
        let batch = ImageBatch::new((0..36).collect(), 3, 2, 2).unwrap();
        let chosen = batch.select(&[true, false, true]);
        assert_eq!(chosen.len(), 2);
        assert_eq!(chosen.get(1), batch.get(2));
        assert!(batch.select(&[false; 3]) == ImageBatch::empty(2, 2));
    }

    #[test]
    fn only_one_size_joins() {
        let mut batch = ImageBatch::empty(2, 2);
        batch
            .extend(&ImageBatch::new(vec![1; 12], 1, 2, 2).unwrap())
            .unwrap();
        assert_eq!(batch.len(), 1);
        assert!(batch.extend(&ImageBatch::empty(1, 2)).is_err());
    }
}
