//! DINOv2, a self-supervised vision transformer (Oquab et al. 2023, arXiv 2304.07193), with or
//! without registers (Darcet et al. 2023, arXiv 2309.16588).
//!
//! Reference: `dinov2/models/vision_transformer.py` of facebookresearch/dinov2. Weights keep the
//! names of the published checkpoints: Meta's (`blocks.0.attn.qkv.weight`) or those of
//! `modeling_dinov2.py` and `modeling_dinov2_with_registers.py` of huggingface/transformers
//! (`encoder.layer.0.attention.attention.query.weight`).
//!
//! The two references differ in one point: at another size than that of the training, transformers
//! interpolates the positions of models without registers without Meta's `interpolate_offset`. This
//! network follows Meta under either scheme of names.
//!
//! candle-transformers has a DINOv2 of its own. This one exists because that one interpolates
//! positions by the nearest neighbor and so is no DINOv2 at any size but 518, uses eps 1e-5 and the
//! tanh approximation of GELU, needs a classifier head, and lacks SwiGLU (the giant size) and
//! Meta's registers; `tests/oracle.rs` compares the two where they agree, and `benches/README.md`
//! has their speeds.

mod blocks;
mod config;
mod names;
mod positions;

pub use config::Dinov2Config;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::transformer::Block;
use crate::hub::{Checkpoint, CheckpointError, TensorInfo};
use crate::kernels::{Conv2d, Conv2dShape, LayerNorm, on_pool};
use blocks::load_block;
use names::Names;

/// The network: images to the class token after the final layer norm (`x_norm_clstoken`).
#[derive(Debug, Clone)]
pub struct Dinov2 {
    config: Dinov2Config,
    input_size: usize,
    dtype: DType,
    patch_embedding: Conv2d,
    /// `[1, 1 + registers, hidden_size]`: the class token with its position, then the registers.
    prefix: Tensor,
    /// `[patches, hidden_size]`, interpolated to the input's grid.
    position_embedding: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Dinov2 {
    /// Tensors that a checkpoint may hold beyond the network: the token that stands for a masked
    /// patch in training, and a classifier.
    pub const IGNORED: &'static [&'static str] = &[
        "mask_token",
        "embeddings.mask_token",
        "head.*",
        "classifier.*",
    ];

