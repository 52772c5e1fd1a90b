//! Hyper-parameters, which follow from the shapes of the tensors; `config.json` of the hub must
//! agree.

use std::path::Path;

use candle_core::{Result, bail};
use serde::Deserialize;

use super::names::Names;
use crate::hub::{CheckpointError, TensorInfo};
use crate::sections::InvalidKey;

/// Channels of a head in all published sizes: checkpoints do not store the number of heads.
const HEAD: usize = 64;

/// Bytes of a `config.json` that are read: a hundred times what the published ones have.
const MAX_CONFIG_BYTES: u64 = 1 << 16;

/// The hyper-parameters, under the keys of `config.json` on the hub; the defaults are those of the
/// base size.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Dinov2Config {
    /// Channels.
    pub hidden_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Channels between the two layers of a feed-forward network, in multiples of `hidden_size`.
    pub mlp_ratio: usize,
    /// Gated feed-forward networks (the giant size) instead of multi-layer perceptrons.
    pub use_swiglu_ffn: bool,
    /// Rows and columns of the images of the training, which the position embedding covers.
    pub image_size: usize,
    /// Rows and columns of a patch.
    pub patch_size: usize,
    /// Register tokens; 0 for the models without registers.
    pub num_register_tokens: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Channels between the layers of a feed-forward network where they do not follow from
    /// `mlp_ratio`.
    #[serde(skip)]
    pub inner_size: Option<usize>,
}

impl Default for Dinov2Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4,
            use_swiglu_ffn: false,
            image_size: 518,
            patch_size: 14,
            num_register_tokens: 0,
            layer_norm_eps: 1e-6,
            inner_size: None,
        }
    }
}

/// The keys of a `config.json` that shape the network; a key that is absent agrees.
#[derive(Deserialize)]
struct Published {
    model_type: Option<String>,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    use_swiglu_ffn: Option<bool>,
    image_size: Option<usize>,
    patch_size: Option<usize>,
    num_register_tokens: Option<usize>,
    num_channels: Option<usize>,
    layer_norm_eps: Option<f64>,
    qkv_bias: Option<bool>,
    hidden_act: Option<String>,
}

