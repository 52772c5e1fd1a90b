//! Convolution whose weight is trained, with its gradients.
//!
//! Written by hand because the gradient of candle's convolution is slow on the CPU.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::conv::PackedConv;
use super::scratch::Scratch;
use super::tensors::contiguous;
use super::unfold::Windows;
use crate::kernels::shapes::Conv2dShape;

/// Largest number of sums of weight gradients, which are held at once, and smallest number of
/// images in one. The order of all additions depends on the number of images, not on that of
/// threads.
const MOST_SUMS: usize = 16;
const FEWEST_IMAGES: usize = 4;

/// Convolution operator. Arguments, both contiguous: the image `[n, h, w, in]` and the weight
/// `[out, in, rows, columns]`.
pub(in crate::kernels) struct TrainedConvOp(pub Conv2dShape);

impl CustomOp2 for TrainedConvOp {
    fn name(&self) -> &'static str {
        "trained convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weight = contiguous(weight, weight_layout)?;
        let bias = vec![0.0; self.0.out_channels];
        PackedConv::new(self.0, DType::F32, weight, bias)?.run(x, x_layout, None, false)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let for_weight = x.apply_op2_no_bwd(&gradient, &WeightGradient(self.0))?;
        let (rows, columns) = self.0.kernel;
        let taps = (rows, columns, self.0.in_channels, self.0.out_channels);
        let for_weight = for_weight.reshape(taps)?.permute((3, 2, 0, 1))?;
        let for_weight = for_weight.contiguous()?;
        if !x.track_op() {
            return Ok((None, Some(for_weight)));
        }
        let for_x = match adjoint(&self.0) {
            Some(shape) => {
                let mirrored = weight.flip(&[2, 3])?.transpose(0, 1)?.contiguous()?;
                gradient.apply_op2_no_bwd(&mirrored, &Self(shape))?
            }
            None => {
                let (_, height, width, _) = x.dims4()?;
                let matrix = weight.permute((0, 2, 3, 1))?.contiguous()?;
                let op = InputGradient {
                    shape: self.0,
                    input: (height, width),
                };
                gradient.apply_op2_no_bwd(&matrix, &op)?
            }
        };
        Ok((Some(for_x), Some(for_weight)))
    }
}

/// Returns the convolution by the mirrored kernel that is the adjoint of `shape`; `None` for other
/// strides than 1.
fn adjoint(shape: &Conv2dShape) -> Option<Conv2dShape> {
    let padding = |kernel: usize, padding: usize| kernel.checked_sub(1 + padding);
    let (kernel, before) = (shape.kernel, shape.padding);
    (shape.stride == 1).then_some(Conv2dShape {
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        padding: (padding(kernel.0, before.0)?, padding(kernel.1, before.1)?),
        ..*shape
    })
}

/// Gradient of the weight, `[rows · columns · in, out]`, of the image and of the gradient of the
/// result.
struct WeightGradient(Conv2dShape);

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "gradient of a convolution's weight"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, _) = x_layout.shape().dims4()?;
        let windows = windows(self.0, (n, height, width), gradient_layout)?;
        let (count, depth) = (windows.count(), windows.depth());
        let outputs = self.0.out_channels;
        let x = contiguous::<f32>(x, x_layout)?;
        let gradient = contiguous::<f32>(gradient, gradient_layout)?;
        let images = n.div_ceil(MOST_SUMS).max(FEWEST_IMAGES);
        let sums: Vec<Vec<f32>> = x
            .par_chunks(images * windows.image_len())
            .zip(gradient.par_chunks(images * count * outputs))
            .map(|(x, gradient)| {
                let mut sum = vec![0.0; depth * outputs];
                let mut rows = Scratch::<f32>::new(count * depth);
                let images = x.chunks_exact(windows.image_len());
                for (image, gradient) in images.zip(gradient.chunks_exact(count * outputs)) {
                    windows.unfold(image, &mut rows);
                    matmul(
                        MatMut::from_row_major_slice_mut(&mut sum, depth, outputs),
                        Accum::Add,
                        MatRef::from_row_major_slice(&rows, count, depth).transpose(),
                        MatRef::from_row_major_slice(gradient, count, outputs),
                        1.0,
                        Par::Seq,
                    );
                }
                sum
            })
            .collect();
        let mut total = vec![0f32; depth * outputs];
        for sum in sums {
            for (total, number) in total.iter_mut().zip(sum) {
                *total += number;
            }
        }
        Ok((CpuStorage::F32(total), Shape::from((depth, outputs))))
    }
}

