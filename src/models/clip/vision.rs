//! The vision tower: a vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) and a
//! projection.

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::config::{ClipVisionConfig, HiddenAct};
use super::encoder::{Encoder, Names};
use crate::hub::{Checkpoint, CheckpointError, TensorInfo};
use crate::kernels::{Conv2d, Conv2dShape, LayerNorm, Linear, on_pool};

/// Channels of a head in all of OpenAI's models, where a checkpoint does not say how many heads
/// there are.
const HEAD: usize = 64;

/// The vision tower (`CLIPVisionModelWithProjection` of transformers, `VisionTransformer` of
/// OpenAI's).
#[derive(Debug, Clone)]
pub struct ClipVision {
    config: ClipVisionConfig,
    dtype: DType,
    patch_embedding: Conv2d,
    /// `[1, 1, hidden_size]`, its position included.
    class_token: Tensor,
    /// `[patches, hidden_size]`.
    position_embedding: Tensor,
    pre_layernorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    projection: Linear,
}

impl ClipVision {
    /// Tensors that a checkpoint may hold beyond the network: the text tower, the scale of the
    /// contrastive loss, positions that older versions of transformers saved, sizes that OpenAI's
    /// archive holds.
    pub const IGNORED: &'static [&'static str] = &[
        "logit_scale",
        "logit_bias",
        "text_model.*",
        "text_projection.weight",
        "vision_model.embeddings.position_ids",
        "transformer.*",
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.*",
        "text_projection",
        "input_resolution",
        "context_length",
        "vocab_size",
    ];

    /// Builds the network from tensors under Hugging Face's names (`vision_model.…` and
    /// `visual_projection.weight`) or OpenAI's (`visual.…`); all have the type and device of `vb`.
    ///
    /// # Errors
    /// A configuration that [`ClipVisionConfig::validate`] refuses; a tensor that is missing or has
    /// another shape.
    pub fn new(config: &ClipVisionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        config.validate().map_err(candle_core::Error::wrap)?;
        let names = if vb.contains_tensor("visual.conv1.weight") {
            Names::OpenAi
        } else {
            Names::HuggingFace
        };
        let (hidden, out) = (config.hidden_size, config.projection_dim);
        let tokens = config.grid() * config.grid() + 1;
        let tower = match names {
            Names::HuggingFace => vb.pp("vision_model"),
            Names::OpenAi => vb.pp("visual"),
        };
        let (class, positions, patches, projection) = match names {
            Names::HuggingFace => (
                tower.get(hidden, "embeddings.class_embedding")?,
                tower.get((tokens, hidden), "embeddings.position_embedding.weight")?,
                tower.pp("embeddings.patch_embedding"),
                vb.get((out, hidden), "visual_projection.weight")?,
            ),
            Names::OpenAi => (
                tower.get(hidden, "class_embedding")?,
                tower.get((tokens, hidden), "positional_embedding")?,
                tower.pp("conv1"),
                tower.get((hidden, out), "proj")?.t()?.contiguous()?,
            ),
        };
        let [pre, layers, post] = match names {
            // The misspelling is the checkpoint's.
            Names::HuggingFace => ["pre_layrnorm", "encoder.layers", "post_layernorm"],
            Names::OpenAi => ["ln_pre", "transformer.resblocks", "ln_post"],
        };
        let norm = |name| LayerNorm::load(hidden, config.layer_norm_eps, &tower.pp(name));
        let shape = Conv2dShape {
            in_channels: 3,
            out_channels: hidden,
            kernel: (config.patch_size, config.patch_size),
            stride: config.patch_size,
            padding: (0, 0),
            side: Some(config.grid()),
        };
        let class_token = (class + positions.get(0)?)?;
        Ok(Self {
            config: config.clone(),
            dtype: vb.dtype(),
            patch_embedding: Conv2d::load(shape, false, &patches)?,
            class_token: class_token.reshape((1, 1, hidden))?,
            position_embedding: positions.narrow(0, 1, tokens - 1)?.contiguous()?,
            pre_layernorm: norm(pre)?,
            encoder: Encoder::load(&config.shape(), false, names, &tower.pp(layers))?,
            post_layernorm: norm(post)?,
            projection: Linear::new(&projection, None)?,
        })
    }

    /// Opens a checkpoint of either naming; everything but the number of heads and the activation
    /// follows from the shapes of its tensors. `heads` is by default the number of heads of 64
    /// channels, as in all of OpenAI's models.
    ///
    /// # Errors
    /// [`CheckpointError`] when the file cannot be read, holds no vision transformer, lacks a
    /// tensor or has one that belongs to neither tower.
    pub fn open(
        path: &Path,
        heads: Option<usize>,
        hidden_act: HiddenAct,
        device: &Device,
    ) -> std::result::Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let build = |source| CheckpointError::Build {
            path: path.to_owned(),
            cause: source,
        };
        let tensors: Vec<TensorInfo> = checkpoint.tensors().collect();
        let mut config = config_of(&tensors, hidden_act).map_err(build)?;
        if let Some(heads) = heads {
            config.num_attention_heads = heads;
        }
        checkpoint.load(DType::F32, device, Self::IGNORED, |vb| {
            Self::new(&config, &vb)
        })
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// Normalized images `[n, 3, image_size, image_size]` to embeddings `[n, projection_dim]`,
    /// which are not of length 1.
    ///
    /// # Errors
    /// Images of another shape, and whatever candle reports.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        on_pool(x.device(), || self.forward_observed(x, |_, _| Ok(())))
    }

    /// [`ClipVision::forward`], showing `observe` the hidden states: `0` before the first layer,
    /// `k` after layer `k`, each `[n, tokens, hidden_size]` with the class token first.
    ///
    /// # Errors
    /// As [`ClipVision::forward`], and whatever `observe` returns.
    pub fn forward_observed(
        &self,
        x: &Tensor,
        mut observe: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let (n, ..) = x.dims4()?;
        let (size, hidden, grid) = (
            self.config.image_size,
            self.config.hidden_size,
            self.config.grid(),
        );
        if x.dims() != [n, 3, size, size] {
            bail!("input {:?} is not [{n}, 3, {size}, {size}]", x.dims());
        }
        let patches = self.patch_embedding.forward(&x.to_dtype(self.dtype)?)?;
        let patches = patches
            .permute((0, 2, 3, 1))?
            .reshape((n, grid * grid, hidden))?
            .broadcast_add(&self.position_embedding)?;
        let class = self.class_token.broadcast_as((n, 1, hidden))?;
        let h = Tensor::cat(&[&class.contiguous()?, &patches], 1)?;
        let h = self.pre_layernorm.forward(&h)?;
        observe(0, &h)?;
        let h = self.encoder.forward(h, observe)?;
        let class = self
            .post_layernorm
            .forward(&h.narrow(1, 0, 1)?.squeeze(1)?)?;
        self.projection.forward(&class)
    }
}

