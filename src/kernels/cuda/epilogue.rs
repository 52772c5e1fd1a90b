//! The epilogue of a convolution in one kernel: bias, residual, ReLU.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaView, PushKernelArg};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail,
};
use half::bf16;

use super::launch::{
    CudaElement, MODULE, PTX, contiguous, launch_config, not_on_cpu, to_u32, with_cuda_storage,
};

/// Adds `bias` to a contiguous `[n, channels, h, w]`; as an operator of two arguments, also a
/// residual of the same shape; then replaces negative numbers by 0 if `relu`.
pub(in crate::kernels) struct EpilogueOp<'a> {
    /// `[channels]`, of the type of the maps.
    pub bias: &'a Tensor,
    pub relu: bool,
}

impl EpilogueOp<'_> {
    fn dispatch_dtype(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        residual: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        match storage.dtype() {
            DType::F32 => self.run::<f32>(storage, layout, residual),
            DType::BF16 => self.run::<bf16>(storage, layout, residual),
            other => bail!("no bias for {other:?}"),
        }
    }

    fn run<T: CudaElement>(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        residual: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let x = contiguous::<T>(storage, layout)?;
        let residual = match residual {
            Some((residual, residual_layout)) => {
                if residual_layout.shape() != layout.shape() {
                    bail!("{residual_layout:?} cannot be added to {layout:?}");
                }
                Some(contiguous::<T>(residual, residual_layout)?)
            }
            None => None,
        };
        with_cuda_storage(self.bias, |bias, bias_layout| {
            let (_, channels, ..) = layout.shape().dims4()?;
            if bias_layout.dims() != [channels] {
                bail!("{bias_layout:?} is not a bias for {layout:?}");
            }
            let bias = contiguous::<T>(bias, bias_layout)?;
            self.launch((storage, layout), &x, &bias, residual.as_ref())
        })
    }

    /// Launches the kernel. `x` and `residual` have all numbers of `layout`, `bias` one per
    /// channel.
    fn launch<T: CudaElement>(
        &self,
        (storage, layout): (&CudaStorage, &Layout),
        x: &CudaView<'_, T>,
        bias: &CudaView<'_, T>,
        residual: Option<&CudaView<'_, T>>,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, channels, height, width) = layout.shape().dims4()?;
        let area = height * width;
        let device = storage.device();
        let function = device.get_or_load_custom_func(T::EPILOGUE, MODULE, PTX)?;
        let launch = launch_config(n * channels, area)?;
        // SAFETY: the kernel below writes every number: all of each of the n · channels planes.
        let y = unsafe { device.alloc::<T>(n * channels * area)? };
        let numbers = [to_u32(channels)?, to_u32(area)?];
        let flags = [u32::from(residual.is_some()), u32::from(self.relu)];
        if n * channels * area > 0 {
            let mut builder = function.builder();
            // Without a residual the kernel does not read this argument.
            builder.arg(x).arg(bias).arg(residual.unwrap_or(x)).arg(&y);
            for number in numbers.iter().chain(&flags) {
                builder.arg(number);
            }
            // SAFETY: the arguments are the kernel's, in its order and of its types. Block b reads
            // plane b of x and of the residual and writes plane b of y; all have n · channels
            // planes of `area` numbers. It reads bias at b modulo `channels`, its length. The
            // number of threads is a power of two up to 256, as `launch_config` sets it.
            unsafe { builder.launch(launch) }.w()?;
        }
        Ok((
            CudaStorage::wrap_cuda_slice(y, device.clone()),
            layout.shape().clone(),
        ))
    }
}

impl CustomOp1 for EpilogueOp<'_> {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("bias")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.dispatch_dtype(storage, layout, None)
    }
}

impl CustomOp2 for EpilogueOp<'_> {
    fn name(&self) -> &'static str {
        "bias-residual"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("bias-residual")
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        residual: &CudaStorage,
        residual_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.dispatch_dtype(storage, layout, Some((residual, residual_layout)))
    }
}
