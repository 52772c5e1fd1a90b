//! Arranges images in a grid and writes PNG files with the `image` crate.

use std::io;
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use thiserror::Error;

use super::batch::{BatchError, ImageBatch};

/// A picture could not be written.
#[derive(Debug, Error)]
pub enum PictureError {
    /// The batch has not exactly one image, or the image is too large for PNG.
    #[error("{count} images of {height}x{width} cannot be one PNG")]
    Shape {
        /// Number of images.
        count: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The encoder failed.
    #[error("cannot encode a PNG: {0}")]
    Encode(#[from] image::ImageError),
    /// The file could not be written.
    #[error("cannot write the PNG: {0}")]
    Io(#[from] io::Error),
}

/// Arranges images row by row with `columns` per row and `padding` black pixels around each;
/// returns a batch of one image. With fewer images than columns, the picture is narrower.
///
/// # Errors
/// [`BatchError`] if the picture is too large to address.
pub fn grid(images: &ImageBatch, columns: usize, padding: usize) -> Result<ImageBatch, BatchError> {
    let (height, width) = (images.height(), images.width());
    let columns = columns.clamp(1, images.len().max(1));
    let rows = images.len().div_ceil(columns);
    let side = |cells: usize, cell: usize| {
        cells
            .checked_mul(cell.checked_add(padding)?)?
            .checked_add(padding)
    };
    let size = side(rows, height).zip(side(columns, width));
    let len = size.and_then(|(height, width)| height.checked_mul(width)?.checked_mul(3));
    let (Some((out_height, out_width)), Some(len)) = (size, len) else {
        return Err(BatchError::Length {
            len: images.data().len(),
            count: images.len(),
            height,
            width,
        });
    };
    let mut out = vec![0u8; len];
    if width > 0 {
        for (index, image) in images.iter().enumerate() {
            let top = padding + index / columns * (height + padding);
            let left = padding + index % columns * (width + padding);
            for (y, row) in image.chunks_exact(width * 3).enumerate() {
                let start = ((top + y) * out_width + left) * 3;
                out[start..start + row.len()].copy_from_slice(row);
            }
        }
    }
    ImageBatch::new(out, 1, out_height, out_width)
}

/// Encodes a batch of one image as PNG.
///
/// # Errors
/// [`PictureError::Shape`] or [`PictureError::Encode`].
pub fn png(picture: &ImageBatch) -> Result<Vec<u8>, PictureError> {
    let shape = || PictureError::Shape {
        count: picture.len(),
        height: picture.height(),
        width: picture.width(),
    };
    if picture.len() != 1 || picture.data().is_empty() {
        return Err(shape());
    }
    let width = u32::try_from(picture.width()).map_err(|_| shape())?;
    let height = u32::try_from(picture.height()).map_err(|_| shape())?;
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(
        picture.data(),
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

/// Writes a batch of one image as a PNG file atomically.
///
/// # Errors
/// [`PictureError`].
pub fn write_png(path: &Path, picture: &ImageBatch) -> Result<(), PictureError> {
    Ok(crate::atomic::write_elsewhere(path, &png(picture)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::decode::{DecodeOptions, decode};
    use super::*;

    fn flat(values: &[u8]) -> ImageBatch {
        let data = values.iter().flat_map(|value| [*value; 2 * 3]).collect();
        ImageBatch::new(data, values.len(), 1, 2).unwrap()
    }

    #[test]
    fn images_stand_row_by_row_with_black_between() {
        let picture = grid(&flat(&[1, 2, 3]), 2, 1).unwrap();
        assert_eq!((picture.height(), picture.width()), (5, 7));
        let red: Vec<u8> = picture.data().iter().step_by(3).copied().collect();
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 0, 0, 0, 0,
            0, 1, 1, 0, 2, 2, 0,
            0, 0, 0, 0, 0, 0, 0,
            0, 3, 3, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(red, expected);
    }

    #[test]
    fn a_png_comes_back() {
        let picture = grid(&flat(&[10, 20, 30, 40]), 9, 0).unwrap();
        assert_eq!((picture.height(), picture.width()), (1, 8));
        let decoded = decode(&png(&picture).unwrap(), &DecodeOptions::default())
            .unwrap()
            .image;
        assert_eq!(decoded.pixels, picture.data());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        write_png(&path, &picture).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), png(&picture).unwrap());
    }

    #[test]
    fn only_one_image_is_a_png() {
        assert!(png(&flat(&[1, 2])).is_err());
        assert!(png(&ImageBatch::empty(4, 4)).is_err());
        assert!(grid(&ImageBatch::empty(4, 4), 3, 2).is_ok());
        assert!(grid(&flat(&[1]), 1, usize::MAX).is_err());
    }
}
