//! Group normalization with scale, shift and SiLU, in two passes over the image.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, bail};

use super::dispatch::{Element, match_dtype};
use super::exp::silu;
use super::isa::Kernel;
use super::scratch::{Scratch, uninit_output};
use super::simd::Simd;
use super::tasks;
use super::tensors::contiguous;

/// Group norm operator. Arguments: `x [n, h, w, channels]`, contiguous, and optionally `scale` and
/// `shift [n, channels]` of any row stride. The result is
/// `((x - mean) / √(var + eps) · weight + bias) · (1 + scale) + shift`, followed by SiLU if `silu`.
pub(in crate::kernels) struct GroupNormOp<'a> {
    pub groups: usize,
    pub eps: f64,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub silu: bool,
}

/// Approximate numbers per task.
const CHUNK: usize = 1 << 15;

/// Pixels whose sum is accumulated in `f32` before it is added to an `f64`.
const F32_RUN: usize = 64;

/// Sums `Σ (x - origin)` and `Σ (x - origin)²` of each channel.
type Sums = Vec<[f64; 2]>;

/// The map of each channel of one image: `(x - mean) · scale + offset`.
struct Affine {
    mean: Vec<f32>,
    scale: Vec<f32>,
    offset: Vec<f32>,
}

/// A scale or shift `[n, channels]`, copied: it is small compared with the image.
struct Rows {
    data: Vec<f32>,
    channels: usize,
}

impl Rows {
    /// Reads a matrix of any type and strides, except a stride of 0 between channels.
    fn new(storage: &CpuStorage, layout: &Layout, dims: (usize, usize)) -> Result<Self> {
        match_dtype!(storage, E => Self::read::<E>(storage, layout, dims))
    }

    fn read<E: Element>(
        storage: &CpuStorage,
        layout: &Layout,
        dims: (usize, usize),
    ) -> Result<Self> {
        let all = storage.as_slice::<E>()?;
        let &[row, column] = layout.stride() else {
            bail!("scale or shift with layout {layout:?} is not a matrix");
        };
        if layout.shape().dims2()? != dims {
            bail!("scale or shift with layout {layout:?} is not {dims:?}");
        }
        let (n, channels) = dims;
        let mut data = Vec::with_capacity(n * channels);
        for image in 0..n {
            let from = all.get(layout.start_offset() + image * row..);
            let numbers = from.unwrap_or_default().iter().step_by(column.max(1));
            data.extend(numbers.take(channels).map(|v| v.widen()));
        }
        if data.len() != n * channels || (column == 0 && channels > 1) {
            bail!("scale or shift with layout {layout:?} does not fit its storage");
        }
        Ok(Self { data, channels })
    }

    fn row(&self, index: usize) -> &[f32] {
        let row = index * self.channels..(index + 1) * self.channels;
        self.data.get(row).unwrap_or_default()
    }
}

impl CustomOp1 for GroupNormOp<'_> {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match_dtype!(x, E => self.run::<E>(x, layout, None))
    }
}

impl CustomOp3 for GroupNormOp<'_> {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, _, _, channels) = layout.shape().dims4()?;
        let scale = Rows::new(scale, scale_layout, (n, channels))?;
        let shift = Rows::new(shift, shift_layout, (n, channels))?;
        match_dtype!(x, E => self.run::<E>(x, layout, Some((scale, shift))))
    }
}

