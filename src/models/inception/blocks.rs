//! The network's blocks, as tables: branches that run side by side, each a chain of convolutions.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernels::{Conv2d, Conv2dShape, Pool, avg_pool, concat, max_pool};

/// Of every batch norm.
const EPS: f64 = 1e-3;

/// One convolution of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    name: &'static str,
    out_channels: usize,
    kernel: (usize, usize),
    stride: usize,
    padded: bool,
}

impl Step {
    /// A convolution that keeps the size of its input.
    pub const fn new(name: &'static str, out_channels: usize, kernel: (usize, usize)) -> Self {
        Self {
            name,
            out_channels,
            kernel,
            stride: 1,
            padded: true,
        }
    }

    pub const fn unpadded(self) -> Self {
        Self {
            padded: false,
            ..self
        }
    }

    /// With stride 2; these have no padding.
    pub const fn halving(self) -> Self {
        Self {
            stride: 2,
            padded: false,
            ..self
        }
    }

    fn shape(&self, in_channels: usize) -> Conv2dShape {
        let (rows, columns) = self.kernel;
        Conv2dShape {
            in_channels,
            out_channels: self.out_channels,
            kernel: self.kernel,
            stride: self.stride,
            padding: if self.padded {
                (rows / 2, columns / 2)
            } else {
                (0, 0)
            },
            side: None,
        }
    }
}

/// A convolution, a batch norm and a ReLU (`BasicConv2d`).
#[derive(Debug, Clone)]
pub(super) struct ConvNorm(Conv2d);

impl ConvNorm {
    pub fn load(in_channels: usize, step: &Step, vb: &VarBuilder<'_>) -> Result<Self> {
        let shape = step.shape(in_channels);
        let (out, (rows, columns)) = (step.out_channels, step.kernel);
        let dtype = vb.dtype();
        let vb = vb.to_dtype(DType::F32);
        let weight = vb.get((out, in_channels, rows, columns), "conv.weight")?;
        let vb = vb.pp("bn");
        let (gain, bias) = (vb.get(out, "weight")?, vb.get(out, "bias")?);
        let (mean, var) = (vb.get(out, "running_mean")?, vb.get(out, "running_var")?);
        // norm(w x) = (w x - mean) · gain / √(var + eps) + bias is a convolution itself.
        let scale = (gain / (var + EPS)?.sqrt()?)?;
        let bias = (bias - (mean * &scale)?)?;
        let weight = weight.broadcast_mul(&scale.reshape((out, 1, 1, 1))?)?;
        let (weight, bias) = (weight.to_dtype(dtype)?, bias.to_dtype(dtype)?);
        Ok(Self(Conv2d::new(shape, weight, Some(bias))?))
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward_relu(x)
    }

    fn out_channels(&self) -> usize {
        self.0.shape().out_channels
    }
}

/// The first operation of a branch.
#[derive(Debug, Clone, Copy)]
enum Head {
    Nothing,
    /// The mean of 3×3 pixels; those outside the image do not count, unlike in torchvision's
    /// network.
    Average,
    /// The maximum of 3×3 pixels.
    Max,
    /// The maximum of 3×3 pixels, with stride 2.
    MaxHalving,
}

/// One branch of a table: a head, a chain, and the convolutions that its result fans out to.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    head: Head,
    chain: Vec<Step>,
    fan: Vec<Step>,
}

fn chain(steps: &[Step]) -> Branch {
    Branch {
        head: Head::Nothing,
        chain: steps.to_vec(),
        fan: Vec::new(),
    }
}

fn pooled(head: Head, steps: &[Step]) -> Branch {
    Branch {
        head,
        ..chain(steps)
    }
}

const ONE: (usize, usize) = (1, 1);
const THREE: (usize, usize) = (3, 3);
const ROW: (usize, usize) = (1, 7);
const COLUMN: (usize, usize) = (7, 1);

/// `FIDInceptionA`.
pub(super) fn mixed_a(pool: usize) -> Vec<Branch> {
    vec![
        chain(&[Step::new("branch1x1", 64, ONE)]),
        chain(&[
            Step::new("branch5x5_1", 48, ONE),
            Step::new("branch5x5_2", 64, (5, 5)),
        ]),
        chain(&[
            Step::new("branch3x3dbl_1", 64, ONE),
            Step::new("branch3x3dbl_2", 96, THREE),
            Step::new("branch3x3dbl_3", 96, THREE),
        ]),
        pooled(Head::Average, &[Step::new("branch_pool", pool, ONE)]),
    ]
}

/// torchvision's `InceptionB`.
pub(super) fn mixed_b() -> Vec<Branch> {
    vec![
        chain(&[Step::new("branch3x3", 384, THREE).halving()]),
        chain(&[
            Step::new("branch3x3dbl_1", 64, ONE),
            Step::new("branch3x3dbl_2", 96, THREE),
            Step::new("branch3x3dbl_3", 96, THREE).halving(),
        ]),
        pooled(Head::MaxHalving, &[]),
    ]
}

