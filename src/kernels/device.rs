//! Devices for those who use them beside others, and a first look at whether they work.

use candle_core::{DType, Device, DeviceLocation, Result, Tensor, bail};

use super::{Conv2d, Conv2dShape, GroupNorm, attention};

/// The device `device` once more, for work beside what is done on `device` itself, on another thread.
///
/// Of a GPU of NVIDIA's, this has handles of its own to the libraries: cuBLAS keeps room for intermediate results with
/// a handle, which two threads at a time would overwrite. Tensors of the two do not mix.
///
/// # Errors
/// candle's, when the device cannot be opened again.
pub fn reopen_device(device: &Device) -> Result<Device> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => Device::new_cuda(gpu_id),
        DeviceLocation::Cpu | DeviceLocation::Metal { .. } => Ok(device.clone()),
    }
}

/// Runs one convolution, group norm and attention on `device`, in all types that networks use there, and compares with the
/// CPU's results: a driver that is too old for the kernels, a card that lacks their instructions or a library that is not
/// whole is found before anything is spent.
///
/// # Errors
/// candle's, and results that are wrong.
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
            bail!("it computes wrongly: {found} in {dtype:?} where the CPU finds {expected}");
        }
    }
    Ok(())
}

/// What a result of 11 bits may be off by, as a GPU has them where it is asked for `f32` (TF32). bf16 has 8. What is really
/// wrong is off by about 1.
const TOLERANCE: f32 = 0.01;

/// What a few layers make of made-up numbers: all of a size of about 1.
fn layer_outputs(device: &Device, dtype: DType) -> Result<Vec<f32>> {
    let made_up = |shape: &[usize], step: usize| {
        let count: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..count)
            .map(|index| (index * step % 17) as f32 / 8.0 - 1.0)
            .collect();
        Tensor::from_vec(numbers, shape, device)?.to_dtype(dtype)
    };
    const CHANNELS: usize = 8;
    let shape = Conv2dShape::same(CHANNELS, CHANNELS, 3);
    let weight = (made_up(&[CHANNELS, CHANNELS, 3, 3], 5)? / 4.0)?;
    let conv = Conv2d::new(shape, weight, Some(made_up(&[CHANNELS], 3)?))?;
    let weights = (made_up(&[CHANNELS], 7)?, made_up(&[CHANNELS], 11)?);
    let norm = GroupNorm::new(2, 1e-5, weights.0, weights.1)?;
    let x = made_up(&[2, CHANNELS, 4, 4], 13)?;
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
    fn a_device_that_works_passes() {
        self_test(&Device::Cpu).unwrap();
        composed(|| self_test(&Device::Cpu)).unwrap();
        // The numbers say something: they differ, and none is far from 1.
        let numbers = layer_outputs(&Device::Cpu, DType::F32).unwrap();
        let spread = numbers
            .iter()
            .fold(0f32, |most, number| most.max(number.abs()));
        assert!((0.5..8.0).contains(&spread), "{spread}");
    }

    /// All numbers in 11 bits, where TF32 has only the factors in so many.
    #[test]
    fn a_device_that_only_rounds_passes() {
        let expected = layer_outputs(&Device::Cpu, DType::F32).unwrap();
        let found = composed(|| layer_outputs(&Device::Cpu, DType::F16)).unwrap();
        let off = |(found, expected): (&f32, &f32)| (found - expected).abs();
        let most = found.iter().zip(&expected).map(off).fold(0.0, f32::max);
        assert!(most > 0.0 && most < TOLERANCE, "{most}");
    }

    #[test]
    fn a_cpu_stays_itself() {
        assert!(reopen_device(&Device::Cpu).unwrap().is_cpu());
    }
}
