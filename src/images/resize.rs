//! Resampling that is bit-identical to Pillow, as in clean-fid, torchvision's `T.Resize` and CLIP's
//! preprocessing.
//!
//! Pillow works in two passes, horizontal and vertical, and rounds to the pixel type after each: to
//! `f32` for its mode F, to 8 bits for all others. A pass that does not change the size is skipped.
//! The horizontal pass is first, except that since Pillow 13 the vertical pass is first if the
//! height shrinks by more than twice as many pixels as the width. (The order does not affect square
//! images that stay square; for others it changes one rounding.)
//!
//! A pass computes an output row as a weighted sum of input rows in contiguous memory. Vector
//! instructions do not change a bit of the result. The pass over the columns transposes the image
//! before and after. Floating point works on one channel's plane at a time (`float`), 8 bits on
//! whole pixels (`fixed`).
//!
//! Written here because Fréchet distances depend on the preprocessing; the tests compare it with
//! Pillow.

mod fixed;
mod float;

use rayon::prelude::*;
use thiserror::Error;

use super::batch::{BatchError, ImageBatch};
use super::filter::{Axis, Filter};
use crate::kernels::Isa;
use float::{Passes, Resample, Scratch, Write};

/// Largest accepted side in pixels: no product of sides overflows.
const MAX_SIDE: usize = 1 << 24;

/// An image could not be resampled.
#[derive(Debug, Error)]
pub enum ResizeError {
    /// A side is zero or above 2²⁴.
    #[error("cannot resample {in_height}x{in_width} pixels to {out_height}x{out_width}")]
    Size {
        /// Rows of the input.
        in_height: usize,
        /// Columns of the input.
        in_width: usize,
        /// Rows of the output.
        out_height: usize,
        /// Columns of the output.
        out_width: usize,
    },
    /// The pixels do not fit the size.
    #[error("{len} values are not {height}x{width} pixels of {channels} channels")]
    Length {
        /// Values given.
        len: usize,
        /// Rows expected.
        height: usize,
        /// Columns expected.
        width: usize,
        /// Values of one pixel.
        channels: usize,
    },
    /// The size of the batch is not the input size of the resampler.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// `DPSYN_CPU` is not the name of vector instructions of this CPU.
    #[error(transparent)]
    Instructions(#[from] candle_core::Error),
}

/// Resamples images of one size to another; the weights are computed once.
#[derive(Debug, Clone)]
pub struct Resampler {
    /// Rows and columns.
    input: (usize, usize),
    output: (usize, usize),
    /// Weights per axis; `None` if the size does not change.
    vertical: Option<Axis>,
    horizontal: Option<Axis>,
    isa: Isa,
}

impl Resampler {
    /// Computes the weights from `input` to `output`, each (rows, columns).
    ///
    /// # Errors
    /// [`ResizeError::Size`] if a side is zero or above 2²⁴, [`ResizeError::Instructions`] if
    /// `DPSYN_CPU` is invalid.
    pub fn new(
        filter: Filter,
        input: (usize, usize),
        output: (usize, usize),
    ) -> Result<Self, ResizeError> {
        let sides = [input.0, input.1, output.0, output.1];
        if sides.iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            return Err(ResizeError::Size {
                in_height: input.0,
                in_width: input.1,
                out_height: output.0,
                out_width: output.1,
            });
        }
        let axis = |from, to| (from != to).then(|| Axis::new(filter, from, to));
        Ok(Self {
            input,
            output,
            vertical: axis(input.0, output.0),
            horizontal: axis(input.1, output.1),
            isa: Isa::current()?,
        })
    }

    /// Returns rows and columns of the output.
    #[must_use]
    pub fn output_size(&self) -> (usize, usize) {
        self.output
    }

