//! The fully connected layer.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use super::contiguous;
use super::gemm::{Matrix, multiply};

/// Arguments: rows `[rows, in]`, the transposed weight `[in, out]` and the bias `[out]`, contiguous.
pub(in crate::kernels) struct LinearOp;

/// Rows are multiplied in blocks of exactly so many, the last one filled up with zeros: a product's
/// rounding may depend on its shape (for a single row, another kernel is chosen), so the shape must not
/// depend on the batch.
const ROWS: usize = 16;

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (weight_inputs, outputs) = weight_layout.shape().dims2()?;
        if weight_inputs != inputs || inputs == 0 || outputs == 0 {
            bail!("{inputs} inputs for a layer of {weight_inputs}x{outputs}");
        }
        let x = contiguous(x, x_layout)?;
        let weight = Matrix::new(contiguous(weight, weight_layout)?, inputs, outputs);
        let bias = contiguous(bias, bias_layout)?;
        let mut out = vec![0f32; rows * outputs];
        x.par_chunks(ROWS * inputs)
            .zip(out.par_chunks_mut(ROWS * outputs))
            .try_for_each(|(x, out)| {
                if x.len() == ROWS * inputs {
                    multiply(out, Matrix::new(x, ROWS, inputs), weight)?;
                } else {
                    let mut padded = vec![0f32; ROWS * inputs];
                    for (to, from) in padded.iter_mut().zip(x) {
                        *to = *from;
                    }
                    let mut result = vec![0f32; ROWS * outputs];
                    multiply(&mut result, Matrix::new(&padded, ROWS, inputs), weight)?;
                    for (to, from) in out.iter_mut().zip(&result) {
                        *to = *from;
                    }
                }
                for row in out.chunks_exact_mut(outputs) {
                    for (value, bias) in row.iter_mut().zip(bias) {
                        *value += bias;
                    }
                }
                Ok::<_, candle_core::Error>(())
            })?;
        Ok((CpuStorage::F32(out), Shape::from((rows, outputs))))
    }
}
