//! Attention, a few queries at a time.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};

use super::element::{Element, match_dtype};
use super::exp::exp;
use super::isa::Kernel;
use super::micro::{Dst, Epilogue, GemmElement, Lhs, multiply};
use super::panels::Panels;
use super::scratch::{Scratch, uninit_output};
use super::simd::Simd;
use super::tasks;

/// Arguments: `q [n, heads, tq, d]`, `k [n, heads, tk, d]`, `v [n, heads, tk, dv]`, of any strides. The
/// result is `[n, tq, heads, dv]`.
pub(in crate::kernels) struct AttentionOp {
    pub scale: f64,
    /// Query `i` sees the keys up to `i` only.
    pub causal: bool,
}

/// Queries whose scores are held at a time: three register tiles of 8 rows with AVX-512, six or four of the others'.
const QUERIES: usize = 24;

/// Heads of matrices in a strided tensor.
#[derive(Clone, Copy)]
struct Heads<'a, E> {
    data: &'a [E],
    strides: [usize; 4],
}

impl<'a, E: Element> Heads<'a, E> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let data = storage.as_slice::<E>()?.get(layout.start_offset()..);
        let (Some(data), &[a, b, c, d], &[.., rows, columns]) =
            (data, layout.stride(), layout.dims())
        else {
            bail!("an argument with layout {layout:?} does not fit its storage");
        };
        if (c == 0 && rows > 1) || (d == 0 && columns > 1) {
            bail!("an argument with layout {layout:?} repeats its rows or columns");
        }
        // The stride of a single one is never walked.
        Ok(Self {
            data,
            strides: [a, b, c.max(1), d.max(1)],
        })
    }

    fn head(&self, image: usize, head: usize) -> &'a [E] {
        let [images, heads, ..] = self.strides;
        self.data
            .get(image * images + head * heads..)
            .unwrap_or_default()
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
        let (q, k, v) = ((q, q_layout), (k, k_layout), (v, v_layout));
        match_dtype!(q.0, T => self.run::<T>(q, k, v))
    }
}

impl AttentionOp {
    fn run<T: GemmElement>(
        &self,
        (q, q_layout): (&CpuStorage, &Layout),
        (k, k_layout): (&CpuStorage, &Layout),
        (v, v_layout): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (n, heads, queries, depth) = q_layout.shape().dims4()?;
        let (_, _, keys, values) = v_layout.shape().dims4()?;
        if k_layout.dims() != [n, heads, keys, depth]
            || v_layout.dims() != [n, heads, keys, values]
            || keys == 0
        {
            let [q, k, v] = [q_layout, k_layout, v_layout].map(Layout::dims);
            bail!("attention between q {q:?}, k {k:?} and v {v:?}");
        }
        let token = T::token()?;
        let q = Heads::<T>::new(q, q_layout)?;
        let k = Heads::<T>::new(k, k_layout)?;
        let v = Heads::<T>::new(v, v_layout)?;
        let mut out = uninit_output(n * queries * heads * values);
        if !out.is_empty() {
            // Keys and values of every head, packed.
            let mut packed: Vec<Option<(Panels<T>, Panels<T>)>> = vec![None; n * heads];
            let work = 4 * n * heads * keys * (depth + values);
            let parts = packed.iter_mut().enumerate().collect();
            type Part<'a, T> = (usize, &'a mut Option<(Panels<T>, Panels<T>)>);
            tasks::each(work, parts, |(index, packed): Part<'_, T>| {
                let (image, head) = (index / heads, index % heads);
                let ([_, _, row, col], k) = (k.strides, k.head(image, head));
                let keys_packed = Panels::new(token, (depth, keys), depth, k, row, |d| d * col);
                let ([_, _, row, col], v) = (v.strides, v.head(image, head));
                let values_packed = Panels::new(token, (keys, values), keys, v, col, |t| t * row);
                *packed = Some((keys_packed, values_packed));
            });

