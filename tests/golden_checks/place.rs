//! The device on which the networks `unet` and `inception` are checked: `DPSYN_DEVICE` names a
//! device (as `--device` does), `DPSYN_DTYPE` the type of their layers, `f32` or `bf16`. Without
//! them it is the CPU in `f32`, for which the tolerances of the cases are meant.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use dpsyn::internals::cli::DeviceChoice;

use super::Case;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, Clone)]
pub struct Place {
    pub device: Device,
    pub dtype: DType,
}

impl Place {
    pub fn get() -> Result<&'static Self> {
        static PLACE: OnceLock<std::result::Result<Place, String>> = OnceLock::new();
        let place = PLACE.get_or_init(|| Self::chosen().map_err(|error| error.to_string()));
        place.as_ref().map_err(|error| error.as_str().into())
    }

    fn chosen() -> Result<Self> {
        let device = match std::env::var("DPSYN_DEVICE") {
            Ok(name) => name.parse::<DeviceChoice>()?.open()?.first,
            Err(_) => Device::Cpu,
        };
        let dtype = match std::env::var("DPSYN_DTYPE").as_deref() {
            Err(_) | Ok("f32") => DType::F32,
            Ok("bf16") => DType::BF16,
            Ok(other) => return Err(format!("DPSYN_DTYPE is {other}, not f32 or bf16").into()),
        };
        Ok(Self { device, dtype })
    }

    pub fn put(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.to_device(&self.device)?)
    }

    /// The tolerance of a network's result: on the CPU in `f32` what the case says. A GPU
    /// multiplies `f32` with 11 bits where it may (TF32); bf16 has 8, and rounds what passes
    /// between the layers as well. Shares of the largest number.
    pub fn tolerance(&self, case: &Case, tensor: &str, expected: &[f64]) -> f64 {
        let given = case.network_tolerance(tensor, expected);
        let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        match (self.dtype, self.device.is_cpu()) {
            (DType::F32, true) => given,
            (DType::F32, false) => given.max(1e-2 * largest),
            _ => given.max(8e-2 * largest),
        }
    }
}
