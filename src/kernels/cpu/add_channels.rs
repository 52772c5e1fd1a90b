//! Sums of a feature map and one number a channel.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, bail};

use super::scratch::results;
use super::{contiguous, tasks};

/// Arguments: `x [n, h, w, channels]` and what is added to every pixel, `[n, channels]`, both contiguous.
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
        let x = contiguous(x, x_layout)?;
        let y = contiguous(y, y_layout)?;
        let mut out = results(x.len());
        if !out.is_empty() {
            // Whole pixels, about 128 kB of them.
            let piece = channels * ((1usize << 15) / channels).max(1);
            let image = height * width * channels;
            let mut parts = Vec::new();
            for ((out, x), y) in out
                .chunks_exact_mut(image)
                .zip(x.chunks_exact(image))
                .zip(y.chunks_exact(channels))
            {
                let pieces = out.chunks_mut(piece).zip(x.chunks(piece));
                parts.extend(pieces.map(|(out, x)| (out, x, y)));
            }
            tasks::each(
                2 * x.len(),
                parts,
                |(out, x, y): (&mut [f32], &[f32], &[f32])| {
                    for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                            *out = x + y;
                        }
                    }
                },
            );
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}
