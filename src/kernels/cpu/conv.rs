//! Convolution of images whose channels lie side by side.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, bail};

use half::bf16;

use super::contiguous;
use super::direct::{self, Direct};
use super::micro::GemmElement;
use super::scratch::uninit_output;
use super::winograd::Winograd;
use crate::kernels::Conv2dShape;

/// A convolution's weights as its algorithm wants them.
#[derive(Debug)]
pub(in crate::kernels) struct PackedConv {
    shape: Conv2dShape,
    bias: Vec<f32>,
    weight: OfType,
}

/// By the type of the maps that come in and go out.
#[derive(Debug)]
enum OfType {
    F32(Packed<f32>),
    Bf16(Packed<bf16>),
}

#[derive(Debug)]
enum Packed<T: GemmElement> {
    Direct(Direct<T>),
    Winograd(Winograd<T>),
}

impl<T: GemmElement> Packed<T> {
    fn new(shape: &Conv2dShape, weight: &[f32]) -> Result<Self> {
        let token = T::token()?;
        Ok(match Winograd::<T>::tile(shape) {
            Some(tile) => Self::Winograd(Winograd::new(token, tile, shape, weight)?),
            None => Self::Direct(Direct::new(token, shape, weight)),
        })
    }
}

/// One call's geometry.
#[derive(Clone, Copy)]
pub(super) struct Call<'a, E> {
    pub shape: &'a Conv2dShape,
    /// Rows and columns of an image.
    pub input: (usize, usize),
    /// Rows and columns of a result.
    pub output: (usize, usize),
    pub x: &'a [E],
    pub bias: &'a [f32],
    /// Added to the result; lies as the result does.
    pub residual: Option<&'a [E]>,
    pub relu: bool,
}

impl PackedConv {
    /// Packs `weight [out, in, rows, columns]` for maps of type `dtype`. The algorithm follows from that
    /// and the layer's shape alone.
    ///
    /// # Errors
    /// As [`Isa::current`](super::isa::Isa::current); for bf16 as [`Avx512Bf16Token::current`](super::Avx512Bf16Token::current).
    pub fn new(shape: Conv2dShape, dtype: DType, weight: &[f32], bias: Vec<f32>) -> Result<Self> {
        let weight = match dtype {
            DType::BF16 => OfType::Bf16(Packed::new(&shape, weight)?),
            _ => OfType::F32(Packed::new(&shape, weight)?),
        };
        Ok(Self {
            shape,
            bias,
            weight,
        })
    }

    fn run(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        residual: Option<(&CpuStorage, &Layout)>,
        relu: bool,
    ) -> Result<(CpuStorage, Shape)> {
        match &self.weight {
            OfType::F32(weight) => self.run_on(weight, (x, layout), residual, relu),
            OfType::Bf16(weight) => self.run_on(weight, (x, layout), residual, relu),
        }
    }

    fn run_on<T: GemmElement>(
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
        let call = Call {
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

/// Arguments: the image `[n, h, w, in]` and, with two, what is added to the result, both contiguous.
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