/// Derives the configuration from the shapes of a checkpoint's tensors.
fn config_of(tensors: &[TensorInfo], hidden_act: HiddenAct) -> Result<ClipVisionConfig> {
    let shape = |name: &str| {
        let found = tensors.iter().find(|tensor| tensor.name == name);
        found.map(|tensor| tensor.shape.as_slice())
    };
    let need = |name: &str| match shape(name) {
        Some(shape) => Ok(shape),
        None => bail!("it has no tensor {name}, as CLIP with a vision transformer does"),
    };
    let open_ai = shape("visual.conv1.weight").is_some();
    let [patch, positions, projection, layers, inner] = if open_ai {
        [
            "visual.conv1.weight",
            "visual.positional_embedding",
            "visual.proj",
            "visual.transformer.resblocks.",
            "mlp.c_fc.weight",
        ]
    } else {
        [
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
            "visual_projection.weight",
            "vision_model.encoder.layers.",
            "mlp.fc1.weight",
        ]
    };
    let &[hidden_size, _, patch_size, _] = need(patch)? else {
        bail!(
            "{patch} is {:?}, not [channels, 3, rows, columns]",
            need(patch)?
        );
    };
    let &[tokens, _] = need(positions)? else {
        bail!(
            "{positions} is {:?}, not [tokens, channels]",
            need(positions)?
        );
    };
    let projection_dim = match (need(projection)?, open_ai) {
        (&[_, out], true) | (&[out, _], false) => out,
        (other, _) => bail!("{projection} is {other:?}, no matrix"),
    };
    let grid = tokens.saturating_sub(1).isqrt();
    if grid == 0 || grid * grid + 1 != tokens {
        bail!("{positions} has {tokens} rows: expected those of a square of patches and one more");
    }
    let num_hidden_layers = tensors
        .iter()
        .filter_map(|tensor| tensor.name.strip_prefix(layers)?.split('.').next())
        .filter_map(|index| index.parse::<usize>().ok())
        .max()
        .map_or(0, |last| last.saturating_add(1));
    // No file has more layers than tensors; an absurd index would ask for as many.
    if num_hidden_layers > tensors.len() {
        bail!(
            "{layers}{} is the last of too many layers",
            num_hidden_layers - 1
        );
    }
    let &[intermediate_size, _] = need(&format!("{layers}0.{inner}"))? else {
        bail!("{layers}0.{inner} is no matrix");
    };
    Ok(ClipVisionConfig {
        hidden_size,
        intermediate_size,
        projection_dim,
        num_hidden_layers,
        num_attention_heads: (hidden_size / HEAD).max(1),
        image_size: grid.saturating_mul(patch_size),
        patch_size,
        hidden_act,
        ..ClipVisionConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::models::testing::{any_weights, uniform};

    const SMALL: ClipVisionConfig = ClipVisionConfig {
        hidden_size: 128,
        intermediate_size: 40,
        projection_dim: 11,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        image_size: 21,
        patch_size: 5,
        hidden_act: HiddenAct::QuickGelu,
        layer_norm_eps: 1e-5,
    };

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        let network = ClipVision::new(&SMALL, &any_weights()).unwrap();
        let x = uniform(&[3, 3, 21, 21], 1);
        let together: Vec<Vec<f32>> = network.forward(&x).unwrap().to_vec2().unwrap();
        let alone = network.forward(&x.narrow(0, 1, 1).unwrap()).unwrap();
        assert_eq!(alone.to_vec2::<f32>().unwrap()[0], together[1]);
        assert_eq!(together[1].len(), 11);
        assert_ne!(together[0], together[1]);
        assert!(network.forward(&uniform(&[1, 3, 20, 20], 1)).is_err());
    }

    /// A checkpoint of OpenAI's names with the given change.
    fn written(change: impl Fn(&mut HashMap<String, Tensor>)) -> tempfile::NamedTempFile {
        let (hidden, inner) = (SMALL.hidden_size, SMALL.intermediate_size);
        let mut tensors = HashMap::new();
        let mut put = |name: &str, shape: &[usize]| {
            tensors.insert(format!("visual.{name}"), uniform(shape, 2));
        };
        put("class_embedding", &[hidden]);
        put("positional_embedding", &[17, hidden]);
        put("conv1.weight", &[hidden, 3, 5, 5]);
        put("proj", &[hidden, 11]);
        for norm in ["ln_pre", "ln_post"] {
            put(&format!("{norm}.weight"), &[hidden]);
            put(&format!("{norm}.bias"), &[hidden]);
        }
        for layer in 0..2 {
            let mut put = |name: &str, shape: &[usize]| {
                put(&format!("transformer.resblocks.{layer}.{name}"), shape);
            };
            for (name, outputs, inputs) in [
                ("attn.in_proj_", 3 * hidden, hidden),
                ("attn.out_proj.", hidden, hidden),
                ("mlp.c_fc.", inner, hidden),
                ("mlp.c_proj.", hidden, inner),
            ] {
                put(&format!("{name}weight"), &[outputs, inputs]);
                put(&format!("{name}bias"), &[outputs]);
            }
            for norm in ["ln_1", "ln_2"] {
                put(&format!("{norm}.weight"), &[hidden]);
                put(&format!("{norm}.bias"), &[hidden]);
            }
        }
        tensors.insert("logit_scale".to_owned(), uniform(&[1], 3));
        tensors.insert(
            "transformer.resblocks.0.ln_1.bias".to_owned(),
            uniform(&[4], 3),
        );
        change(&mut tensors);
        let file = tempfile::NamedTempFile::new().unwrap();
        candle_core::safetensors::save(&tensors, file.path()).unwrap();
        file
    }

    fn open(file: &tempfile::NamedTempFile) -> std::result::Result<ClipVision, String> {
        ClipVision::open(file.path(), None, HiddenAct::QuickGelu, &Device::Cpu)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_configuration_follows_from_the_shapes() {
        let network = open(&written(|_| {})).unwrap();
        // What is left over at the edge of an image is no patch, and cannot be known.
        let expected = ClipVisionConfig {
            image_size: 20,
            ..SMALL
        };
        assert_eq!(network.config(), &expected);
    }

    #[test]
    fn missing_unknown_and_misshapen_tensors_are_named() {
        let bias = "visual.transformer.resblocks.1.mlp.c_fc.bias";
        let message = open(&written(|tensors| {
            tensors.remove(bias);
        }))
        .unwrap_err();
        assert!(message.contains(bias), "{message}");
        let message = open(&written(|tensors| {
            tensors.insert(bias.to_owned(), uniform(&[41], 1));
        }))
        .unwrap_err();
        assert!(
            message.contains("[41]") && message.contains("[40]"),
            "{message}"
        );
        let message = open(&written(|tensors| {
            tensors.insert("visual.extra".to_owned(), uniform(&[1], 1));
        }))
        .unwrap_err();
        assert!(message.contains("visual.extra"), "{message}");
        for (name, shape) in [
            ("visual.positional_embedding", &[16usize, 128][..]),
            ("visual.proj", &[128]),
            ("visual.conv1.weight", &[128, 3, 5]),
            ("visual.transformer.resblocks.999999999.x", &[1]),
        ] {
            let message = open(&written(|tensors| {
                tensors.insert(name.to_owned(), uniform(shape, 1));
            }))
            .unwrap_err();
            let stem = name.split(".999").next().unwrap();
            assert!(message.contains(stem), "{message}");
        }
        let message = open(&written(HashMap::clear)).unwrap_err();
        assert!(message.contains("patch_embedding"), "{message}");
    }
}