            // Some queries of all heads of an image.
            let mut blocks = Vec::new();
            for (image, out) in out.chunks_exact_mut(queries * heads * values).enumerate() {
                for (block, out) in out.chunks_mut(QUERIES * heads * values).enumerate() {
                    blocks.push((image, block * QUERIES, out));
                }
            }
            let work = n * heads * queries * keys * (depth + values);
            tasks::each(
                work,
                blocks,
                |(image, from, out): (usize, usize, &mut [T])| {
                    let rows = out.len() / (heads * values);
                    let mut copy = Scratch::<T>::new(rows * depth);
                    let mut scores = Scratch::<f32>::new(rows * keys);
                    let mut weights = Scratch::<T>::new(rows * keys);
                    for head in 0..heads {
                        let Some(Some((keys_packed, values_packed))) =
                            packed.get(image * heads + head)
                        else {
                            continue;
                        };
                        let [_, _, row, col] = q.strides;
                        let q = q.head(image, head);
                        let q = q.get(from * row..).unwrap_or_default();
                        let lhs = if col == 1 {
                            Lhs::rows(q, row, depth)
                        } else {
                            for (r, to) in copy.chunks_exact_mut(depth).enumerate() {
                                let q = q.get(r * row..).unwrap_or_default();
                                for (to, q) in to.iter_mut().zip(q.iter().step_by(col)) {
                                    *to = *q;
                                }
                            }
                            Lhs::rows(&copy, depth, depth)
                        };
                        product(rows, lhs, keys_packed, &mut scores, (0, keys));
                        let softmax = Softmax {
                            rows: &mut scores,
                            weights: &mut weights,
                            keys,
                            scale: self.scale as f32,
                            first: self.causal.then_some(from),
                        };
                        T::run(token, softmax);
                        let lhs = Lhs::rows(&weights, keys, keys);
                        product(
                            rows,
                            lhs,
                            values_packed,
                            out,
                            (head * values, heads * values),
                        );
                    }
                },
            );
        }
        let shape = Shape::from((n, queries, heads, values));
        Ok((T::storage(out), shape))
    }
}

fn product<T: GemmElement, O: Element>(
    rows: usize,
    lhs: Lhs<'_, T>,
    rhs: &Panels<T>,
    to: &mut [O],
    (at, row): (usize, usize),
) {
    for panel in rhs.iter() {
        let at = at + panel.first;
        let mut out = Dst { data: to, at, row };
        multiply(rhs.token(), rows, lhs, panel, &mut out, Epilogue::default());
    }
}

/// `softmax(scale · row)` of every row.
struct Softmax<'a, E> {
    /// Overwritten.
    rows: &'a mut [f32],
    weights: &'a mut [E],
    keys: usize,
    scale: f32,
    /// The first row's query, where a query does not see the keys after it.
    first: Option<usize>,
}

impl<E: Element> Kernel for Softmax<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        const LANES: usize = 16;
        let rows = self.rows.chunks_exact_mut(self.keys);
        let rows = rows.zip(self.weights.chunks_exact_mut(self.keys));
        for (index, (row, weights)) in rows.enumerate() {
            let seen = match self.first {
                Some(first) => (first + index + 1).min(self.keys),
                None => self.keys,
            };
            let row = row.split_at_mut(seen).0;
            let (weights, hidden) = weights.split_at_mut(seen);
            hidden.fill(E::of(0.0));
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let (blocks, rest) = row.as_chunks_mut::<LANES>();
            for block in blocks {
                for (lane, value) in lanes.iter_mut().zip(block) {
                    *value *= self.scale;
                    // Unlike `max`, one instruction; a NaN is left to the sum.
                    *lane = if *value > *lane { *value } else { *lane };
                }
            }
            for (lane, value) in lanes.iter_mut().zip(rest) {
                *value *= self.scale;
                *lane = if *value > *lane { *value } else { *lane };
            }
            let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let mut lanes = [0f32; LANES];
            let (blocks, rest) = row.as_chunks_mut::<LANES>();
            for block in blocks {
                for (lane, value) in lanes.iter_mut().zip(block) {
                    *value = exp(*value - largest);
                    *lane += *value;
                }
            }
            for (lane, value) in lanes.iter_mut().zip(rest) {
                *value = exp(*value - largest);
                *lane += *value;
            }
            let inverse = 1.0 / lanes.iter().sum::<f32>();
            for (weight, value) in weights.iter_mut().zip(row) {
                *weight = E::of(*value * inverse);
            }
        }
    }
}