    /// Resamples `[height, width, channels]` in floating point, each channel like an image of
    /// Pillow's mode F. The result is not clipped; the cubic filter overshoots.
    ///
    /// # Errors
    /// [`ResizeError::Length`] if `pixels` has another size than the resampler's input.
    pub fn float(&self, pixels: &[f32], channels: usize) -> Result<Vec<f32>, ResizeError> {
        self.check_length(pixels.len(), channels)?;
        let (height, width) = self.output;
        let mut out = vec![0f32; height * width * channels];
        self.isa.run_loop(Resample {
            passes: self.passes(),
            pixels,
            channels,
            scratch: &mut Scratch::default(),
            write: &Pixels {
                width,
                channels,
                clip: false,
            },
            out: &mut out,
        });
        Ok(out)
    }

    /// Resamples `[height, width, channels]` in Pillow's 8-bit fixed point, rounded and clamped
    /// after each pass. Channels are independent; alpha has no special treatment.
    ///
    /// # Errors
    /// [`ResizeError::Length`] if `pixels` has another size than the resampler's input.
    pub fn bytes(&self, pixels: &[u8], channels: usize) -> Result<Vec<u8>, ResizeError> {
        self.check_length(pixels.len(), channels)?;
        let mut out = vec![0; self.output.0 * self.output.1 * channels];
        self.isa.run_loop(fixed::Resample {
            passes: self.passes(),
            pixels,
            channels,
            scratch: &mut fixed::Scratch::default(),
            out: &mut out,
        });
        Ok(out)
    }

    /// Applies [`Resampler::float`] to every image in parallel and clips to `[0, 255]`; returns
    /// `[images, out_height, out_width, 3]`. The result of an image does not depend on the others.
    ///
    /// # Errors
    /// [`ResizeError::Batch`] if the images have another size than the resampler's input.
    pub fn batch_float(&self, images: &ImageBatch) -> Result<Vec<f32>, ResizeError> {
        let write = Pixels {
            width: self.output.1,
            channels: 3,
            clip: true,
        };
        self.each_image(images, &write)
    }

    /// Applies [`Resampler::batch_float`], then `map` to each value; returns planes
    /// `[images, 3, out_height, out_width]`.
    ///
    /// # Errors
    /// [`ResizeError::Batch`] if the images have another size than the resampler's input.
    pub fn batch_planes(
        &self,
        images: &ImageBatch,
        map: impl Fn(f32) -> f32 + Sync,
    ) -> Result<Vec<f32>, ResizeError> {
        let (height, width) = self.output;
        let write = Planes { height, width, map };
        self.each_image(images, &write)
    }

    /// Applies [`Resampler::batch_float`] and rounds half to even.
    ///
    /// # Errors
    /// [`ResizeError::Batch`] if the images have another size than the resampler's input.
    pub fn batch_rounded(&self, images: &ImageBatch) -> Result<ImageBatch, ResizeError> {
        let (height, width) = self.output;
        let bytes = self.each_image(images, &Rounded { width })?;
        Ok(ImageBatch::new(bytes, images.len(), height, width)?)
    }

    /// Applies [`Resampler::bytes`] to every image in parallel.
    ///
    /// # Errors
    /// [`ResizeError::Batch`] if the images have another size than the resampler's input.
    pub fn batch_bytes(&self, images: &ImageBatch) -> Result<ImageBatch, ResizeError> {
        self.check_batch(images)?;
        let (height, width) = self.output;
        let len = height * width * 3;
        let mut out = vec![0u8; images.len() * len];
        let passes = self.passes();
        out.par_chunks_exact_mut(len)
            .zip(images.data().par_chunks_exact(images.image_len()))
            .for_each_init(fixed::Scratch::default, |scratch, (out, pixels)| {
                self.isa.run_loop(fixed::Resample {
                    passes,
                    pixels,
                    channels: 3,
                    scratch,
                    out,
                });
            });
        Ok(ImageBatch::new(out, images.len(), height, width)?)
    }

    /// Returns true if the vertical pass is first: Pillow 13's rule.
    fn vertical_first(&self) -> bool {
        let (height, width) = self.input;
        let (out_height, out_width) = self.output;
        height > out_height && height - out_height > 2 * width.saturating_sub(out_width)
    }

