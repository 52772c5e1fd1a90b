//! Attention, by blocks of queries.

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use super::exp::exp;
use super::gemm::{Matrix, multiply};

/// Arguments: `q [n, tq, d]`, `k [n, tk, d]`, `v [n, tk, dv]`, of any strides.
pub(in crate::kernels) struct AttentionOp {
    pub scale: f64,
}

/// Queries of one task.
const QUERIES: usize = 64;

thread_local! {
    /// The scores of one block of queries, reused from task to task.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A batch of matrices in a strided tensor.
#[derive(Clone, Copy)]
struct Batch<'a> {
    data: &'a [f32],
    strides: [usize; 3],
    cols: usize,
}

impl<'a> Batch<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (_, _, cols) = layout.shape().dims3()?;
        let data = storage.as_slice::<f32>()?;
        let (Some(data), &[a, b, c]) = (data.get(layout.start_offset()..), layout.stride()) else {
            bail!("an argument with layout {layout:?} does not fit its storage");
        };
        Ok(Self {
            data,
            strides: [a, b, c],
            cols,
        })
    }

    /// Rows `from` to `from + rows` of matrix `index`.
    fn matrix(&self, index: usize, from: usize, rows: usize) -> Matrix<'a> {
        let [batch, row, col] = self.strides;
        Matrix {
            data: self
                .data
                .get(index * batch + from * row..)
                .unwrap_or_default(),
            rows,
            cols: self.cols,
            row_stride: row,
            col_stride: col,
        }
    }
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, queries, depth) = q_layout.shape().dims3()?;
        let (_, keys, values) = v_layout.shape().dims3()?;
        if k_layout.dims() != [n, keys, depth] || v_layout.dims() != [n, keys, values] || keys == 0
        {
            bail!(
                "attention between q {:?}, k {:?} and v {:?}",
                q_layout.dims(),
                k_layout.dims(),
                v_layout.dims()
            );
        }
        let q = Batch::new(q, q_layout)?;
        let k = Batch::new(k, k_layout)?;
        let v = Batch::new(v, v_layout)?;
        let mut out = vec![0f32; n * queries * values];
        if !out.is_empty() {
            let mut tasks = Vec::new();
            for (index, out) in out.chunks_exact_mut(queries * values).enumerate() {
                for (block, out) in out.chunks_mut(QUERIES * values).enumerate() {
                    tasks.push((index, block * QUERIES, out));
                }
            }
            tasks.into_par_iter().try_for_each(|(index, from, out)| {
                let rows = out.len() / values;
                SCORES.with_borrow_mut(|scores| {
                    scores.resize(rows * keys, 0.0);
                    let queries = q.matrix(index, from, rows);
                    multiply(scores, queries, k.matrix(index, 0, keys).transposed())?;
                    for row in scores.chunks_exact_mut(keys) {
                        softmax(row, self.scale as f32);
                    }
                    multiply(
                        out,
                        Matrix::new(scores, rows, keys),
                        v.matrix(index, 0, keys),
                    )
                })
            })?;
        }
        Ok((CpuStorage::F32(out), Shape::from((n, queries, values))))
    }
}

/// `softmax(scale · row)` in place.
fn softmax(row: &mut [f32], scale: f32) {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in row.chunks_mut(LANES) {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *value *= scale;
            // Unlike `max`, one instruction; a NaN is left to the sum.
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0f32; LANES];
    for block in row.chunks_mut(LANES) {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *value = exp(*value - largest);
            *lane += *value;
        }
    }
    let inverse = 1.0 / lanes.iter().sum::<f32>();
    for value in row {
        *value *= inverse;
    }
}