/// `FIDInceptionC`, `middle` channels wide inside.
pub(super) fn mixed_c(middle: usize) -> Vec<Branch> {
    vec![
        chain(&[Step::new("branch1x1", 192, ONE)]),
        chain(&[
            Step::new("branch7x7_1", middle, ONE),
            Step::new("branch7x7_2", middle, ROW),
            Step::new("branch7x7_3", 192, COLUMN),
        ]),
        chain(&[
            Step::new("branch7x7dbl_1", middle, ONE),
            Step::new("branch7x7dbl_2", middle, COLUMN),
            Step::new("branch7x7dbl_3", middle, ROW),
            Step::new("branch7x7dbl_4", middle, COLUMN),
            Step::new("branch7x7dbl_5", 192, ROW),
        ]),
        pooled(Head::Average, &[Step::new("branch_pool", 192, ONE)]),
    ]
}

/// torchvision's `InceptionD`.
pub(super) fn mixed_d() -> Vec<Branch> {
    vec![
        chain(&[
            Step::new("branch3x3_1", 192, ONE),
            Step::new("branch3x3_2", 320, THREE).halving(),
        ]),
        chain(&[
            Step::new("branch7x7x3_1", 192, ONE),
            Step::new("branch7x7x3_2", 192, ROW),
            Step::new("branch7x7x3_3", 192, COLUMN),
            Step::new("branch7x7x3_4", 192, THREE).halving(),
        ]),
        pooled(Head::MaxHalving, &[]),
    ]
}

/// `FIDInceptionE_1` and, with a max pool where it has an average pool, `FIDInceptionE_2`.
pub(super) fn mixed_e(max: bool) -> Vec<Branch> {
    let head = if max { Head::Max } else { Head::Average };
    vec![
        chain(&[Step::new("branch1x1", 320, ONE)]),
        Branch {
            fan: vec![
                Step::new("branch3x3_2a", 384, (1, 3)),
                Step::new("branch3x3_2b", 384, (3, 1)),
            ],
            ..chain(&[Step::new("branch3x3_1", 384, ONE)])
        },
        Branch {
            fan: vec![
                Step::new("branch3x3dbl_3a", 384, (1, 3)),
                Step::new("branch3x3dbl_3b", 384, (3, 1)),
            ],
            ..chain(&[
                Step::new("branch3x3dbl_1", 448, ONE),
                Step::new("branch3x3dbl_2", 384, THREE),
            ])
        },
        pooled(head, &[Step::new("branch_pool", 192, ONE)]),
    ]
}

/// A block: its branches' results are joined along the channels.
#[derive(Debug, Clone)]
pub(super) struct Mixed {
    branches: Vec<LoadedBranch>,
    out_channels: usize,
}

#[derive(Debug, Clone)]
struct LoadedBranch {
    head: Head,
    chain: Vec<ConvNorm>,
    fan: Vec<ConvNorm>,
}

impl Mixed {
    pub fn load(in_channels: usize, branches: &[Branch], vb: &VarBuilder<'_>) -> Result<Self> {
        let mut out_channels = 0;
        let mut loaded = Vec::new();
        for branch in branches {
            let mut channels = in_channels;
            let mut chain = Vec::new();
            for step in &branch.chain {
                chain.push(ConvNorm::load(channels, step, &vb.pp(step.name))?);
                channels = step.out_channels;
            }
            let fan = branch
                .fan
                .iter()
                .map(|step| ConvNorm::load(channels, step, &vb.pp(step.name)))
                .collect::<Result<Vec<_>>>()?;
            out_channels += match fan.is_empty() {
                true => channels,
                false => fan.iter().map(ConvNorm::out_channels).sum(),
            };
            loaded.push(LoadedBranch {
                head: branch.head,
                chain,
                fan,
            });
        }
        Ok(Self {
            branches: loaded,
            out_channels,
        })
    }

    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut parts = Vec::new();
        for branch in &self.branches {
            let mut h = branch.head.forward(x)?;
            for conv in &branch.chain {
                h = conv.forward(&h)?;
            }
            if branch.fan.is_empty() {
                parts.push(h);
            } else {
                for conv in &branch.fan {
                    parts.push(conv.forward(&h)?);
                }
            }
        }
        concat(&parts)
    }
}

impl Head {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        let keeping = Pool {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        match self {
            Self::Nothing => Ok(x.clone()),
            Self::Average => avg_pool(x, keeping),
            Self::Max => max_pool(x, keeping),
            Self::MaxHalving => max_pool(x, super::REDUCE),
        }
    }
}