    fn check_batch(&self, images: &ImageBatch) -> Result<(), ResizeError> {
        if (images.height(), images.width()) != self.input {
            return Err(BatchError::Size {
                expected_height: self.input.0,
                expected_width: self.input.1,
                found_height: images.height(),
                found_width: images.width(),
            }
            .into());
        }
        Ok(())
    }

    fn check_length(&self, len: usize, channels: usize) -> Result<(), ResizeError> {
        let (height, width) = self.input;
        if channels == 0 || channels.checked_mul(height * width) != Some(len) {
            return Err(ResizeError::Length {
                len,
                height,
                width,
                channels,
            });
        }
        Ok(())
    }

    fn passes(&self) -> Passes<'_> {
        Passes {
            horizontal: self.horizontal.as_ref(),
            vertical: self.vertical.as_ref(),
            vertical_first: self.vertical_first(),
            input: self.input,
        }
    }

    /// Resamples every image in floating point.
    fn each_image<T: Copy + Default + Send>(
        &self,
        images: &ImageBatch,
        write: &(impl Write<T> + Sync),
    ) -> Result<Vec<T>, ResizeError> {
        self.check_batch(images)?;
        let len = self.output.0 * self.output.1 * 3;
        let mut out = vec![T::default(); images.len() * len];
        let passes = self.passes();
        out.par_chunks_exact_mut(len)
            .zip(images.data().par_chunks_exact(images.image_len()))
            .for_each_init(Scratch::default, |scratch, (out, pixels)| {
                self.isa.run_loop(Resample {
                    passes,
                    pixels,
                    channels: 3,
                    scratch,
                    write,
                    out,
                });
            });
        Ok(out)
    }
}

/// Writes `[height, width, channels]`, optionally clipped to `[0, 255]`.
struct Pixels {
    width: usize,
    channels: usize,
    clip: bool,
}

impl Write<f32> for Pixels {
    #[inline(always)]
    fn line(&self, out: &mut [f32], channel: usize, y: usize, values: &[f32]) {
        let len = self.width * self.channels;
        let row = out[y * len..][..len].iter_mut().skip(channel);
        for (to, value) in row.step_by(self.channels).zip(values) {
            *to = if self.clip {
                value.clamp(0.0, 255.0)
            } else {
                *value
            };
        }
    }
}

/// Writes `[channels, height, width]`, clipped and mapped.
struct Planes<F> {
    height: usize,
    width: usize,
    map: F,
}

impl<F: Fn(f32) -> f32> Write<f32> for Planes<F> {
    #[inline(always)]
    fn line(&self, out: &mut [f32], channel: usize, y: usize, values: &[f32]) {
        let row = &mut out[(channel * self.height + y) * self.width..][..self.width];
        for (to, value) in row.iter_mut().zip(values) {
            *to = (self.map)(value.clamp(0.0, 255.0));
        }
    }
}

/// Writes `[height, width, 3]`, clipped and rounded half to even.
struct Rounded {
    width: usize,
}

impl Write<u8> for Rounded {
    #[inline(always)]
    fn line(&self, out: &mut [u8], channel: usize, y: usize, values: &[f32]) {
        let row = &mut out[y * self.width * 3..][..self.width * 3];
        for (to, value) in row.iter_mut().skip(channel).step_by(3).zip(values) {
            *to = value.clamp(0.0, 255.0).round_ties_even() as u8;
        }
    }
}

