//! `--device`: the choice of the devices on which networks run.

use std::fmt;
use std::str::FromStr;

use crate::exit_code::{self, ExitCode};
use candle_core::Device;
use thiserror::Error;

/// The value of `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this binary supports one of this machine, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs by their indices: at least one, without repetition.
    Cuda(Vec<usize>),
    /// All NVIDIA GPUs of this machine.
    All,
    /// The GPU of an Apple processor.
    Metal,
}

/// The reason why a device cannot be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// This binary was built without the backend.
    #[error("this binary was built without {name} support (cargo feature `{feature}`)")]
    NotBuilt {
        /// The backend.
        name: &'static str,
        /// The cargo feature that enables it.
        feature: &'static str,
    },
    /// The backend is available, but the device is not.
    #[error("{device} cannot be used: {message}")]
    Missing {
        /// The requested device.
        device: DeviceChoice,
        /// The reason.
        message: String,
    },
}

impl ExitCode for DeviceError {
    fn exit_code(&self) -> u8 {
        exit_code::DEVICE
    }
}

/// Opened devices.
#[derive(Debug)]
pub struct Devices {
    /// The first device, which also performs the work that is not distributed.
    pub first: Device,
    /// The other devices, over which work is distributed.
    pub others: Vec<Device>,
    /// The chosen devices and, if `auto` chose the CPU, the reasons.
    pub chosen: String,
}

impl Devices {
    fn one(first: Device, chosen: String) -> Self {
        Self {
            first,
            others: Vec::new(),
            chosen,
        }
    }

    /// Returns all devices, the first one first.
    pub fn all(&self) -> Vec<Device> {
        std::iter::once(&self.first)
            .chain(&self.others)
            .cloned()
            .collect()
    }
}

const EXPECTED: &str = "expected auto, cpu, cuda, cuda:N, cuda:N,M (several), all or metal";

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(vec![0])),
            "all" => Ok(Self::All),
            "metal" => Ok(Self::Metal),
            _ => {
                let list = text.strip_prefix("cuda:").ok_or(EXPECTED)?;
                let mut numbers = Vec::new();
                for number in list.split(',') {
                    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                    let parsed = number.parse().ok().filter(|_| digits).ok_or(EXPECTED)?;
                    if numbers.contains(&parsed) {
                        return Err(format!("GPU {parsed} is listed twice"));
                    }
                    numbers.push(parsed);
                }
                Ok(Self::Cuda(numbers))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(numbers) => {
                for (index, number) in numbers.iter().enumerate() {
                    write!(f, "{}{number}", if index == 0 { "cuda:" } else { "," })?;
                }
                Ok(())
            }
            Self::All => f.write_str("all"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceChoice {
    /// Opens the devices.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if a named device cannot be used.
    pub fn open(&self) -> Result<Devices, DeviceError> {
        match self {
            Self::Cpu => Ok(Devices::one(Device::Cpu, "cpu".to_owned())),
            Self::Cuda(numbers) => cuda(self, Some(numbers)),
            Self::All => cuda(self, None),
            Self::Metal => metal(self),
            Self::Auto => {
                let mut reasons = Vec::new();
                for choice in [Self::Cuda(vec![0]), Self::Metal] {
                    match choice.open() {
                        Ok(found) => return Ok(found),
                        Err(DeviceError::NotBuilt { name, .. }) => {
                            reasons.push(format!("built without {name}"));
                        }
                        Err(error) => reasons.push(error.to_string()),
                    }
                }
                let chosen = format!("cpu ({})", reasons.join("; "));
                Ok(Devices::one(Device::Cpu, chosen))
            }
        }
    }
}

/// Opens the GPUs with these indices, or all GPUs.
#[cfg(feature = "cuda")]
fn cuda(choice: &DeviceChoice, numbers: Option<&[usize]>) -> Result<Devices, DeviceError> {
    use crate::kernels::cuda::{device_count, missing_libraries, retain_freed_memory};
    use crate::kernels::self_test;
    let refuse = |message: String| DeviceError::Missing {
        device: choice.clone(),
        message,
    };
    let missing = missing_libraries();
    if !missing.is_empty() {
        let names = missing.join(", ");
        return Err(refuse(format!("this machine lacks {names}")));
    }
    if std::env::var_os("NVIDIA_TF32_OVERRIDE").is_some_and(|value| value == "1") {
        let message =
            "NVIDIA_TF32_OVERRIDE=1 rounds products to 11 bits, but votes require f32: unset it";
        return Err(refuse(message.to_owned()));
    }
    let there = device_count().map_err(|error| refuse(error.to_string()))?;
    let every: Vec<usize> = (0..there).collect();
    let numbers = numbers.unwrap_or(&every);
    if let Some(number) = numbers.iter().find(|number| **number >= there) {
        let message = format!("there is no GPU {number}: this machine has {there}, counted from 0");
        return Err(refuse(message));
    }
    let mut open = Vec::new();
    for number in numbers {
        let device = Device::new_cuda(*number).and_then(|device| {
            retain_freed_memory(&device)?;
            self_test(&device)?;
            Ok(device)
        });
        open.push(device.map_err(|error| refuse(format!("GPU {number}: {error}")))?);
    }
    let mut open = open.into_iter();
    let Some(first) = open.next() else {
        return Err(refuse("there is no GPU".to_owned()));
    };
    Ok(Devices {
        first,
        others: open.collect(),
        chosen: DeviceChoice::Cuda(numbers.to_vec()).to_string(),
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &DeviceChoice, _: Option<&[usize]>) -> Result<Devices, DeviceError> {
    Err(DeviceError::NotBuilt {
        name: "CUDA",
        feature: "cuda",
    })
}

#[cfg(feature = "metal")]
fn metal(choice: &DeviceChoice) -> Result<Devices, DeviceError> {
    let device = Device::new_metal(0).and_then(|device| {
        crate::kernels::self_test(&device)?;
        Ok(device)
    });
    match device {
        Ok(device) => Ok(Devices::one(device, choice.to_string())),
        Err(error) => Err(DeviceError::Missing {
            device: choice.clone(),
            message: error.to_string(),
        }),
    }
}

#[cfg(not(feature = "metal"))]
fn metal(_: &DeviceChoice) -> Result<Devices, DeviceError> {
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
        for name in [
            "auto",
            "cpu",
            "cuda:0",
            "cuda:3",
            "cuda:2,0,5",
            "all",
            "metal",
        ] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(vec![0])));
        for name in [
            "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:0,", "cuda:,1", "cuda:0 1", "",
        ] {
            assert!(name.parse::<DeviceChoice>().is_err(), "{name}");
        }
        let twice = "cuda:1,0,1".parse::<DeviceChoice>().unwrap_err();
        assert!(twice.contains("GPU 1 is listed twice"), "{twice}");
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn a_named_device_is_never_replaced() {
        for name in ["cuda", "cuda:0,1", "all", "metal"] {
            let choice: DeviceChoice = name.parse().unwrap();
            assert!(choice.open().is_err(), "{name}");
        }
        let devices = DeviceChoice::Auto.open().unwrap();
        assert!(devices.first.is_cpu() && devices.others.is_empty());
        let chosen = devices.chosen;
        assert!(chosen.contains("built without CUDA"), "{chosen}");
    }
}
