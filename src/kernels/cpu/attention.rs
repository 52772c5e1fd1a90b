//! Attention, a few queries at a time.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};

use super::exp::exp;
use super::micro::{Finish, Lhs, Out, multiply};
use super::panels::Panels;
use super::path::{Kernel, Path};
use super::scratch::Scratch;
use super::simd::Simd;
use super::tasks;

/// Arguments: `q [n, heads, tq, d]`, `k [n, heads, tk, d]`, `v [n, heads, tk, dv]`, of any strides. The
/// result is `[n, tq, heads, dv]`.
pub(in crate::kernels) struct AttentionOp {
    pub scale: f64,
    /// Query `i` sees the keys up to `i` only.
    pub causal: bool,
}

/// Queries whose scores are held at a time, a multiple of every register tile's rows.
const QUERIES: usize = 24;

/// Heads of matrices in a strided tensor.
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [f32],
    strides: [usize; 4],
}

impl<'a> Heads<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let data = storage.as_slice::<f32>()?.get(layout.start_offset()..);
        let (Some(data), &[a, b, c, d]) = (data, layout.stride()) else {
            bail!("an argument with layout {layout:?} does not fit its storage");
        };
        Ok(Self {
            data,
            strides: [a, b, c, d],
        })
    }

    fn head(&self, image: usize, head: usize) -> &'a [f32] {
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
        let (n, heads, queries, depth) = q_layout.shape().dims4()?;
        let (_, _, keys, values) = v_layout.shape().dims4()?;
        if k_layout.dims() != [n, heads, keys, depth]
            || v_layout.dims() != [n, heads, keys, values]
            || keys == 0
        {
            let [q, k, v] = [q_layout, k_layout, v_layout].map(Layout::dims);
            bail!("attention between q {q:?}, k {k:?} and v {v:?}");
        }
        let path = Path::current()?;
        let q = Heads::new(q, q_layout)?;
        let k = Heads::new(k, k_layout)?;
        let v = Heads::new(v, v_layout)?;
        let mut out = vec![0f32; n * queries * heads * values];
        if !out.is_empty() {
            // Keys and values of every head, packed.
            let mut packed: Vec<Option<(Panels, Panels)>> = vec![None; n * heads];
            let work = 4 * n * heads * keys * (depth + values);
            let parts = packed.iter_mut().enumerate().collect();
            type Part<'a> = (usize, &'a mut Option<(Panels, Panels)>);
            tasks::each(work, parts, |(index, packed): Part<'_>| {
                let (image, head) = (index / heads, index % heads);
                let ([_, _, row, col], k) = (k.strides, k.head(image, head));
                let keys_packed = Panels::new(path, (depth, keys), k, row, |d| d * col);
                let ([_, _, row, col], v) = (v.strides, v.head(image, head));
                let values_packed = Panels::new(path, (keys, values), v, col, |t| t * row);
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
                |(image, from, out): (usize, usize, &mut [f32])| {
                    let rows = out.len() / (heads * values);
                    let mut copy = Scratch::new(rows * depth);
                    let mut scores = Scratch::new(rows * keys);
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
                        path.run(Softmax {
                            rows: &mut scores,
                            keys,
                            scale: self.scale as f32,
                            first: self.causal.then_some(from),
                        });
                        let lhs = Lhs::rows(&scores, keys, keys);
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
        Ok((CpuStorage::F32(out), shape))
    }
}

fn product(rows: usize, lhs: Lhs<'_>, rhs: &Panels, to: &mut [f32], (at, row): (usize, usize)) {
    for panel in rhs.iter() {
        let at = at + panel.first;
        let mut out = Out { data: to, at, row };
        multiply(rhs.path(), rows, lhs, panel, &mut out, Finish::default());
    }
}

/// `softmax(scale · row)` of every row, in place.
struct Softmax<'a> {
    rows: &'a mut [f32],
    keys: usize,
    scale: f32,
    /// The first row's query, where a query does not see the keys after it.
    first: Option<usize>,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        const LANES: usize = 16;
        for (index, row) in self.rows.chunks_exact_mut(self.keys).enumerate() {
            let seen = match self.first {
                Some(first) => (first + index + 1).min(self.keys),
                None => self.keys,
            };
            let (row, hidden) = row.split_at_mut(seen);
            hidden.fill(0.0);
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
            for value in row {
                *value *= inverse;
            }
        }
    }
}
