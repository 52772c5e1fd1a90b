//! Group norm with scale, shift and SiLU in one kernel.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaView, PushKernelArg};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, Tensor, bail,
};
use half::bf16;

use super::launch::{
    CudaElement, MODULE, PTX, contiguous, launch_config, not_on_cpu, rows, to_u32,
    with_cuda_storage,
};

/// Group norm of a contiguous `[n, channels, h, w]`; as an operator of three arguments, followed by
/// `· (1 + scale) + shift` per image and channel, with `scale` and `shift` of `f32 [n, channels]`;
/// then SiLU if `silu`.
pub(in crate::kernels) struct GroupNormOp<'a> {
    pub groups: usize,
    pub eps: f64,
    /// `f32 [channels]`.
    pub weight: &'a Tensor,
    /// `f32 [channels]`.
    pub bias: &'a Tensor,
    pub silu: bool,
}

/// Scale and shift per image and channel; their rows begin `stride` numbers apart.
struct Modulation<'a> {
    scale: CudaView<'a, f32>,
    shift: CudaView<'a, f32>,
    stride: usize,
}

impl<'a> Modulation<'a> {
    fn new(
        (scale, scale_layout): (&'a CudaStorage, &Layout),
        (shift, shift_layout): (&'a CudaStorage, &Layout),
        expected: [usize; 2],
    ) -> Result<Self> {
        let (scale, stride) = rows(scale, scale_layout)?;
        let (shift, other) = rows(shift, shift_layout)?;
        let fit = scale_layout.dims() == expected && shift_layout.dims() == expected;
        // The stride of a single row is arbitrary and never used.
        if !fit || (stride != other && expected[0] > 1) {
            bail!("scale {scale_layout:?} and shift {shift_layout:?} are not alike");
        }
        Ok(Self {
            scale,
            shift,
            stride,
        })
    }
}

impl GroupNormOp<'_> {
    fn dispatch_dtype(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        modulation: Option<&Modulation<'_>>,
    ) -> Result<(CudaStorage, Shape)> {
        match storage.dtype() {
            DType::F32 => self.run::<f32>(storage, layout, modulation),
            DType::BF16 => self.run::<bf16>(storage, layout, modulation),
            other => bail!("no group norm of {other:?}"),
        }
    }

    fn run<T: CudaElement>(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        modulation: Option<&Modulation<'_>>,
    ) -> Result<(CudaStorage, Shape)> {
        with_cuda_storage(self.weight, |weight, weight_layout| {
            with_cuda_storage(self.bias, |bias, bias_layout| {
                let (_, channels, ..) = layout.shape().dims4()?;
                if weight_layout.dims() != [channels] || bias_layout.dims() != [channels] {
                    bail!("{layout:?} does not fit a group norm of {weight_layout:?}");
                }
                let weight = contiguous::<f32>(weight, weight_layout)?;
                let bias = contiguous::<f32>(bias, bias_layout)?;
                self.launch::<T>(storage, layout, (&weight, &bias), modulation)
            })
        })
    }

    /// Launches the kernel. `weight` and `bias` have one number per channel.
    fn launch<T: CudaElement>(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        (weight, bias): (&CudaView<'_, f32>, &CudaView<'_, f32>),
        modulation: Option<&Modulation<'_>>,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, channels, height, width) = layout.shape().dims4()?;
        let area = height * width;
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            bail!(
                "{channels} channels do not divide into {} groups",
                self.groups
            );
        }
        let x = contiguous::<T>(storage, layout)?;
        let device = storage.device();
        let function = device.get_or_load_custom_func(T::GROUP_NORM, MODULE, PTX)?;
        let size = to_u32(channels / self.groups * area)? as usize;
        let launch = launch_config(n * self.groups, size)?;
        // SAFETY: the kernel below writes every number: all of each of the n · groups groups.
        let y = unsafe { device.alloc::<T>(n * channels * area)? };
        let numbers = [
            channels,
            self.groups,
            area,
            modulation.map_or(0, |m| m.stride),
        ];
        let [channels, groups, area, stride] = numbers;
        let numbers = [
            to_u32(channels)?,
            to_u32(groups)?,
            to_u32(area)?,
            to_u32(stride)?,
        ];
        let flags = [u32::from(modulation.is_some()), u32::from(self.silu)];
        let eps = self.eps as f32;
        // Without a modulation the kernel does not read these two.
        let (scale, shift) = modulation.map_or((weight, bias), |m| (&m.scale, &m.shift));
        if launch.grid_dim.0 > 0 && size > 0 {
            let mut builder = function.builder();
            builder
                .arg(&x)
                .arg(weight)
                .arg(bias)
                .arg(scale)
                .arg(shift)
                .arg(&y);
            for number in &numbers {
                builder.arg(number);
            }
            builder.arg(&eps);
            for flag in &flags {
                builder.arg(flag);
            }
            // SAFETY: the arguments are the kernel's, in its order and of its types. Block b reads
            // and writes the numbers of group b of x and y, which both have n · channels · area; of
            // weight and bias it reads the numbers of its channels, below `channels`; of scale and
            // shift those at image · stride + channel, within the bounds that `rows` checked. The
            // number of threads is a power of two up to 256, as `launch_config` sets it.
            unsafe { builder.launch(launch) }.w()?;
        }
        Ok((
            CudaStorage::wrap_cuda_slice(y, device.clone()),
            layout.shape().clone(),
        ))
    }
}

impl CustomOp1 for GroupNormOp<'_> {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("group-norm")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.dispatch_dtype(storage, layout, None)
    }
}

impl CustomOp3 for GroupNormOp<'_> {
    fn name(&self) -> &'static str {
        "group-norm-scale-shift"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("group-norm-scale-shift")
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        scale: &CudaStorage,
        scale_layout: &Layout,
        shift: &CudaStorage,
        shift_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, channels, ..) = layout.shape().dims4()?;
        let modulation =
            Modulation::new((scale, scale_layout), (shift, shift_layout), [n, channels])?;
        self.dispatch_dtype(storage, layout, Some(&modulation))
    }
}
