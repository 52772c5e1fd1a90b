//! Sum of a feature map and one number per channel.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, bail};

use super::dispatch::{Element, match_dtype};
use super::isa::Kernel;
use super::scratch::uninit_output;
use super::simd::Simd;
use super::tasks;
use super::tensors::contiguous;

/// Operator that adds `[n, channels]` to every pixel of `x [n, h, w, channels]`, both contiguous.
pub(in crate::kernels) struct AddChannelsOp;

impl CustomOp2 for AddChannelsOp {
    fn name(&self) -> &'static str {
        "add channels"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, channels) = x_layout.shape().dims4()?;
        if y_layout.dims() != [n, channels] {
            bail!("{y_layout:?} cannot be added to the channels of {x_layout:?}");
        }
        match_dtype!(x, E => add::<E>((x, x_layout), (y, y_layout), height * width, channels))
    }
}

fn add<E: Element>(
    (x, x_layout): (&CpuStorage, &Layout),
    (y, y_layout): (&CpuStorage, &Layout),
    area: usize,
    channels: usize,
) -> Result<(CpuStorage, Shape)> {
    let token = E::token()?;
    let x = contiguous::<E>(x, x_layout)?;
    let y = contiguous::<E>(y, y_layout)?;
    let mut out = uninit_output(x.len());
    if !out.is_empty() {
        // Whole pixels, about 32,768 numbers per task.
        let chunk = channels * ((1usize << 15) / channels).max(1);
        let image = area * channels;
        let mut parts = Vec::new();
        for ((out, x), y) in out
            .chunks_exact_mut(image)
            .zip(x.chunks_exact(image))
            .zip(y.chunks_exact(channels))
        {
            let chunks = out.chunks_mut(chunk).zip(x.chunks(chunk));
            parts.extend(chunks.map(|(out, x)| Sum { x, y, out }));
        }
        tasks::for_each(2 * x.len(), parts, |sum| E::run(token, sum));
    }
    Ok((E::storage(out), x_layout.shape().clone()))
}

/// Kernel that adds to some pixels of an image.
struct Sum<'a, E> {
    x: &'a [E],
    y: &'a [E],
    out: &'a mut [E],
}

impl<E: Element> Kernel for Sum<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let channels = self.y.len();
        let pixels = self.x.chunks_exact(channels);
        for (out, x) in self.out.chunks_exact_mut(channels).zip(pixels) {
            for ((out, x), y) in out.iter_mut().zip(x).zip(self.y) {
                *out = E::narrow(x.widen() + y.widen());
            }
        }
    }
}