impl Dinov2Config {
    /// Checks that a network can be built.
    ///
    /// # Errors
    /// Names the first key whose value makes no sense.
    pub fn validate(&self) -> std::result::Result<(), InvalidKey> {
        for (key, value) in [
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("mlp_ratio", self.mlp_ratio),
            ("patch_size", self.patch_size),
        ] {
            if value == 0 {
                return Err(InvalidKey::new(key, "is 0: expected at least 1"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let message = format!(
                "{} heads do not divide {} channels",
                self.num_attention_heads, self.hidden_size
            );
            return Err(InvalidKey::new("num_attention_heads", message));
        }
        if self.image_size < self.patch_size {
            let message = format!(
                "{} is smaller than a patch of {}",
                self.image_size, self.patch_size
            );
            return Err(InvalidKey::new("image_size", message));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite()) {
            let message = format!(
                "is {}: expected a small positive number",
                self.layer_norm_eps
            );
            return Err(InvalidKey::new("layer_norm_eps", message));
        }
        Ok(())
    }

    /// Patches along a side of the position embedding.
    pub(super) fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches along a side of an input of `input_size` rows and columns.
    ///
    /// # Errors
    /// An `input_size` that is 0 or no multiple of the patch size.
    pub(super) fn grid_of(&self, input_size: usize) -> std::result::Result<usize, InvalidKey> {
        if input_size == 0 || !input_size.is_multiple_of(self.patch_size) {
            let message = format!(
                "is {input_size}: expected a multiple of the patch size, {}",
                self.patch_size
            );
            return Err(InvalidKey::new("input_size", message));
        }
        Ok(input_size / self.patch_size)
    }

    /// Channels between the layers of a feed-forward network. SwiGLU's are two thirds of the
    /// other's, rounded up to a multiple of 8 (`SwiGLUFFNFused`).
    pub(super) fn intermediate_size(&self) -> usize {
        let full = self.hidden_size.saturating_mul(self.mlp_ratio);
        match self.inner_size {
            Some(inner) => inner,
            None if self.use_swiglu_ffn => (full.saturating_mul(2) / 3).div_ceil(8) * 8,
            None => full,
        }
    }

    /// Checks that the `config.json` at `path`, which describes the same checkpoint, agrees.
    ///
    /// Nothing is taken from the file, so that the digest of the weights stands for the whole
    /// network.
    ///
    /// # Errors
    /// [`CheckpointError`] when the file cannot be read or gives a key another value.
    pub(super) fn check(&self, path: &Path) -> std::result::Result<(), CheckpointError> {
        let text = read_limited(path).map_err(|source| CheckpointError::Io {
            path: path.to_owned(),
            cause: source,
        })?;
        self.check_text(&text)
            .map_err(|message| CheckpointError::Format {
                path: path.to_owned(),
                message,
            })
    }

    fn check_text(&self, text: &str) -> std::result::Result<(), String> {
        let file: Published = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let model_type = match self.num_register_tokens {
            0 => "dinov2",
            _ => "dinov2_with_registers",
        };
        agree("model_type", file.model_type.as_deref(), model_type)?;
        agree("hidden_size", file.hidden_size, self.hidden_size)?;
        agree(
            "num_hidden_layers",
            file.num_hidden_layers,
            self.num_hidden_layers,
        )?;
        agree(
            "num_attention_heads",
            file.num_attention_heads,
            self.num_attention_heads,
        )?;
        agree("use_swiglu_ffn", file.use_swiglu_ffn, self.use_swiglu_ffn)?;
        agree("image_size", file.image_size, self.image_size)?;
        agree("patch_size", file.patch_size, self.patch_size)?;
        agree(
            "num_register_tokens",
            file.num_register_tokens,
            self.num_register_tokens,
        )?;
        agree("num_channels", file.num_channels, 3)?;
        agree("layer_norm_eps", file.layer_norm_eps, self.layer_norm_eps)?;
        agree("qkv_bias", file.qkv_bias, true)?;
        agree("hidden_act", file.hidden_act.as_deref(), "gelu")
    }

    /// The configuration that follows from the shapes of a checkpoint's tensors.
    pub(super) fn of_tensors(tensors: &[TensorInfo]) -> Result<Self> {
        let shapes = Shapes { tensors };
        let names = if shapes.find(Names::HuggingFace.patches()).is_some() {
            Names::HuggingFace
        } else {
            Names::Meta
        };
        let &[hidden_size, _, patch_size, _] = shapes.need(names.patches())? else {
            return shapes.misshapen(names.patches(), "[channels, 3, rows, columns]");
        };
        let &[1, positions, _] = shapes.need(names.positions())? else {
            return shapes.misshapen(names.positions(), "[1, tokens, channels]");
        };
        let grid = positions.saturating_sub(1).isqrt();
        if grid == 0 || grid * grid + 1 != positions {
            bail!(
                "{} has {positions} rows: expected one more than a square of patches",
                names.positions()
            );
        }
        let num_register_tokens = match shapes.find(names.registers()) {
            None => 0,
            Some(&[1, count, _]) => count,
            Some(_) => return shapes.misshapen(names.registers(), "[1, registers, channels]"),
        };
        let first = |name: &str| format!("{}0.{name}", names.block_prefix());
        let swiglu = first(names.swiglu());
        let (use_swiglu_ffn, inner) = match shapes.find(&swiglu) {
            Some(&[joined, _]) => (true, joined / 2),
            Some(_) => return shapes.misshapen(&swiglu, "a matrix"),
            None => {
                let mlp = first(names.mlp());
                match shapes.need(&mlp)? {
                    &[inner, _] => (false, inner),
                    _ => return shapes.misshapen(&mlp, "a matrix"),
                }
            }
        };
        Ok(Self {
            hidden_size,
            num_hidden_layers: shapes.blocks(names.block_prefix())?,
            num_attention_heads: (hidden_size / HEAD).max(1),
            use_swiglu_ffn,
            image_size: grid.saturating_mul(patch_size),
            patch_size,
            num_register_tokens,
            inner_size: Some(inner),
            ..Self::default()
        })
    }
}

fn agree<T: PartialEq + std::fmt::Debug>(
    key: &str,
    found: Option<T>,
    expected: T,
) -> std::result::Result<(), String> {
    match found {
        Some(found) if found != expected => Err(format!(
            "{key} is {found:?}: the weights beside it need {expected:?}"
        )),
        _ => Ok(()),
    }
}

/// The shapes of a checkpoint's tensors by name.
struct Shapes<'a> {
    tensors: &'a [TensorInfo],
}

impl<'a> Shapes<'a> {
    fn find(&self, name: &str) -> Option<&'a [usize]> {
        let found = self.tensors.iter().find(|tensor| tensor.name == name);
        found.map(|tensor| tensor.shape.as_slice())
    }

    fn need(&self, name: &str) -> Result<&'a [usize]> {
        match self.find(name) {
            Some(shape) => Ok(shape),
            None => bail!("it has no tensor {name}, which every DINOv2 has"),
        }
    }

    fn misshapen<T>(&self, name: &str, expected: &str) -> Result<T> {
        bail!(
            "{name} is {:?}: expected {expected}",
            self.find(name).unwrap_or_default()
        )
    }

    /// Number of blocks: one more than the largest number after `prefix`.
    fn blocks(&self, prefix: &str) -> Result<usize> {
        let count = self
            .tensors
            .iter()
            .filter_map(|tensor| tensor.name.strip_prefix(prefix)?.split('.').next())
            .filter_map(|index| index.parse::<usize>().ok())
            .max()
            .map_or(0, |last| last.saturating_add(1));
        // No file has more blocks than tensors; an absurd index would ask for as many.
        if count > self.tensors.len() {
            bail!(
                "{prefix}{} is the last of too many blocks",
                count.saturating_sub(1)
            );
        }
        Ok(count)
    }
}

fn read_limited(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_CONFIG_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}