impl GroupNormOp<'_> {
    fn run<E: Element>(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        modulation: Option<(Rows, Rows)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, channels) = layout.shape().dims4()?;
        if self.groups == 0
            || !channels.is_multiple_of(self.groups)
            || self.weight.len() != channels
            || self.bias.len() != channels
        {
            bail!(
                "a group norm of {} channels does not fit {layout:?}",
                self.weight.len()
            );
        }
        let token = E::token()?;
        let x = contiguous::<E>(x, layout)?;
        let mut out = uninit_output(x.len());
        if !out.is_empty() {
            let area = height * width;
            // The chunks depend on the image's shape alone and their sums are added in order, so
            // that the result does not depend on the number of threads.
            let chunk = (CHUNK / channels).max(1).next_multiple_of(F32_RUN) * channels;
            let images = || x.chunks_exact(area * channels);
            let chunks: usize = images().map(|image| image.len().div_ceil(chunk)).sum();

            let mut sums: Vec<Sums> = vec![Vec::new(); chunks];
            let from = images().flat_map(|image| image.chunks(chunk).map(move |x| (image, x)));
            let parts = sums.iter_mut().zip(from).collect();
            tasks::for_each(
                2 * x.len(),
                parts,
                |(sums, (image, x)): (&mut Sums, (&[E], &[E]))| {
                    let origin = image.get(..channels).unwrap_or_default();
                    *sums = E::run(token, Sum { x, origin });
                },
            );

            let affine: Vec<Affine> = images()
                .zip(sums.chunks(chunks / n))
                .enumerate()
                .map(|(index, (image, sums))| {
                    let rows = modulation.as_ref();
                    let rows = rows.map(|(a, b)| (a.row(index), b.row(index)));
                    self.affine(area, image, sums, rows)
                })
                .collect();

            let parts = images()
                .zip(out.chunks_exact_mut(area * channels))
                .zip(&affine)
                .flat_map(|((x, out), affine)| {
                    let parts = x.chunks(chunk).zip(out.chunks_mut(chunk));
                    parts.map(move |(x, out)| (x, out, affine))
                })
                .collect();
            tasks::for_each(
                8 * x.len(),
                parts,
                |(x, out, affine): (&[E], &mut [E], &Affine)| {
                    let apply = Apply {
                        x,
                        out,
                        affine,
                        silu: self.silu,
                    };
                    E::run(token, apply);
                },
            );
        }
        Ok((E::storage(out), layout.shape().clone()))
    }

    /// Computes the map of an image's channels from the sums of all its chunks.
    fn affine<E: Element>(
        &self,
        area: usize,
        image: &[E],
        sums: &[Sums],
        modulation: Option<(&[f32], &[f32])>,
    ) -> Affine {
        let channels = self.weight.len();
        let per_group = channels / self.groups;
        let count = (area * per_group) as f64;
        let area = area as f64;
        // Of each channel: the origin of its sums, and the two sums.
        let totals: Vec<[f64; 3]> = (0..channels)
            .zip(image)
            .map(|(channel, origin)| {
                let of_channel = sums.iter().filter_map(|sums| sums.get(channel));
                let (first, second) = of_channel.fold((0.0, 0.0), |(a, b), [c, d]| (a + c, b + d));
                [f64::from(origin.widen()), first, second]
            })
            .collect();
        let mut affine = Affine {
            mean: Vec::with_capacity(channels),
            scale: Vec::with_capacity(channels),
            offset: Vec::with_capacity(channels),
        };
        for group in totals.chunks_exact(per_group) {
            let sum: f64 = group
                .iter()
                .map(|[origin, first, _]| first + area * origin)
                .sum();
            let mean = sum / count;
            // Σ (x - mean)², with x - mean = (x - origin) + (origin - mean). The origin is a pixel
            // of the channel, so no large numbers cancel.
            let squares: f64 = group
                .iter()
                .map(|[origin, first, second]| {
                    let shift = origin - mean;
                    second + 2.0 * shift * first + area * shift * shift
                })
                .sum();
            let inverse = 1.0 / (squares.max(0.0) / count + self.eps).sqrt();
            for _ in group {
                affine.mean.push(mean as f32);
                affine.scale.push(inverse as f32);
            }
        }
        for (channel, scale) in affine.scale.iter_mut().enumerate() {
            let at = |table: &[f32]| table.get(channel).copied().unwrap_or(0.0);
            let (mut gain, mut offset) = (at(self.weight), at(self.bias));
            if let Some((scale, shift)) = modulation {
                let factor = 1.0 + at(scale);
                gain *= factor;
                offset = offset * factor + at(shift);
            }
            *scale *= gain;
            affine.offset.push(offset);
        }
        affine
    }
}

