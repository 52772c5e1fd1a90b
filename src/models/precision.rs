//! The number type that a network computes in.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::kernels;
use crate::sections::InvalidKey;

/// The number type that a network computes in. Everything around the network stays in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16, on a GPU or on a CPU with AVX512_BF16: the range of `f32`, 8 bits of precision.
    Bf16,
    /// IEEE half precision, on a GPU: 11 bits of precision, but nothing above 65,504.
    F16,
}

impl Precision {
    /// As configurations and tables of figures have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The type as candle names it, for a network on `device`.
    ///
    /// # Errors
    /// Names `dtype` and says what is missing: a CPU has no `f16`, and `bf16` only with
    /// AVX512_BF16, which `DPSYN_CPU` must not turn off.
    pub fn on(self, device: &Device) -> Result<DType, InvalidKey> {
        let refused = |message: String| InvalidKey::new("dtype", message);
        match self {
            Self::F32 => Ok(DType::F32),
            Self::Bf16 if device.is_cpu() => match kernels::check_bf16_on_cpu() {
                Ok(()) => Ok(DType::BF16),
                Err(error) => Err(refused(format!("{error}: expected \"f32\""))),
            },
            Self::F16 if device.is_cpu() => Err(refused(
                "f16 needs a GPU: expected \"f32\" or, with AVX512_BF16, \"bf16\" on a CPU"
                    .to_owned(),
            )),
            Self::Bf16 => Ok(DType::BF16),
            Self::F16 => Ok(DType::F16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cpu_lacks_is_refused_by_name() {
        assert_eq!(Precision::F32.on(&Device::Cpu).unwrap(), DType::F32);
        let error = Precision::F16.on(&Device::Cpu).unwrap_err().to_string();
        assert!(error.starts_with("dtype: f16"), "{error}");
        match (
            Precision::Bf16.on(&Device::Cpu),
            kernels::check_bf16_on_cpu(),
        ) {
            (Ok(dtype), Ok(())) => assert_eq!(dtype, DType::BF16),
            (Err(error), Err(_)) => {
                let error = error.to_string();
                assert!(
                    error.starts_with("dtype: ") && error.contains("AVX512_BF16"),
                    "{error}"
                );
            }
            (found, can) => panic!("{found:?} although {can:?}"),
        }
    }
}