    /// Builds the network for images of `input_size` rows and columns from tensors under either
    /// scheme of names; all have the type and device of `vb`.
    ///
    /// # Errors
    /// A configuration that [`Dinov2Config::validate`] refuses, an `input_size` that is not a
    /// multiple of the patch size; a tensor that is missing or has another shape.
    pub fn new(config: &Dinov2Config, input_size: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        config.validate().map_err(candle_core::Error::wrap)?;
        let grid = config
            .grid_of(input_size)
            .map_err(candle_core::Error::wrap)?;
        let names = Names::of(vb);
        let hidden = config.hidden_size;
        let trained = config.grid();
        let embeddings = names.embeddings(vb);
        let class = embeddings.get((1, 1, hidden), "cls_token")?;
        let positions = embeddings.get(
            (1, trained * trained + 1, hidden),
            names.position_embedding(),
        )?;
        let class = (class + positions.narrow(1, 0, 1)?)?;
        let prefix = match config.num_register_tokens {
            0 => class,
            count => {
                let registers = embeddings.get((1, count, hidden), "register_tokens")?;
                Tensor::cat(&[&class, &registers], 1)?
            }
        };
        let patch_positions = positions.narrow(1, 1, trained * trained)?.squeeze(0)?;
        // The two families were trained with different interpolations; each is evaluated with its
        // own.
        let position_embedding = if config.num_register_tokens > 0 {
            positions::antialiased(&patch_positions, grid)?
        } else {
            positions::bicubic(&patch_positions, grid)?
        };
        let shape = Conv2dShape {
            in_channels: 3,
            out_channels: hidden,
            kernel: (config.patch_size, config.patch_size),
            stride: config.patch_size,
            padding: (0, 0),
            side: Some(grid),
        };
        let blocks = (0..config.num_hidden_layers)
            .map(|index| load_block(names, config, &names.blocks(vb).pp(index)))
            .collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            input_size,
            dtype: vb.dtype(),
            patch_embedding: Conv2d::load(shape, true, &names.patch_embedding(vb))?,
            prefix,
            position_embedding,
            blocks,
            norm: LayerNorm::load(hidden, config.layer_norm_eps, &vb.pp(names.norm()))?,
        })
    }

    /// Opens a checkpoint of either scheme of names; the configuration follows from the shapes of
    /// its tensors. In the folder of a hub repository, a `config.json` beside the weights must
    /// agree.
    ///
    /// # Errors
    /// [`CheckpointError`] when a file cannot be read, holds no DINOv2, lacks a tensor or has an
    /// unknown one.
    pub fn open(
        path: &Path,
        input_size: usize,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, CheckpointError> {
        let weights = Self::weights_in(path);
        let checkpoint = Checkpoint::open(&weights)?;
        let tensors: Vec<TensorInfo> = checkpoint.tensors().collect();
        let config =
            Dinov2Config::of_tensors(&tensors).map_err(|source| CheckpointError::Build {
                path: weights,
                cause: source,
            })?;
        let description = path.join("config.json");
        if description.is_file() {
            config.check(&description)?;
        }
        checkpoint.load(dtype, device, Self::IGNORED, |vb| {
            Self::new(&config, input_size, &vb)
        })
    }

    /// The file of the weights that `path` means: in a folder, `model.safetensors` or, where there
    /// is none, `pytorch_model.bin`, as on the hub; otherwise `path` itself.
    #[must_use]
    pub fn weights_in(path: &Path) -> PathBuf {
        if !path.is_dir() {
            return path.to_owned();
        }
        let safetensors = path.join("model.safetensors");
        let pickled = path.join("pytorch_model.bin");
        if !safetensors.exists() && pickled.exists() {
            pickled
        } else {
            safetensors
        }
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &Dinov2Config {
        &self.config
    }

    /// Rows and columns of its input.
    #[must_use]
    pub fn input_size(&self) -> usize {
        self.input_size
    }

    /// Normalized images `[n, 3, input_size, input_size]` to `f32` embeddings `[n, hidden_size]`.
    ///
    /// # Errors
    /// Images of another shape, and candle's errors.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        on_pool(x.device(), || self.forward_observed(x, |_, _| Ok(())))
    }

    /// [`Dinov2::forward`], passing the hidden states to `observe`: `0` before the first block, `k`
    /// after block `k`, each `[n, 1 + registers + patches, hidden_size]` with the class token
    /// first.
    ///
    /// # Errors
    /// As [`Dinov2::forward`], and the errors of `observe`.
    pub fn forward_observed(
        &self,
        x: &Tensor,
        mut observe: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let (n, ..) = x.dims4()?;
        let (size, hidden) = (self.input_size, self.config.hidden_size);
        if x.dims() != [n, 3, size, size] {
            bail!("input {:?} is not [{n}, 3, {size}, {size}]", x.dims());
        }
        let grid = size / self.config.patch_size;
        let patches = self.patch_embedding.forward(&x.to_dtype(self.dtype)?)?;
        let patches = patches
            .permute((0, 2, 3, 1))?
            .reshape((n, grid * grid, hidden))?
            .broadcast_add(&self.position_embedding)?;
        let prefix = self
            .prefix
            .broadcast_as((n, self.prefix.dim(1)?, hidden))?
            .contiguous()?;
        let mut h = Tensor::cat(&[&prefix, &patches], 1)?;
        observe(0, &h)?;
        for (index, block) in self.blocks.iter().enumerate() {
            h = block.forward(&h, false)?;
            observe(index + 1, &h)?;
        }
        let class = h.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        self.norm.forward(&class)?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests;
