//! Resizing and cropping like torchvision's `T.Resize(size)` and `T.CenterCrop(size)` on 8-bit RGB.

use super::decode::{MAX_PIXELS, Rgb};
use super::filter::Filter;
use super::resize::{Resampler, ResizeError};

/// Returns rows and columns after the shorter side is scaled to `size`; the longer side is
/// truncated.
#[must_use]
pub fn shorter_side_to(height: usize, width: usize, size: usize) -> (usize, usize) {
    let longer = |long: usize, short: usize| {
        let scaled = size as u128 * long as u128 / short.max(1) as u128;
        usize::try_from(scaled).unwrap_or(usize::MAX)
    };
    if width <= height {
        (longer(height, width), size)
    } else {
        (size, longer(width, height))
    }
}

/// Scales the shorter side to `size` like `T.Resize(size)`; returns an image of that size
/// unchanged.
///
/// # Errors
/// [`ResizeError::Size`] if the result is empty or above [`MAX_PIXELS`].
pub fn resize_shorter_side(image: Rgb, size: usize, filter: Filter) -> Result<Rgb, ResizeError> {
    let (height, width) = shorter_side_to(image.height, image.width, size);
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

/// Crops the center like `T.CenterCrop(size)`; returns `[size, size, 3]`. The offset is half of the
/// difference, rounded half to even.
///
/// # Errors
/// [`ResizeError::Size`] if a side is shorter than `size` or `size` is 0.
pub fn center_crop(image: &Rgb, size: usize) -> Result<Vec<u8>, ResizeError> {
    if size == 0 || image.height < size || image.width < size {
        return Err(ResizeError::Size {
            in_height: image.height,
            in_width: image.width,
            out_height: size,
            out_width: size,
        });
    }
    let offset = |left_over: usize| {
        let half = left_over / 2;
        half + (left_over % 2) * (half % 2)
    };
    let top = offset(image.height - size);
    let left = offset(image.width - size);
    let mut crop = Vec::with_capacity(size * size * 3);
    for row in image
        .pixels
        .chunks_exact(image.width * 3)
        .skip(top)
        .take(size)
    {
        crop.extend_from_slice(&row[left * 3..(left + size) * 3]);
    }
    Ok(crop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_is_truncated() {
        assert_eq!(shorter_side_to(70, 100, 32), (32, 45));
        assert_eq!(shorter_side_to(90, 61, 32), (47, 32));
        assert_eq!(shorter_side_to(64, 64, 32), (32, 32));
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
            let crop = center_crop(&image, 32).unwrap();
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
        assert!(resize_shorter_side(strip, 512, Filter::Bilinear).is_err());
    }

    #[test]
    fn a_small_image_is_not_cropped() {
        let image = Rgb {
            pixels: vec![0; 12],
            height: 2,
            width: 2,
        };
        assert!(center_crop(&image, 3).is_err());
        assert!(center_crop(&image, 0).is_err());
    }
}
