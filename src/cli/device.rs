//! Choosing where to compute.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use thiserror::Error;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this binary can use one that is there, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

/// Why a device cannot be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// This binary was built without the backend.
    #[error("this binary was built without {name} support (cargo feature `{feature}`)")]
    NotBuilt {
        /// The backend.
        name: &'static str,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// The backend is there but the device is not.
    #[error("{device} cannot be used: {message}")]
    Missing {
        /// What was asked for.
        device: DeviceChoice,
        /// Why.
        message: String,
    },
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda, cuda:N or metal".to_owned()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device. The text says what was chosen and, for `auto` on the CPU, why.
    ///
    /// # Errors
    /// [`DeviceError`] when a device that was named cannot be used.
    pub fn open(self) -> Result<(Device, String), DeviceError> {
        match self {
            Self::Cpu => Ok((Device::Cpu, "cpu".to_owned())),
            Self::Cuda(number) => cuda(number).map(|device| (device, self.to_string())),
            Self::Metal => metal().map(|device| (device, self.to_string())),
            Self::Auto => {
                let mut reasons = Vec::new();
                for choice in [Self::Cuda(0), Self::Metal] {
                    match choice.open() {
                        Ok(found) => return Ok(found),
                        Err(DeviceError::NotBuilt { name, .. }) => {
                            reasons.push(format!("built without {name}"));
                        }
                        Err(error) => reasons.push(error.to_string()),
                    }
                }
                Ok((Device::Cpu, format!("cpu ({})", reasons.join(", "))))
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device, DeviceError> {
    Device::new_cuda(number).map_err(|error| DeviceError::Missing {
        device: DeviceChoice::Cuda(number),
        message: error.to_string(),
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt {
        name: "CUDA",
        feature: "cuda",
    })
}

#[cfg(feature = "metal")]
fn metal() -> Result<Device, DeviceError> {
    Device::new_metal(0).map_err(|error| DeviceError::Missing {
        device: DeviceChoice::Metal,
        message: error.to_string(),
    })
}

#[cfg(not(feature = "metal"))]
fn metal() -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt {
        name: "Metal",
        feature: "metal",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for name in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
            assert!(name.parse::<DeviceChoice>().is_err(), "{name}");
        }
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn a_named_device_is_never_replaced() {
        assert!(DeviceChoice::Cuda(0).open().is_err());
        assert!(DeviceChoice::Metal.open().is_err());
        let (device, why) = DeviceChoice::Auto.open().unwrap();
        assert!(
            device.is_cpu() && why.contains("built without CUDA"),
            "{why}"
        );
    }
}
