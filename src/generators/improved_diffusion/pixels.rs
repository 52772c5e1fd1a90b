//! Conversion between 8-bit images and the network's range [−1, 1], with DPSDA's rounding.

use candle_core::{DType, Device, Result, Tensor};

use crate::generators::GeneratorError;
use crate::images::ImageBatch;

/// Returns `x / 127.5 − 1` of every byte: `float32 [images, 3, height, width]` on `device`.
///
/// # Errors
/// candle's error if the device has no memory.
pub fn to_signed(images: &ImageBatch, device: &Device) -> Result<Tensor> {
    let (height, width) = (images.height(), images.width());
    let mut values = Vec::with_capacity(images.data().len());
    for image in images.iter() {
        for channel in 0..3 {
            let plane = image.iter().skip(channel).step_by(3);
            values.extend(plane.map(|&byte| f32::from(byte) / 127.5 - 1.0));
        }
    }
    Tensor::from_vec(values, (images.len(), 3, height, width), device)
}

/// Returns `round(clip((x + 1) · 127.5, 0, 255))` of every value, with ties to even; `samples` is
/// `float32 [images, 3, height, width]`.
///
/// # Errors
/// [`GeneratorError::Network`] if a value is NaN: the network overflowed.
pub fn to_bytes(samples: &Tensor) -> std::result::Result<ImageBatch, GeneratorError> {
    let (count, channels, height, width) = samples.dims4()?;
    if !samples.device().is_cpu()
        && let Some(bytes) = bytes_on_device(&((samples + 1.0)? * 127.5)?)?
    {
        return Ok(ImageBatch::new(bytes, count, height, width)?);
    }
    let values: Vec<f32> = samples.flatten_all()?.to_vec1()?;
    let image_len = channels * height * width;
    let mut bytes = Vec::with_capacity(values.len());
    for (index, image) in values.chunks_exact(image_len.max(1)).enumerate() {
        if image.iter().any(|value| value.is_nan()) {
            let message = format!("image {index} of the batch has NaN values");
            return Err(candle_core::Error::Msg(message).into());
        }
        let plane = height * width;
        for pixel in 0..plane {
            let channels = image.iter().skip(pixel).step_by(plane);
            bytes.extend(channels.map(|&value| byte(value)));
        }
    }
    Ok(ImageBatch::new(bytes, count, height, width)?)
}

/// 2²³: float32 numbers from here on are integers, so adding and subtracting it rounds a small
/// positive number to the nearest integer, with ties to even.
const ROUNDING_OFFSET: f64 = 8_388_608.0;

/// Returns `round(clip(levels, 0, 255))`, with ties to even, of `float32 [images, 3, height,
/// width]` in the order of [`ImageBatch`]; `None` if a level is NaN. The device of `levels`
/// rounds, so that bytes are transferred instead of floats.
///
/// # Errors
/// candle's errors.
pub(in crate::generators) fn bytes_on_device(levels: &Tensor) -> Result<Option<Vec<u8>>> {
    let nans = levels.ne(levels)?.to_dtype(DType::F32)?.sum_all()?;
    if nans.to_scalar::<f32>()? > 0.0 {
        return Ok(None);
    }
    // Separate operators, each rounded to float32: a fused one would skip the first rounding.
    let rounded = ((levels.clamp(0f32, 255f32)? + ROUNDING_OFFSET)? - ROUNDING_OFFSET)?;
    let bytes = rounded
        .permute((0, 2, 3, 1))?
        .contiguous()?
        .to_dtype(DType::U8)?;
    bytes.flatten_all()?.to_vec1().map(Some)
}

fn byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_round_trip() {
        let bytes: Vec<u8> = (0..=255).chain(0..32).collect();
        let images = ImageBatch::new(bytes, 2, 6, 8).unwrap();
        let signed = to_signed(&images, &Device::Cpu).unwrap();
        assert_eq!(signed.dims(), [2, 3, 6, 8]);
        assert!(to_bytes(&signed).unwrap() == images);
        // Red of the second pixel is byte 3.
        let red: f32 = signed
            .get(0)
            .unwrap()
            .get(0)
            .unwrap()
            .get(0)
            .unwrap()
            .get(1)
            .unwrap()
            .to_scalar()
            .unwrap();
        assert_eq!(red, 3.0 / 127.5 - 1.0);
    }

    #[test]
    fn ties_round_to_even_and_values_are_clipped() {
        let mut ties = 0;
        for below in 0..255u8 {
            let middle = f32::from(below) + 0.5;
            let value = middle / 127.5 - 1.0;
            // float32 rounding moves most of the values away from the tie.
            if (value + 1.0) * 127.5 == middle {
                ties += 1;
                assert_eq!(byte(value), below + below % 2);
            }
        }
        assert!(ties > 20, "{ties}");
        assert_eq!((byte(-7.0), byte(7.0)), (0, 255));
        assert_eq!((byte(f32::NEG_INFINITY), byte(f32::INFINITY)), (0, 255));
    }

    #[test]
    fn a_device_rounds_as_the_host_does() {
        let mut values: Vec<f32> = (0..255u8)
            .map(|below| (f32::from(below) + 0.5) / 127.5 - 1.0)
            .collect();
        values.extend([
            -7.0,
            7.0,
            f32::NEG_INFINITY,
            f32::INFINITY,
            -0.0,
            1e-9,
            -1.0,
        ]);
        values.extend((0..122).map(|i| (i as f32 * 0.37).sin() * 1.1));
        let samples = Tensor::from_slice(&values, (2, 3, 8, 8), &Device::Cpu).unwrap();
        let expected = to_bytes(&samples).unwrap();
        let levels = ((&samples + 1.0).unwrap() * 127.5).unwrap();
        assert_eq!(bytes_on_device(&levels).unwrap().unwrap(), expected.data());
        let overflowed = Tensor::full(f32::NAN, (1, 3, 2, 2), &Device::Cpu).unwrap();
        assert!(bytes_on_device(&overflowed).unwrap().is_none());
    }

    #[test]
    fn a_network_that_overflowed_is_an_error() {
        let samples = Tensor::full(f32::NAN, (1, 3, 2, 2), &Device::Cpu).unwrap();
        assert!(to_bytes(&samples).is_err());
    }
}
