//! Convolution of channels-last images.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, bail};
use half::bf16;

use super::conv_call::ConvCall;
use super::direct::{self, Direct};
use super::dispatch::Element;
use super::gemm_element::GemmElement;
use super::scratch::uninit_output;
use super::tensors::contiguous;
use super::winograd::Winograd;
use crate::kernels::shapes::Conv2dShape;

/// Weights of a convolution, packed for its algorithm.
#[derive(Debug)]
pub(in crate::kernels) struct PackedConv {
    shape: Conv2dShape,
    bias: Vec<f32>,
    weight: TypedWeight,
}

/// The packed weight, by the type of the input and output maps.
#[derive(Debug)]
enum TypedWeight {
    F32(Packed<f32>),
    Bf16(Packed<bf16>),
}

#[derive(Debug)]
enum Packed<T: Element + GemmElement> {
    Direct(Direct<T>),
    Winograd(Winograd<T>),
}

impl<T: Element + GemmElement> Packed<T> {
    fn new(shape: &Conv2dShape, weight: &[f32]) -> Result<Self> {
        let token = T::token()?;
        Ok(match Winograd::<T>::tile(shape) {
            Some(tile) => Self::Winograd(Winograd::new(token, tile, shape, weight)?),
            None => Self::Direct(Direct::new(token, shape, weight)),
        })
    }
}

impl PackedConv {
    /// Packs `weight [out, in, rows, columns]` for maps of type `dtype`. The algorithm depends on
    /// that type and the layer's shape only.
    ///
    /// # Errors
    /// As [`Isa::current`](super::isa::Isa::current); for bf16 as
    /// [`Avx512Bf16Token::current`](super::avx512_bf16::Avx512Bf16Token::current).
    pub fn new(shape: Conv2dShape, dtype: DType, weight: &[f32], bias: Vec<f32>) -> Result<Self> {
        let weight = match dtype {
            DType::BF16 => TypedWeight::Bf16(Packed::new(&shape, weight)?),
            _ => TypedWeight::F32(Packed::new(&shape, weight)?),
        };
        Ok(Self {
            shape,
            bias,
            weight,
        })
    }

    pub(super) fn run(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        residual: Option<(&CpuStorage, &Layout)>,
        relu: bool,
    ) -> Result<(CpuStorage, Shape)> {
        match &self.weight {
            TypedWeight::F32(weight) => self.run_typed(weight, (x, layout), residual, relu),
            TypedWeight::Bf16(weight) => self.run_typed(weight, (x, layout), residual, relu),
        }
    }

    fn run_typed<T: Element + GemmElement>(
        &self,
        weight: &Packed<T>,
        (x, layout): (&CpuStorage, &Layout),
        residual: Option<(&CpuStorage, &Layout)>,
        relu: bool,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, channels) = layout.shape().dims4()?;
        let output = match self.shape.output_size(height, width) {
            Some(output) if channels == self.shape.in_channels => output,
            _ => bail!("{:?} does not fit {height}x{width}x{channels}", self.shape),
        };
        let dims = (n, output.0, output.1, self.shape.out_channels);
        let residual = match residual {
            Some((residual, layout)) if layout.shape().dims4()? == dims => {
                Some(contiguous(residual, layout)?)
            }
            Some((_, layout)) => bail!("{layout:?} cannot be added to a result of {dims:?}"),
            None => None,
        };
        let mut out = uninit_output(n * output.0 * output.1 * self.shape.out_channels);
        let call = ConvCall {
            shape: &self.shape,
            input: (height, width),
            output,
            x: contiguous(x, layout)?,
            bias: &self.bias,
            residual,
            relu,
        };
        if !out.is_empty() {
            match weight {
                Packed::Direct(direct) if direct::is_pointwise(&self.shape) => {
                    direct.run_pointwise(&call, &mut out);
                }
                Packed::Direct(direct) => direct.run(&call, &mut out),
                Packed::Winograd(winograd) => winograd.run(&call, &mut out),
            }
        }
        Ok((T::storage(out), Shape::from(dims)))
    }
}

/// Convolution operator. Arguments, both contiguous: the image `[n, h, w, in]` and, optionally, the
/// residual that is added to the result.
pub(in crate::kernels) struct ConvOp<'a> {
    pub packed: &'a PackedConv,
    pub relu: bool,
}

impl CustomOp1 for ConvOp<'_> {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.packed.run(x, layout, None, self.relu)
    }
}

impl CustomOp2 for ConvOp<'_> {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let residual = Some((residual, residual_layout));
        self.packed.run(x, layout, residual, self.relu)
    }
}
