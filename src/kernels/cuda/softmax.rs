//! Scaled and optionally causal softmax in one kernel.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, bail};
use half::bf16;

use super::launch::{CudaElement, MODULE, PTX, contiguous, launch_config, not_on_cpu, to_u32};

/// Computes `softmax(scale · scores)` over the last dimension of contiguous scores
/// `[…, queries, keys]`, in `f32`. If `causal`, query `i` attends to the keys `0..=i` only.
pub(in crate::kernels) struct SoftmaxOp {
    pub scale: f64,
    pub causal: bool,
}

impl SoftmaxOp {
    fn run<T: CudaElement>(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let &[.., queries, keys] = layout.dims() else {
            bail!("scores {layout:?} have no queries and keys");
        };
        if self.causal && queries != keys {
            bail!("causal attention of {queries} queries to {keys} keys");
        }
        let count = layout.shape().elem_count();
        let scores = contiguous::<T>(storage, layout)?;
        let device = storage.device();
        let function = device.get_or_load_custom_func(T::SOFTMAX, MODULE, PTX)?;
        // SAFETY: the kernel below writes every number: all columns of each of the count / keys
        // rows.
        let weights = unsafe { device.alloc::<T>(count)? };
        if count > 0 {
            let launch = launch_config(count / keys, keys)?;
            let (columns, scale) = (to_u32(keys)?, self.scale as f32);
            let queries = if self.causal { to_u32(queries)? } else { 0 };
            let mut builder = function.builder();
            builder.arg(&scores).arg(&weights);
            builder.arg(&columns).arg(&queries).arg(&scale);
            // SAFETY: the arguments are the kernel's, in its order and of its types. Block b reads
            // and writes row b of `keys` numbers; both have count / keys rows. A causal row reads
            // at most `queries` = `keys` columns. The number of threads is a power of two up to
            // 256, as `launch_config` sets it.
            unsafe { builder.launch(launch) }.w()?;
        }
        Ok((
            CudaStorage::wrap_cuda_slice(weights, device.clone()),
            layout.shape().clone(),
        ))
    }
}

impl CustomOp1 for SoftmaxOp {
    fn name(&self) -> &'static str {
        "attention-softmax"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("attention-softmax")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match storage.dtype() {
            DType::F32 => self.run::<f32>(storage, layout),
            DType::BF16 => self.run::<bf16>(storage, layout),
            other => bail!("no softmax of {other:?}"),
        }
    }
}
