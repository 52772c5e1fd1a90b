//! Attention, a block of queries at a time, so that the matrix of all scores is never stored.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};

use super::dispatch::{Element, match_dtype};
use super::exp::exp;
use super::gemm::{Dst, Epilogue, Lhs, multiply};
use super::gemm_element::GemmElement;
use super::isa::Kernel;
use super::panels::Panels;
use super::scratch::{Scratch, uninit_output};
use super::simd::Simd;
use super::tasks;

/// Attention operator. Arguments: `q [n, heads, tq, d]`, `k [n, heads, tk, d]`,
/// `v [n, heads, tk, dv]`, of any strides. The result is `[n, tq, heads, dv]`.
pub(in crate::kernels) struct AttentionOp {
    pub scale: f64,
    /// Query `i` attends to the keys `0..=i` only.
    pub causal: bool,
}

/// Queries per block: three register tiles of 8 rows with AVX-512, six of 4 or four of 6 rows with
/// the other instruction sets.
const QUERIES: usize = 24;

/// The matrices of all heads in a strided tensor `[n, heads, rows, columns]`.
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
        // The stride of a dimension of 1 is arbitrary and never used.
        Ok(Self {
            data,
            strides: [a, b, c.max(1), d.max(1)],
        })
    }

    /// Returns the numbers from the first of a head's matrix on.
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
    fn run<T: Element + GemmElement>(
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
        let call = AttentionCall {
            token: T::token()?,
            scale: self.scale as f32,
            causal: self.causal,
            n,
            heads,
            queries,
            keys,
            depth,
            values,
            q: Heads::<T>::new(q, q_layout)?,
            k: Heads::<T>::new(k, k_layout)?,
            v: Heads::<T>::new(v, v_layout)?,
        };
        let mut out = uninit_output(n * queries * heads * values);
        if !out.is_empty() {
            let packed = call.pack();
            call.attend(&packed, &mut out);
        }
        let shape = Shape::from((n, queries, heads, values));
        Ok((T::storage(out), shape))
    }
}

/// Arguments and sizes of one call.
struct AttentionCall<'a, T: Element> {
    token: T::Token,
    scale: f32,
    causal: bool,
    n: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    depth: usize,
    values: usize,
    q: Heads<'a, T>,
    k: Heads<'a, T>,
    v: Heads<'a, T>,
}

/// The keys and the values of one head, packed for products.
type PackedHead<T> = (Panels<T>, Panels<T>);

impl<T: Element + GemmElement> AttentionCall<'_, T> {
    /// Packs the keys and values of every head of every image.
    fn pack(&self) -> Vec<Option<PackedHead<T>>> {
        let (keys, depth, values) = (self.keys, self.depth, self.values);
        let mut packed = vec![None; self.n * self.heads];
        let work = 4 * packed.len() * keys * (depth + values);
        let parts = packed.iter_mut().enumerate().collect();
        type Part<'a, T> = (usize, &'a mut Option<PackedHead<T>>);
        tasks::for_each(work, parts, |(index, packed): Part<'_, T>| {
            let (image, head) = (index / self.heads, index % self.heads);
            let ([_, _, row, col], k) = (self.k.strides, self.k.head(image, head));
            let packed_keys = Panels::new(self.token, (depth, keys), depth, k, row, |d| d * col);
            let ([_, _, row, col], v) = (self.v.strides, self.v.head(image, head));
            let packed_values = Panels::new(self.token, (keys, values), keys, v, col, |t| t * row);
            *packed = Some((packed_keys, packed_values));
        });
        packed
    }

    /// Computes all heads of all queries, a block of queries of one image per task.
    fn attend(&self, packed: &[Option<PackedHead<T>>], out: &mut [T]) {
        let row = self.heads * self.values;
        let mut blocks = Vec::new();
        for (image, out) in out.chunks_exact_mut(self.queries * row).enumerate() {
            for (block, out) in out.chunks_mut(QUERIES * row).enumerate() {
                blocks.push((image, block * QUERIES, out));
            }
        }
        let work = self.n * self.heads * self.queries * self.keys * (self.depth + self.values);
        tasks::for_each(work, blocks, |(image, from, out)| {
            self.attend_block(packed, (image, from), out);
        });
    }

    /// Computes all heads of the queries from `from` on, as many as `out` has rows.
    fn attend_block(
        &self,
        packed: &[Option<PackedHead<T>>],
        (image, from): (usize, usize),
        out: &mut [T],
    ) {
        let &Self {
            heads,
            keys,
            depth,
            values,
            ..
        } = self;
        let rows = out.len() / (heads * values);
        let mut copy = Scratch::<T>::new(rows * depth);
        let mut scores = Scratch::<f32>::new(rows * keys);
        let mut weights = Scratch::<T>::new(rows * keys);
        for head in 0..heads {
            let Some(Some((packed_keys, packed_values))) = packed.get(image * heads + head) else {
                continue;
            };
            let [_, _, row, col] = self.q.strides;
            let q = self.q.head(image, head);
            let q = q.get(from * row..).unwrap_or_default();
            // A product reads rows of contiguous numbers; other queries are copied.
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
            product(rows, lhs, packed_keys, &mut scores, (0, keys));
            let softmax = Softmax {
                rows: &mut scores,
                weights: &mut weights,
                keys,
                scale: self.scale,
                first: self.causal.then_some(from),
            };
            T::run(self.token, softmax);
            let lhs = Lhs::rows(&weights, keys, keys);
            let place = (head * values, heads * values);
            product(rows, lhs, packed_values, out, place);
        }
    }
}

/// Multiplies `rows` rows with all panels of `rhs` into `to`, whose row `r` begins at
/// `offset + r · row_stride`.
fn product<T: GemmElement, O: Element>(
    rows: usize,
    lhs: Lhs<'_, T>,
    rhs: &Panels<T>,
    to: &mut [O],
    (offset, row_stride): (usize, usize),
) {
    for panel in rhs.iter() {
        let mut dst = Dst {
            data: to,
            offset: offset + panel.first,
            row_stride,
        };
        multiply(rhs.token(), rows, lhs, panel, &mut dst, Epilogue::default());
    }
}

/// Kernel that computes `softmax(scale · row)` of every row.
struct Softmax<'a, E> {
    /// Scores; overwritten.
    rows: &'a mut [f32],
    weights: &'a mut [E],
    keys: usize,
    scale: f32,
    /// Index of the first row's query, if attention is causal.
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
            hidden.fill(E::narrow(0.0));
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let (blocks, rest) = row.as_chunks_mut::<LANES>();
            for block in blocks {
                for (lane, value) in lanes.iter_mut().zip(block) {
                    *value *= self.scale;
                    // Unlike `f32::max`, one instruction. A NaN reaches the result through the sum.
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
                *weight = E::narrow(*value * inverse);
            }
        }
    }
}
