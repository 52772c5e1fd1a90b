//! Group normalisation with everything that follows it, in two passes over the image.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use super::contiguous;
use super::exp::silu;

/// Arguments: `x [n, channels, h, w]`, and gain and offset of each channel, `[n or 1, channels]`, all
/// contiguous. The result is `(x - mean) / √(var + eps) · gain + offset`, activated on request.
pub(in crate::kernels) struct NormOp {
    pub groups: usize,
    pub eps: f64,
    pub silu: bool,
}

impl CustomOp3 for NormOp {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
        offset: &CpuStorage,
        offset_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, channels, height, width) = x_layout.shape().dims4()?;
        let fits = |layout: &Layout| matches!(layout.dims(), [rows, c] if (*rows == n || *rows == 1) && *c == channels);
        if !fits(gain_layout) || !fits(offset_layout) || self.groups == 0 {
            bail!("gain {gain_layout:?} and offset {offset_layout:?} do not fit {x_layout:?}");
        }
        let x = contiguous(x, x_layout)?;
        let gain = contiguous(gain, gain_layout)?;
        let offset = contiguous(offset, offset_layout)?;
        let area = height * width;
        let per_group = channels / self.groups;
        let mut out = vec![0f32; x.len()];
        if !out.is_empty() {
            x.par_chunks_exact(per_group * area)
                .zip(out.par_chunks_exact_mut(per_group * area))
                .enumerate()
                .for_each(|(index, (x, out))| {
                    // A table of one row serves all images.
                    let first = index * per_group;
                    let at = |table: &'_ [f32], channel: usize| {
                        table
                            .get((first + channel) % table.len())
                            .copied()
                            .unwrap_or(0.0)
                    };
                    let (mean, inverse) = statistics(x, self.eps);
                    let planes = x.chunks_exact(area).zip(out.chunks_exact_mut(area));
                    for (channel, (x, out)) in planes.enumerate() {
                        let scale = inverse * at(gain, channel);
                        self.apply(x, out, mean, scale, at(offset, channel));
                    }
                });
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

impl NormOp {
    fn apply(&self, x: &[f32], out: &mut [f32], mean: f32, scale: f32, offset: f32) {
        if self.silu {
            for (out, x) in out.iter_mut().zip(x) {
                *out = silu((x - mean) * scale + offset);
            }
        } else {
            for (out, x) in out.iter_mut().zip(x) {
                *out = (x - mean) * scale + offset;
            }
        }
    }
}

/// Mean and `1 / √(variance + eps)`, the variance around the mean (not by the difference of two large
/// sums).
fn statistics(x: &[f32], eps: f64) -> (f32, f32) {
    let count = x.len() as f64;
    let mean = (sum(x, |v| v) / count) as f32;
    let variance = sum(x, |v| (v - mean) * (v - mean)) / count;
    (mean, (1.0 / (variance + eps).sqrt()) as f32)
}

/// `Σ f(x)`: in sixteen lanes of `f32` over short pieces, which compilers vectorise, and in `f64` over
/// the pieces.
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    const LANES: usize = 16;
    let mut total = 0f64;
    for piece in x.chunks(64 * LANES) {
        let mut lanes = [0f32; LANES];
        let (blocks, rest) = piece.as_chunks::<LANES>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *lane += f(*value);
            }
        }
        total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        total += rest.iter().map(|value| f64::from(f(*value))).sum::<f64>();
    }
    total
}
