//! Files to pixels and back.

use super::error::ServiceError;
use crate::images::{Filter, ImageBatch, Resampler, decode, png};

/// Sizes of a run's images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides {
    /// What is asked for.
    pub(super) asked: usize,
    /// What images are brought to.
    pub(super) wanted: usize,
}

impl Sides {
    /// Bytes that a file of such an image can have at most: uncompressed RGBA of 16 bits, and metadata.
    pub(super) fn max_file(self) -> u64 {
        (1 << 20) + 8 * (self.asked * self.asked) as u64
    }

    /// A file that the server made, as `[1, wanted, wanted, 3]`. Shrunk as Pillow shrinks (bicubic).
    ///
    /// # Errors
    /// What is wrong with it, in words that hold none of its bytes.
    pub(super) fn open(self, file: &[u8]) -> Result<ImageBatch, String> {
        let image = decode(file).map_err(|error| format!("an image is {error}"))?;
        let Self { asked, wanted } = self;
        if (image.height, image.width) != (asked, asked) {
            return Err(format!(
                "an image of {}x{} came where {asked}x{asked} was asked for",
                image.width, image.height
            ));
        }
        let image = ImageBatch::new(image.pixels, 1, asked, asked).map_err(|e| e.to_string())?;
        if asked == wanted {
            return Ok(image);
        }
        Resampler::new(Filter::Bicubic, (asked, asked), (wanted, wanted))
            .and_then(|resampler| resampler.batch_bytes(&image))
            .map_err(|error| error.to_string())
    }
}

/// The PNG to be sent for an image, as it is: the protocol takes any square one below `limit` bytes.
///
/// # Errors
/// [`ServiceError::Upload`] for a larger one, [`ServiceError::Image`].
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

    const SIDES: Sides = Sides {
        asked: 4,
        wanted: 2,
    };

    #[test]
    fn a_picture_is_checked_then_shrunk() {
        let image = ImageBatch::new(vec![90; 48], 1, 4, 4).unwrap();
        let file = png(&image).unwrap();
        let small = SIDES.open(&file).unwrap();
        assert_eq!((small.len(), small.height(), small.width()), (1, 2, 2));
        assert!(small.data().iter().all(|byte| *byte == 90));
        let other = ImageBatch::new(vec![0; 12], 1, 2, 2).unwrap();
        let error = SIDES.open(&png(&other).unwrap()).err().unwrap();
        assert!(error.contains("2x2 came where 4x4"), "{error}");
        assert!(SIDES.open(&file[..file.len() / 2]).is_err());
        assert!(SIDES.open(b"<html>").is_err());
        assert!(upload(&image, file.len() + 1).is_ok());
        assert!(upload(&image, file.len()).is_err());
    }
}
