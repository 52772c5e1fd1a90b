//! Synthetic inputs and weights. Their values do not change the time, as long as none is subnormal.

use std::sync::OnceLock;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use dpsyn::internals::cli::DeviceChoice;

/// Returns numbers in `[-1, 1)`, always the same.
pub fn numbers(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Returns the device of layers and networks: `DPSYN_DEVICE` names it as `--device` does; the CPU
/// by default.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| match std::env::var("DPSYN_DEVICE") {
        Ok(name) => name.parse::<DeviceChoice>().unwrap().open().unwrap().first,
        Err(_) => Device::Cpu,
    })
}

/// Returns a tensor of [`numbers`] times `scale`.
pub fn tensor(shape: impl Into<Shape>, scale: f32) -> Tensor {
    let shape = shape.into();
    let mut data = numbers(shape.elem_count());
    data.iter_mut().for_each(|value| *value *= scale);
    Tensor::from_vec(data, shape, device()).unwrap()
}

/// Returns a source of weights of any name and shape that keep activations near 1.
pub fn any(dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Any), dtype, device().clone())
}

struct Any;

impl SimpleBackend for Any {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        _: &Device,
    ) -> Result<Tensor> {
        let fan_in: usize = shape.dims().iter().skip(1).product();
        let numbers = if shape.rank() > 1 {
            tensor(shape, (3.0 / fan_in as f32).sqrt())
        } else if name.ends_with("weight") || name.ends_with("running_var") {
            (tensor(shape, 0.1) + 1.0)?
        } else {
            tensor(shape, 0.1)
        };
        numbers.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("{name} has no shape: synthetic weights need one")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
