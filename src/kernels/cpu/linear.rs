//! Fully connected layer.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, bail};

use half::bf16;

use super::dispatch::Element;
use super::gemm::{Dst, Epilogue, Lhs, multiply};
use super::gemm_element::GemmElement;
use super::panels::{Panel, Panels};
use super::scratch::{Scratch, uninit_output};
use super::tasks;
use super::tensors::contiguous;

/// Weight and bias of a layer, packed for products.
#[derive(Debug)]
pub(in crate::kernels) struct PackedLinear {
    weight: Packed,
    bias: Vec<f32>,
}

/// The packed weight, by the type of the input and output rows.
#[derive(Debug)]
enum Packed {
    F32(Panels<f32>),
    Bf16(Panels<bf16>),
}

impl PackedLinear {
    /// Packs `weight [outputs, inputs]` for rows of type `dtype`.
    ///
    /// # Errors
    /// As [`Isa::current`](super::isa::Isa::current); for bf16 as
    /// [`Avx512Bf16Token::current`](super::avx512_bf16::Avx512Bf16Token::current).
    pub fn new(
        (inputs, outputs): (usize, usize),
        dtype: DType,
        weight: &[f32],
        bias: Vec<f32>,
    ) -> Result<Self> {
        fn pack<T: GemmElement>(size: (usize, usize), weight: &[f32]) -> Result<Panels<T>> {
            Ok(Panels::new(
                T::token()?,
                size,
                size.0,
                weight,
                size.0,
                |k| k,
            ))
        }
        let weight = match dtype {
            DType::BF16 => Packed::Bf16(pack((inputs, outputs), weight)?),
            _ => Packed::F32(pack((inputs, outputs), weight)?),
        };
        Ok(Self { weight, bias })
    }
}

/// Argument: rows `[rows, in]`, contiguous.
pub(in crate::kernels) struct LinearOp<'a>(pub &'a PackedLinear);

impl CustomOp1 for LinearOp<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match &self.0.weight {
            Packed::F32(weight) => self.run(weight, x, layout),
            Packed::Bf16(weight) => self.run(weight, x, layout),
        }
    }
}

impl LinearOp<'_> {
    fn run<T: Element + GemmElement>(
        &self,
        weight: &Panels<T>,
        x: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        let bias = &self.0.bias;
        let outputs = weight.columns();
        if inputs != weight.depth() {
            bail!("{inputs} inputs for a layer of {}", weight.depth());
        }
        let x = contiguous::<T>(x, layout)?;
        let lhs = Lhs::rows(x, inputs, inputs);
        let mut out = uninit_output(rows * outputs);
        // Each task multiplies one panel with all rows, so that the weight is read once. Its
        // columns are contiguous in `products` and copied to their rows at the end.
        let mut products = Scratch::<T>::new(rows * outputs);
        let mut rest = &mut *products;
        let mut parts: Vec<(Panel<'_, T>, &mut [T])> = Vec::new();
        for panel in weight.iter() {
            let (part, others) = rest.split_at_mut(rows * panel.columns);
            parts.push((panel, part));
            rest = others;
        }
        tasks::for_each(out.len() * inputs, parts, |(panel, part)| {
            let epilogue = Epilogue {
                bias: bias.get(panel.first..panel.first + panel.columns),
                ..Epilogue::default()
            };
            let mut dst = Dst {
                data: part,
                offset: 0,
                row_stride: panel.columns,
            };
            multiply(weight.token(), rows, lhs, panel, &mut dst, epilogue);
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
        Ok((T::storage(out), Shape::from((rows, outputs))))
    }
}