/// Gradient of the image, of the gradient of the result and of the weight
/// `[out, rows, columns, in]`.
struct InputGradient {
    shape: Conv2dShape,
    input: (usize, usize),
}

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "gradient of a convolution's input"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, ..) = gradient_layout.shape().dims4()?;
        let (height, width) = self.input;
        let windows = windows(self.shape, (n, height, width), gradient_layout)?;
        let (count, depth) = (windows.count(), windows.depth());
        let outputs = self.shape.out_channels;
        let gradient = contiguous::<f32>(gradient, gradient_layout)?;
        let weight = contiguous::<f32>(weight, weight_layout)?;
        let mut out = vec![0f32; n * windows.image_len()];
        if !out.is_empty() {
            out.par_chunks_exact_mut(windows.image_len())
                .zip(gradient.par_chunks_exact(count * outputs))
                .for_each(|(image, gradient)| {
                    let mut rows = Scratch::<f32>::new(count * depth);
                    matmul(
                        MatMut::from_row_major_slice_mut(&mut rows, count, depth),
                        Accum::Replace,
                        MatRef::from_row_major_slice(gradient, count, outputs),
                        MatRef::from_row_major_slice(weight, outputs, depth),
                        1.0,
                        Par::Seq,
                    );
                    windows.fold(&rows, image);
                });
        }
        let shape = Shape::from((n, height, width, self.shape.in_channels));
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Returns the windows of `n` images of `height` × `width`, whose results have the layout of
/// `gradient`.
fn windows(
    shape: Conv2dShape,
    (n, height, width): (usize, usize, usize),
    gradient: &Layout,
) -> Result<Windows> {
    let fits = |windows: &Windows| {
        let (rows, columns) = windows.output();
        gradient.dims() == [n, rows, columns, shape.out_channels]
    };
    match Windows::new(shape, (height, width)) {
        Some(windows)
            if fits(&windows)
                && windows.image_len() > 0
                && windows.count() * shape.out_channels > 0 =>
        {
            Ok(windows)
        }
        _ => bail!(
            "{:?} is not a gradient of {shape:?} for {n} images of {height}x{width}",
            gradient.dims()
        ),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::models::testing::uniform;

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor) {
        assert_eq!(ours.dims(), theirs.dims(), "{what}");
        let largest = numbers(theirs)
            .iter()
            .fold(0f32, |most, x| most.max(x.abs()));
        for (a, b) in numbers(ours).iter().zip(numbers(theirs)) {
            assert!((a - b).abs() < 2e-4 * (1.0 + largest), "{what}: {a}, {b}");
        }
    }

    #[test]
    fn results_and_gradients_are_candle_s() {
        // Those with 32 channels and more are Winograd's.
        let kinds = [
            (3, 1, 1),
            (3, 1, 0),
            (3, 2, 1),
            (1, 2, 0),
            (1, 1, 0),
            (1, 1, 1),
        ];
        let sizes = [(7, 7), (6, 6), (7, 6), (16, 16)];
        let channels = [(3, 5), (32, 32), (32, 64)];
        let of_kind = |kind| sizes.iter().map(move |size| (kind, *size));
        let shapes = kinds.into_iter().flat_map(of_kind);
        let shapes = shapes.flat_map(|shape| channels.map(|channels| (shape, channels)));
        for (((kernel, stride, padding), (height, width)), (inputs, outputs)) in shapes {
            let shape = Conv2dShape {
                padding: (padding, padding),
                ..Conv2dShape::same(inputs, outputs, kernel).with_stride(stride)
            };
            let what = format!("{shape:?} {height}x{width}");
            // More images than are added up at once.
            let x = Var::from_tensor(&uniform(&[9, height, width, inputs], 1)).unwrap();
            let weight = Var::from_tensor(&uniform(&[outputs, inputs, kernel, kernel], 2)).unwrap();
            let ours = x.apply_op2(&weight, TrainedConvOp(shape)).unwrap();
            let planes = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
            let theirs = planes.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let theirs = theirs.permute((0, 2, 3, 1)).unwrap();
            assert_close(&what, &ours, &theirs);

            // candle's gradient fails if rows and columns have different remainders under the
            // stride.
            if height == width {
                let pull = uniform(ours.dims(), 3);
                let gradients = |y: &Tensor| {
                    let sum = (y * &pull).unwrap().sum_all().unwrap();
                    let gradients = sum.backward().unwrap();
                    [&x, &weight].map(|of| gradients.get(of).unwrap().clone())
                };
                for (ours, theirs) in gradients(&ours).iter().zip(gradients(&theirs)) {
                    assert_close(&what, ours, &theirs);
                }
            }
        }
    }

    #[test]
    fn gradients_do_not_depend_on_the_number_of_threads() {
        let shape = Conv2dShape::same(8, 8, 3);
        let x = Var::from_tensor(&uniform(&[20, 9, 9, 8], 1)).unwrap();
        let weight = Var::from_tensor(&uniform(&[8, 8, 3, 3], 2)).unwrap();
        let gradients = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let y = x.apply_op2(&weight, TrainedConvOp(shape)).unwrap();
                let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                [&x, &weight].map(|of| numbers(gradients.get(of).unwrap()))
            })
        };
        assert_eq!(gradients(1), gradients(3));
    }

    #[test]
    fn images_smaller_than_the_kernel_are_refused() {
        let shape = Conv2dShape {
            padding: (0, 0),
            ..Conv2dShape::same(1, 1, 3)
        };
        let x = Tensor::zeros((1, 2, 2, 1), DType::F32, &Device::Cpu).unwrap();
        let weight = Tensor::zeros((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(x.apply_op2(&weight, TrainedConvOp(shape)).is_err());
    }
}
