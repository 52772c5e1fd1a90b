//! Convolution of images whose channels lie side by side.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, bail};

use super::contiguous;
use super::direct::{self, Direct};
use super::path::Path;
use super::scratch::results;
use super::winograd::Winograd;
use crate::kernels::Conv2dShape;

/// A convolution's weights as its algorithm wants them.
#[derive(Debug)]
pub(in crate::kernels) struct PackedConv {
    shape: Conv2dShape,
    bias: Vec<f32>,
    weight: Packed,
}

#[derive(Debug)]
enum Packed {
    Direct(Direct),
    Winograd(Winograd),
}

/// One call's geometry.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub shape: &'a Conv2dShape,
    /// Rows and columns of an image.
    pub input: (usize, usize),
    /// Rows and columns of a result.
    pub output: (usize, usize),
    pub x: &'a [f32],
    pub bias: &'a [f32],
    /// Added to the result; lies as the result does.
    pub residual: Option<&'a [f32]>,
    pub relu: bool,
}

impl PackedConv {
    /// Packs `weight [out, in, rows, columns]`. The algorithm follows from the layer's shape alone.
    ///
    /// # Errors
    /// As [`Path::current`].
    pub fn new(shape: Conv2dShape, weight: &[f32], bias: Vec<f32>) -> Result<Self> {
        let path = Path::current()?;
        let weight = match Winograd::tile(&shape) {
            Some(tile) => Packed::Winograd(Winograd::new(path, tile, &shape, weight)),
            None => Packed::Direct(Direct::new(path, &shape, weight)),
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
        let mut out = results(n * output.0 * output.1 * self.shape.out_channels);
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
            match &self.weight {
                Packed::Direct(direct) if direct::is_pointwise(&self.shape) => {
                    direct.run_pointwise(&call, &mut out);
                }
                Packed::Direct(direct) => direct.run(&call, &mut out),
                Packed::Winograd(winograd) => winograd.run(&call, &mut out),
            }
        }
        Ok((CpuStorage::F32(out), Shape::from(dims)))
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
