//! Second handles to a device.

use candle_core::{Device, DeviceLocation, Result};

/// Opens a second handle to the same device for another thread.
///
/// On CUDA it has its own cuBLAS and cuDNN handles: cuBLAS keeps a workspace with a handle, which
/// two threads would overwrite at the same time. Tensors of the two handles must not be mixed.
///
/// # Errors
/// Errors of candle if the device cannot be opened again.
pub fn reopen_device(device: &Device) -> Result<Device> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => Device::new_cuda(gpu_id),
        DeviceLocation::Cpu | DeviceLocation::Metal { .. } => Ok(device.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reopened_cpu_is_a_cpu() {
        assert!(reopen_device(&Device::Cpu).unwrap().is_cpu());
    }
}
