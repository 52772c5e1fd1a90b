//! Self-test of a GPU before it is used.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::attention::attention;
use super::conv2d::Conv2d;
use super::group_norm::GroupNorm;
use super::shapes::Conv2dShape;

/// Runs one convolution, group norm and attention on `device`, in all types that networks use
/// there, and compares with the results of the CPU. That finds a driver that is too old for the
/// kernels, a GPU that lacks their instructions or an incomplete library before any privacy budget
/// is charged.
///
/// # Errors
/// Errors of candle; results that differ from the CPU's.
pub fn self_test(device: &Device) -> Result<()> {
    let expected = layer_outputs(&Device::Cpu, DType::F32)?;
    let types: &[(DType, f32)] = if device.is_cuda() {
        &[(DType::F32, TOLERANCE), (DType::BF16, 8.0 * TOLERANCE)]
    } else {
        &[(DType::F32, TOLERANCE)]
    };
    for &(dtype, tolerance) in types {
        let found = layer_outputs(device, dtype)?;
        let wrong = found.iter().zip(&expected).find(|(found, expected)| {
            let off = (**found - **expected).abs();
            off.is_nan() || off > tolerance
        });
        if let Some((found, expected)) = wrong {
            bail!("self-test failed: the result is {found} in {dtype:?}, {expected} on the CPU");
        }
    }
    Ok(())
}

/// Allowed error of results with 11 bits of precision: a GPU may compute `f32` products in TF32.
/// bf16 has 8 bits. A wrong kernel is off by about 1.
const TOLERANCE: f32 = 0.01;

/// Returns the results of a few layers on synthetic numbers, all of magnitude about 1.
fn layer_outputs(device: &Device, dtype: DType) -> Result<Vec<f32>> {
    let synthetic = |shape: &[usize], step: usize| {
        let count: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..count)
            .map(|index| (index * step % 17) as f32 / 8.0 - 1.0)
            .collect();
        Tensor::from_vec(numbers, shape, device)?.to_dtype(dtype)
    };
    const CHANNELS: usize = 8;
    let shape = Conv2dShape::same(CHANNELS, CHANNELS, 3);
    let weight = (synthetic(&[CHANNELS, CHANNELS, 3, 3], 5)? / 4.0)?;
    let conv = Conv2d::new(shape, weight, Some(synthetic(&[CHANNELS], 3)?))?;
    let weights = (synthetic(&[CHANNELS], 7)?, synthetic(&[CHANNELS], 11)?);
    let norm = GroupNorm::new(2, 1e-5, weights.0, weights.1)?;
    let x = synthetic(&[2, CHANNELS, 4, 4], 13)?;
    let maps = conv.forward_add(&norm.forward_silu(&x)?, &x)?;
    let heads = x.reshape((2, 2, CHANNELS / 2, 16))?;
    let mixed = attention(&heads, &heads, &heads, 0.25)?;
    let all = Tensor::cat(&[maps.flatten_all()?, mixed.flatten_all()?], 0)?;
    all.to_dtype(DType::F32)?.to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::composed;

    #[test]
    fn a_working_device_passes() {
        self_test(&Device::Cpu).unwrap();
        composed(|| self_test(&Device::Cpu)).unwrap();
        // The results can tell right from wrong: they differ, and none is far from 1.
        let numbers = layer_outputs(&Device::Cpu, DType::F32).unwrap();
        let spread = numbers
            .iter()
            .fold(0f32, |most, number| most.max(number.abs()));
        assert!((0.5..8.0).contains(&spread), "{spread}");
    }

    /// f16 has 11 bits in all numbers; TF32 has them in the factors only.
    #[test]
    fn a_device_that_rounds_passes() {
        let expected = layer_outputs(&Device::Cpu, DType::F32).unwrap();
        let found = composed(|| layer_outputs(&Device::Cpu, DType::F16)).unwrap();
        let off = |(found, expected): (&f32, &f32)| (found - expected).abs();
        let most = found.iter().zip(&expected).map(off).fold(0.0, f32::max);
        assert!(most > 0.0 && most < TOLERANCE, "{most}");
    }
}
