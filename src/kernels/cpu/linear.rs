//! The fully connected layer.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::micro::{Finish, Lhs, Out, multiply};
use super::panels::{Panel, Panels};
use super::path::Path;
use super::scratch::{Scratch, results};
use super::{contiguous, tasks};

/// A layer's weight as the product wants it.
#[derive(Debug)]
pub(in crate::kernels) struct PackedLinear {
    weight: Panels,
    bias: Vec<f32>,
}

impl PackedLinear {
    /// Packs `weight [outputs, inputs]`.
    ///
    /// # Errors
    /// As [`Path::current`].
    pub fn new((inputs, outputs): (usize, usize), weight: &[f32], bias: Vec<f32>) -> Result<Self> {
        let path = Path::current()?;
        Ok(Self {
            weight: Panels::new(path, (inputs, outputs), weight, inputs, |k| k),
            bias,
        })
    }
}

/// Argument: rows `[rows, in]`, contiguous.
pub(in crate::kernels) struct LinearOp<'a>(pub &'a PackedLinear);

impl CustomOp1 for LinearOp<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        let PackedLinear { weight, bias } = self.0;
        let outputs = weight.columns();
        if inputs != weight.depth() {
            bail!("{inputs} inputs for a layer of {}", weight.depth());
        }
        let x = contiguous(x, layout)?;
        let lhs = Lhs::rows(x, inputs, inputs);
        let mut out = results(rows * outputs);
        // The weight is read once: each task takes one panel, and all rows.
        let mut products = Scratch::new(rows * outputs);
        let mut rest = &mut *products;
        let mut parts: Vec<(Panel<'_>, &mut [f32])> = Vec::new();
        for panel in weight.iter() {
            let (part, others) = rest.split_at_mut(rows * panel.columns);
            parts.push((panel, part));
            rest = others;
        }
        tasks::each(out.len() * inputs, parts, |(panel, part)| {
            let finish = Finish {
                bias: bias.get(panel.first..panel.first + panel.columns),
                ..Finish::default()
            };
            let mut out = Out {
                data: part,
                at: 0,
                row: panel.columns,
            };
            multiply(weight.path(), rows, lhs, panel, &mut out, finish);
        });
        let mut from = &*products;
        for panel in weight.iter() {
            let (part, others) = from.split_at(rows * panel.columns);
            let to = out.chunks_exact_mut(outputs);
            for (to, part) in to.zip(part.chunks_exact(panel.columns)) {
                if let Some(to) = to.get_mut(panel.first..panel.first + panel.columns) {
                    to.copy_from_slice(part);
                }
            }
            from = others;
        }
        Ok((CpuStorage::F32(out), Shape::from((rows, outputs))))
    }
}
