//! The number type that a network computes in.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::GeneratorError;

/// The number type that a network computes in. Everything around the network stays in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits; the only one on a CPU.
    #[default]
    F32,
    /// bfloat16, on a GPU: the range of `f32`, 8 bits of precision.
    Bf16,
    /// IEEE half precision, on a GPU: 11 bits of precision, but nothing above 65,504.
    F16,
}

impl Precision {
    /// The type as candle names it, for a network on `device`.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] naming `dtype` for half precision on a CPU.
    pub fn on(self, device: &Device) -> Result<DType, GeneratorError> {
        match self {
            Self::F32 => Ok(DType::F32),
            Self::Bf16 | Self::F16 if device.is_cpu() => Err(GeneratorError::Config {
                key: "dtype".to_owned(),
                message: "half precision needs a GPU; expected \"f32\" on a CPU".to_owned(),
            }),
            Self::Bf16 => Ok(DType::BF16),
            Self::F16 => Ok(DType::F16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_refused_on_a_cpu() {
        assert_eq!(Precision::F32.on(&Device::Cpu).unwrap(), DType::F32);
        for half in [Precision::Bf16, Precision::F16] {
            let error = half.on(&Device::Cpu).unwrap_err().to_string();
            assert!(error.starts_with("dtype: "), "{error}");
        }
    }
}
