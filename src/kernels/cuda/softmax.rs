//! Scaled, perhaps causal, softmax in one kernel.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, bail};
use half::bf16;

use super::{Element, MODULE, PTX, config, contiguous, not_on_cpu, number};

/// `softmax(scale · scores)` over the last dimension of contiguous scores `[…, queries, keys]`, computed in `f32`;
/// `causal`: query `i` sees the keys `0..=i` only.
pub(in crate::kernels) struct SoftmaxOp {
    pub scale: f64,
    pub causal: bool,
}

impl SoftmaxOp {
    fn run<T: Element>(
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
        // SAFETY: the kernel below writes every number of it: all columns of each of count / keys rows.
        let weights = unsafe { device.alloc::<T>(count)? };
        if count > 0 {
            let launch = config(count / keys, keys)?;
            let (columns, scale) = (number(keys)?, self.scale as f32);
            let queries = if self.causal { number(queries)? } else { 0 };
            let mut builder = function.builder();
            builder.arg(&scores).arg(&weights);
            builder.arg(&columns).arg(&queries).arg(&scale);
            // SAFETY: the arguments are the kernel's, in its order and of its types. Block b reads and writes row b of
            // `keys` numbers; there are count / keys rows in both. A causal row sees at most `queries` = `keys`
            // columns. Its threads are a power of two up to 256, as `config` gives them.
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