/// Resizes like clean-fid's `make_resizer("PIL", quantize_after=False, "bicubic")`: from
/// `[in_height, in_width, channels]` to `[out_height, out_width, channels]`, clipped to `[0, 255]`,
/// not rounded.
///
/// # Errors
/// [`ResizeError`] if a size is invalid or `pixels` does not fit it.
pub fn resize_bicubic_float(
    pixels: &[f32],
    in_height: usize,
    in_width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
) -> Result<Vec<f32>, ResizeError> {
    let resampler = Resampler::new(
        Filter::Bicubic,
        (in_height, in_width),
        (out_height, out_width),
    )?;
    let mut out = resampler.float(pixels, channels)?;
    for value in &mut out {
        *value = value.clamp(0.0, 255.0);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect()
    }

    /// Runs `run` with every set of vector instructions of the machine, and checks that all results
    /// are equal.
    fn on_all<R: PartialEq>(mut resampler: Resampler, run: impl Fn(&Resampler) -> R) -> R {
        let mut results = Isa::all().map(|isa| {
            resampler.isa = isa;
            run(&resampler)
        });
        let first = results.next().unwrap();
        assert!(results.all(|result| result == first));
        first
    }

    #[test]
    fn the_same_size_is_the_identity() {
        let pixels = noise(5 * 7 * 3);
        let resampler = Resampler::new(Filter::Bicubic, (5, 7), (5, 7)).unwrap();
        assert_eq!(resampler.bytes(&pixels, 3).unwrap(), pixels);
    }

    #[test]
    fn a_constant_image_stays_constant() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let resampler = Resampler::new(filter, (9, 5), (4, 31)).unwrap();
            let out = resampler.bytes(&[200; 45], 1).unwrap();
            assert_eq!(out, vec![200; 4 * 31]);
        }
    }

    #[test]
    fn channels_do_not_mix_whatever_their_number() {
        let resampler = Resampler::new(Filter::Bicubic, (12, 9), (7, 20)).unwrap();
        for channels in 1..=5 {
            let pixels = noise(12 * 9 * channels);
            let out = resampler.bytes(&pixels, channels).unwrap();
            for channel in 0..channels {
                let plane = |from: &[u8]| -> Vec<u8> {
                    from.iter()
                        .skip(channel)
                        .step_by(channels)
                        .copied()
                        .collect()
                };
                assert_eq!(resampler.bytes(&plane(&pixels), 1).unwrap(), plane(&out));
            }
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        let batch = ImageBatch::new(noise(6 * 8 * 8 * 3), 6, 8, 8).unwrap();
        let resampler = Resampler::new(Filter::Bicubic, (8, 8), (11, 13)).unwrap();
        let all = resampler.batch_float(&batch).unwrap();
        let len = 11 * 13 * 3;
        for (index, image) in batch.iter().enumerate() {
            let pixels: Vec<f32> = image.iter().map(|b| f32::from(*b)).collect();
            let alone = resize_bicubic_float(&pixels, 8, 8, 3, 11, 13).unwrap();
            assert_eq!(alone, all[index * len..][..len]);
        }
        let planes = resampler.batch_planes(&batch, |value| -value).unwrap();
        let rounded = resampler.batch_rounded(&batch).unwrap();
        for (at, value) in all.iter().enumerate() {
            let (image, pixel, channel) = (at / len, at % len / 3, at % 3);
            assert_eq!(planes[image * len + channel * 11 * 13 + pixel], -value);
            assert_eq!(rounded.data()[at], value.round_ties_even() as u8);
        }
    }

    /// The definition, one pixel at a time: both orders of the passes, sides that stay, shrink and
    /// grow.
    #[test]
    fn floating_point_follows_the_definition() {
        let sides = [1, 5, 16, 23, 40];
        let sizes = || sides.into_iter().flat_map(|h| sides.map(|w| (h, w)));
        for (input, output) in sizes().flat_map(|input| sizes().map(move |out| (input, out))) {
            let pixels: Vec<f32> = noise(input.0 * input.1 * 2)
                .into_iter()
                .map(f32::from)
                .collect();
            let resampler = Resampler::new(Filter::Bicubic, input, output).unwrap();
            let found = on_all(resampler.clone(), |resampler| {
                resampler.float(&pixels, 2).unwrap()
            });
            let axis = |from, to| (from != to).then(|| Axis::new(Filter::Bicubic, from, to));
            // One pass along an axis whose neighbors lie `step` apart.
            let pass = |image: Vec<f32>, size: (usize, usize), vertical: bool| {
                let (from, to) = if vertical {
                    (size.0, output.0)
                } else {
                    (size.1, output.1)
                };
                let Some(axis) = axis(from, to) else {
                    return (image, size);
                };
                let out = if vertical { (to, size.1) } else { (size.0, to) };
                let windows: Vec<_> = axis.windows().collect();
                let mut result = Vec::new();
                for at in 0..out.0 * out.1 * 2 {
                    let (y, x, channel) = (at / (out.1 * 2), at / 2 % out.1, at % 2);
                    let (first, weights) = windows[if vertical { y } else { x }];
                    let sum = weights.iter().enumerate().fold(0f64, |sum, (tap, weight)| {
                        let (y, x) = if vertical {
                            (first + tap, x)
                        } else {
                            (y, first + tap)
                        };
                        sum + f64::from(image[(y * size.1 + x) * 2 + channel]) * weight
                    });
                    result.push(sum as f32);
                }
                (result, out)
            };
            let vertical_first = resampler.vertical_first();
            let (image, size) = pass(pixels, input, vertical_first);
            let (expected, _) = pass(image, size, !vertical_first);
            assert!(found == expected, "{input:?} to {output:?}");
        }
    }

    /// The definition again, in fixed point: more rows than are taken together, and any channels.
    #[test]
    fn fixed_point_follows_the_definition() {
        let sides = [1, 7, 16, 35];
        let sizes = || sides.into_iter().flat_map(|h| sides.map(|w| (h, w)));
        for (input, output) in sizes().flat_map(|input| sizes().map(move |out| (input, out))) {
            let channels = 1 + (input.0 + output.1) % 4;
            let pixels = noise(input.0 * input.1 * channels);
            let resampler = Resampler::new(Filter::Bilinear, input, output).unwrap();
            let found = on_all(resampler.clone(), |resampler| {
                resampler.bytes(&pixels, channels).unwrap()
            });
            let pass = |image: Vec<u8>, size: (usize, usize), vertical: bool| {
                let (axis, out) = if vertical {
                    (&resampler.vertical, (output.0, size.1))
                } else {
                    (&resampler.horizontal, (size.0, output.1))
                };
                let Some(axis) = axis else {
                    return (image, size);
                };
                let windows: Vec<_> = axis.fixed_windows().collect();
                let mut result = Vec::new();
                for at in 0..out.0 * out.1 * channels {
                    let (y, x) = (at / (out.1 * channels), at / channels % out.1);
                    let (first, weights) = windows[if vertical { y } else { x }];
                    let sum = weights.iter().enumerate().map(|(tap, weight)| {
                        let (y, x) = if vertical {
                            (first + tap, x)
                        } else {
                            (y, first + tap)
                        };
                        let at_channel = (y * size.1 + x) * channels + at % channels;
                        i64::from(image[at_channel]) * i64::from(*weight)
                    });
                    let rounded = (sum.sum::<i64>() as f64 / 4_194_304.0 + 0.5).floor();
                    result.push(rounded.clamp(0.0, 255.0) as u8);
                }
                (result, out)
            };
            let vertical_first = resampler.vertical_first();
            let (image, size) = pass(pixels, input, vertical_first);
            let (expected, _) = pass(image, size, !vertical_first);
            assert!(
                found == expected,
                "{input:?} to {output:?}, {channels} channels"
            );
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(Resampler::new(Filter::Bilinear, (0, 4), (4, 4)).is_err());
        assert!(Resampler::new(Filter::Bilinear, (4, 4), (4, 0)).is_err());
        assert!(Resampler::new(Filter::Bilinear, (4, usize::MAX), (4, 4)).is_err());
        let resampler = Resampler::new(Filter::Bilinear, (4, 4), (2, 2)).unwrap();
        assert!(resampler.bytes(&[0; 47], 3).is_err());
        assert!(resampler.bytes(&[], 0).is_err());
        assert!(resampler.batch_bytes(&ImageBatch::empty(5, 4)).is_err());
    }
}