/// Kernel that computes the [`Sums`] of one chunk.
struct Sum<'a, E> {
    x: &'a [E],
    origin: &'a [E],
}

impl<E: Element> Kernel for Sum<'_, E> {
    type Output = Sums;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Sums {
        const BLOCK: usize = 32;
        let channels = self.origin.len();
        let mut sums = vec![[0f64; 2]; channels];
        for run in self.x.chunks(F32_RUN * channels) {
            // Blocks of channels whose sums stay in registers.
            let mut channel = 0;
            while channel < channels {
                let count = BLOCK.min(channels - channel);
                let mut first = [0f32; BLOCK];
                let mut second = [0f32; BLOCK];
                let mut origin = [0f32; BLOCK];
                for (to, from) in origin.iter_mut().zip(self.origin.iter().skip(channel)) {
                    *to = from.widen();
                }
                for pixel in run.chunks_exact(channels) {
                    match pixel
                        .get(channel..)
                        .and_then(|pixel| pixel.first_chunk::<BLOCK>())
                    {
                        Some(pixel) => {
                            for i in 0..BLOCK {
                                let centered = pixel[i].widen() - origin[i];
                                first[i] += centered;
                                second[i] += centered * centered;
                            }
                        }
                        None => {
                            let pixel = pixel.get(channel..).unwrap_or_default();
                            for (i, value) in pixel.iter().enumerate().take(BLOCK) {
                                let centered = value.widen() - origin[i];
                                first[i] += centered;
                                second[i] += centered * centered;
                            }
                        }
                    }
                }
                let sums = sums.iter_mut().skip(channel).take(count);
                for (sums, (first, second)) in sums.zip(first.iter().zip(second)) {
                    sums[0] += f64::from(*first);
                    sums[1] += f64::from(second);
                }
                channel += count;
            }
        }
        sums
    }
}

/// Kernel that applies an [`Affine`] and the activation to one chunk.
struct Apply<'a, E> {
    x: &'a [E],
    out: &'a mut [E],
    affine: &'a Affine,
    silu: bool,
}

impl<E: Element> Kernel for Apply<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        if let (Some(x), Some(out)) = (E::as_f32(self.x), E::as_f32_mut(self.out)) {
            return apply(x, out, self.affine, self.silu);
        }
        // Converts many pixels at a time: loops as short as one pixel would be slow.
        const CONVERTED: usize = 2048;
        let channels = self.affine.mean.len();
        let len = (CONVERTED / channels.max(1)).max(1) * channels;
        let mut wide = Scratch::<f32>::new(len);
        let mut result = Scratch::<f32>::new(len);
        let pieces = self.x.chunks(len);
        for (x, out) in pieces.zip(self.out.chunks_mut(len)) {
            for (wide, x) in wide.iter_mut().zip(x) {
                *wide = x.widen();
            }
            let (wide, result) = (wide.split_at(x.len()).0, result.split_at_mut(x.len()).0);
            apply(wide, result, self.affine, self.silu);
            for (out, result) in out.iter_mut().zip(result) {
                *out = E::narrow(*result);
            }
        }
    }
}

#[inline(always)]
fn apply(x: &[f32], out: &mut [f32], affine: &Affine, activate: bool) {
    let Affine {
        mean,
        scale,
        offset,
    } = affine;
    let channels = mean.len();
    let pixels = x.chunks_exact(channels);
    for (x, out) in pixels.zip(out.chunks_exact_mut(channels)) {
        let table = mean.iter().zip(scale).zip(offset);
        if activate {
            for ((out, x), ((mean, scale), offset)) in out.iter_mut().zip(x).zip(table) {
                *out = silu((x - mean) * scale + offset);
            }
        } else {
            for ((out, x), ((mean, scale), offset)) in out.iter_mut().zip(x).zip(table) {
                *out = (x - mean) * scale + offset;
            }
        }
    }
}
