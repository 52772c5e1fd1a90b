//! Conversion of received files to images and of images to uploads.

use super::error::ServiceError;
use crate::images::{DecodeOptions, Filter, ImageBatch, ImageSize, Resampler, decode, png};

/// Sizes of the images of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Size of the requested images.
    pub(super) requested: ImageSize,
    /// Size to which they are resized.
    pub(super) resized: ImageSize,
}

impl Sizes {
    /// Returns the maximum size of a received file in bytes: uncompressed 16-bit RGBA and 1 MiB of
    /// metadata.
    pub(super) fn max_file(self) -> u64 {
        (1 << 20) + 8 * (self.requested.height * self.requested.width) as u64
    }

    /// Decodes a received file to `uint8 [1, height, width, 3]` of the resized images, resampled by
    /// Pillow's bicubic filter.
    ///
    /// # Errors
    /// A description of the problem that contains no bytes of the file.
    pub(super) fn open(self, file: &[u8]) -> Result<ImageBatch, String> {
        let image = decode(file, &DecodeOptions::default())
            .map_err(|error| format!("an image is {error}"))?
            .image;
        let Self { requested, resized } = self;
        if (image.height, image.width) != requested.pair() {
            return Err(format!(
                "an image has {}x{} pixels, expected {}x{}",
                image.width, image.height, requested.width, requested.height
            ));
        }
        let image = ImageBatch::new(image.pixels, 1, requested.height, requested.width)
            .map_err(|error| error.to_string())?;
        if requested == resized {
            return Ok(image);
        }
        Resampler::new(Filter::Bicubic, requested.pair(), resized.pair())
            .and_then(|resampler| resampler.batch_bytes(&image))
            .map_err(|error| error.to_string())
    }
}

/// Encodes an image as PNG. The protocol accepts any image below `limit` bytes.
///
/// # Errors
/// [`ServiceError::Upload`] for a larger file, [`ServiceError::Image`].
pub(super) fn upload(image: &ImageBatch, limit: usize) -> Result<Vec<u8>, ServiceError> {
    let bytes = png(image).map_err(|error| ServiceError::Image(error.to_string()))?;
    if bytes.len() >= limit {
        return Err(ServiceError::Upload {
            bytes: bytes.len(),
            limit,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        requested: ImageSize::square(4),
        resized: ImageSize::square(2),
    };

    #[test]
    fn an_image_is_checked_then_resized() {
        let image = ImageBatch::new(vec![90; 48], 1, 4, 4).unwrap();
        let file = png(&image).unwrap();
        let small = SIZES.open(&file).unwrap();
        assert_eq!((small.len(), small.height(), small.width()), (1, 2, 2));
        assert!(small.data().iter().all(|byte| *byte == 90));
        let other = ImageBatch::new(vec![0; 12], 1, 2, 2).unwrap();
        let error = SIZES.open(&png(&other).unwrap()).err().unwrap();
        assert!(error.contains("2x2 pixels, expected 4x4"), "{error}");
        assert!(SIZES.open(&file[..file.len() / 2]).is_err());
        assert!(SIZES.open(b"<html>").is_err());
        let wide = Sizes {
            requested: ImageSize::from((2, 4)),
            resized: ImageSize::from((1, 2)),
        };
        let image = ImageBatch::new(vec![90; 24], 1, 2, 4).unwrap();
        let file = png(&image).unwrap();
        let small = wide.open(&file).unwrap();
        assert_eq!((small.height(), small.width()), (1, 2));
        assert!(upload(&image, file.len() + 1).is_ok());
        assert!(upload(&image, file.len()).is_err());
    }
}
