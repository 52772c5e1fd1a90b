//! Resizing and cropping like torchvision's `T.Resize(size)` and `T.CenterCrop(size)` on 8-bit RGB.

use super::decode::{MAX_PIXELS, Rgb};
use super::filter::Filter;
use super::resize::{Resampler, ResizeError};
use super::size::ImageSize;

/// Returns rows and columns of an image that is scaled, with its aspect ratio, to cover `size`: one
/// side has its length, the other is at least as long, truncated. For a square, the shorter side is
/// scaled to it.
#[must_use]
pub fn covering(height: usize, width: usize, size: ImageSize) -> (usize, usize) {
    let scaled = |side: usize, to: usize, from: usize| {
        let scaled = to as u128 * side as u128 / from.max(1) as u128;
        usize::try_from(scaled).unwrap_or(usize::MAX)
    };
    if width as u128 * size.height as u128 <= height as u128 * size.width as u128 {
        (scaled(height, size.width, width), size.width)
    } else {
        (size.height, scaled(width, size.height, height))
    }
}

/// Scales an image to cover `size`; for a square, this is `T.Resize(size)`. Returns an image of
/// that size unchanged.
///
/// # Errors
/// [`ResizeError::Size`] if the result is empty or above [`MAX_PIXELS`].
pub fn resize_to_cover(image: Rgb, size: ImageSize, filter: Filter) -> Result<Rgb, ResizeError> {
    let (height, width) = covering(image.height, image.width, size);
    if (height, width) == (image.height, image.width) {
        return Ok(image);
    }
    if height as u128 * width as u128 > u128::from(MAX_PIXELS) {
        return Err(ResizeError::Size {
            in_height: image.height,
            in_width: image.width,
            out_height: height,
            out_width: width,
        });
    }
    let resampler = Resampler::new(filter, (image.height, image.width), (height, width))?;
    Ok(Rgb {
        pixels: resampler.bytes(&image.pixels, 3)?,
        height,
        width,
    })
}

/// Crops the center like `T.CenterCrop(size)`; returns `[height, width, 3]` of `size`. The offset
/// is half of the difference, rounded half to even.
///
/// # Errors
/// [`ResizeError::Size`] if a side is shorter than that of `size`, or one of `size` is 0.
pub fn center_crop(image: &Rgb, size: ImageSize) -> Result<Vec<u8>, ResizeError> {
    let is_empty = !size.all(|side| side > 0);
    if is_empty || image.height < size.height || image.width < size.width {
        return Err(ResizeError::Size {
            in_height: image.height,
            in_width: image.width,
            out_height: size.height,
            out_width: size.width,
        });
    }
    let offset = |left_over: usize| {
        let half = left_over / 2;
        half + (left_over % 2) * (half % 2)
    };
    let top = offset(image.height - size.height);
    let left = offset(image.width - size.width);
    let mut crop = Vec::with_capacity(size.height * size.width * 3);
    for row in image
        .pixels
        .chunks_exact(image.width * 3)
        .skip(top)
        .take(size.height)
    {
        crop.extend_from_slice(&row[left * 3..(left + size.width) * 3]);
    }
    Ok(crop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_is_truncated() {
        let square = ImageSize::square(32);
        assert_eq!(covering(70, 100, square), (32, 45));
        assert_eq!(covering(90, 61, square), (47, 32));
        assert_eq!(covering(64, 64, square), (32, 32));
        // Height and width that differ: one fits, the other covers.
        let wide = ImageSize::from((20, 40));
        assert_eq!(covering(30, 90, wide), (20, 60));
        assert_eq!(covering(90, 30, wide), (120, 40));
        assert_eq!(covering(50, 100, wide), (20, 40));
    }

    #[test]
    fn a_crop_has_the_height_and_width_of_the_size() {
        let image = Rgb {
            pixels: (0..6 * 4).flat_map(|index| [index as u8; 3]).collect(),
            height: 6,
            width: 4,
        };
        let crop = center_crop(&image, ImageSize::from((2, 3))).unwrap();
        // Rows 2 and 3; the spare column is at the right.
        let values: Vec<u8> = crop.chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(values, [8, 9, 10, 12, 13, 14]);
    }

    #[test]
    fn the_offset_rounds_half_to_even() {
        // Rows and columns hold their own number.
        for (side, first) in [(32, 0), (33, 0), (35, 2), (37, 2), (39, 4), (36, 2)] {
            let image = Rgb {
                pixels: (0..side).flat_map(|y| vec![y as u8; 32 * 3]).collect(),
                height: side,
                width: 32,
            };
            let crop = center_crop(&image, 32.into()).unwrap();
            assert_eq!(crop.len(), 32 * 32 * 3);
            assert_eq!(crop[0], first, "{side}");
        }
    }

    #[test]
    fn an_extreme_strip_is_refused_not_allocated() {
        let strip = Rgb {
            pixels: vec![0; 65_535 * 3],
            height: 1,
            width: 65_535,
        };
        assert!(resize_to_cover(strip, 512.into(), Filter::Bilinear).is_err());
    }

    #[test]
    fn a_small_image_is_not_cropped() {
        let image = Rgb {
            pixels: vec![0; 12],
            height: 2,
            width: 2,
        };
        assert!(center_crop(&image, 3.into()).is_err());
        assert!(center_crop(&image, 0.into()).is_err());
    }
}
