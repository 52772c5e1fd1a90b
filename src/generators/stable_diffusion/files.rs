//! Loading of the files of a checkpoint.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::config::Config;
use super::pipeline::Pipeline;
use super::tokenizer::ClipTokenizer;
use crate::diffusion::{Scheduler, SchedulerConfig};
use crate::generators::{GeneratorError, Prompts};
use crate::hub::{Checkpoint, CheckpointError, ModelFiles, sha256_file};
use crate::models::clip::{ClipText, ClipTextConfig};
use crate::models::stable_diffusion::{
    AutoencoderKl, AutoencoderKlConfig, UNet2DCondition, UNet2DConditionConfig,
};
use crate::privacy::sha256_hex;
use crate::progress::Progress;
use crate::sections::InvalidKey;

/// The files of a checkpoint.
#[derive(Debug)]
pub(super) struct Files {
    scheduler: PathBuf,
    vocab: PathBuf,
    merges: PathBuf,
    text_encoder_config: PathBuf,
    text_encoder: PathBuf,
    unet_config: PathBuf,
    unet: PathBuf,
    vae_config: PathBuf,
    vae: PathBuf,
}

/// The content of a checkpoint: networks, scheduler, and the encoded prompts of a run.
pub(super) struct Networks {
    pub pipeline: Pipeline,
    pub scheduler: Scheduler,
    pub prompts: EncodedPrompts,
}

/// Hidden states of the text encoder.
pub(super) struct EncodedPrompts {
    /// States for each prompt, `[prompts, tokens, width]`.
    pub states: Tensor,
    /// States for the negative prompt, `[1, tokens, width]`.
    pub negative: Tensor,
    /// Messages about truncated prompts.
    pub warnings: Vec<String>,
}

/// The files of a checkpoint in the layout of diffusers that are read, small ones first; of each,
/// the accepted names, the preferred one first.
pub const FILES: [&[&str]; 9] = [
    &["scheduler/scheduler_config.json"],
    &["tokenizer/vocab.json"],
    &["tokenizer/merges.txt"],
    &["text_encoder/config.json"],
    &["unet/config.json"],
    &["vae/config.json"],
    &[
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.fp16.safetensors",
    ],
    &[
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ],
    &[
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ],
];

impl Files {
    /// Finds or downloads all files, small ones first.
    pub fn find(
        config: &Config,
        base: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<Self, GeneratorError> {
        // An id of the hub looks like a relative path: only an existing folder is one.
        let based = base
            .map(|base| base.join(&config.checkpoint))
            .filter(|path| path.is_dir())
            .and_then(|path| path.to_str().map(str::to_owned));
        let place = based.as_deref().unwrap_or(&config.checkpoint);
        let files = ModelFiles::open(place, config.revision())?;
        let [
            scheduler,
            vocab,
            merges,
            text_encoder_config,
            unet_config,
            vae_config,
            text_encoder,
            unet,
            vae,
        ] = FILES;
        let get = |names: &[&str]| files.get(names, progress);
        Ok(Self {
            scheduler: get(scheduler)?,
            vocab: get(vocab)?,
            merges: get(merges)?,
            text_encoder_config: get(text_encoder_config)?,
            unet_config: get(unet_config)?,
            vae_config: get(vae_config)?,
            text_encoder: get(text_encoder)?,
            unet: get(unet)?,
            vae: get(vae)?,
        })
    }

    /// Returns the SHA-256 of a list of the parts and their digests, in hexadecimal.
    pub fn digest(&self) -> Result<String, GeneratorError> {
        let mut text = String::new();
        for (part, path) in [
            ("scheduler", &self.scheduler),
            ("vocab", &self.vocab),
            ("merges", &self.merges),
            ("text_encoder_config", &self.text_encoder_config),
            ("text_encoder", &self.text_encoder),
            ("unet_config", &self.unet_config),
            ("unet", &self.unet),
            ("vae_config", &self.vae_config),
            ("vae", &self.vae),
        ] {
            let digest = sha256_file(path).map_err(|source| CheckpointError::Io {
                path: path.clone(),
                cause: source,
            })?;
            text.push_str(&format!("{part} {digest}\n"));
        }
        Ok(sha256_hex(text.as_bytes()))
    }

    /// Builds the model. The text encoder is only kept until it has encoded the prompts.
    pub fn load(&self, config: &Config, device: &Device) -> Result<Networks, GeneratorError> {
        let dtype = config.dtype.on(device)?;
        let scheduler = read(&self.scheduler, SchedulerConfig::from_json)?;
        let kind = config.scheduler.kind().unwrap_or(scheduler.kind);
        let scheduler = Scheduler::new(&scheduler, kind, config.pndm_exact_slicing);
        let vae_config = read(&self.vae_config, AutoencoderKlConfig::from_json)?;
        let mut unet_config = read(&self.unet_config, UNet2DConditionConfig::from_json)?;
        let multiple = vae_config.downsampling() * unet_config.size_multiple();
        if !config.image_size.all(|side| side.is_multiple_of(multiple)) {
            return Err(InvalidKey::new(
                "image_size",
                format!(
                    "is {}: expected multiples of {multiple} for this model",
                    config.image_size
                ),
            )
            .into());
        }
        // Only a hint for the preparation of weights.
        unet_config.sample_size = config.image_size.height / vae_config.downsampling();
        let prompts = Prompts::new(&config.prompts)?;
        let encoded = self.encode_prompts(config, &prompts, (dtype, device), &unet_config)?;
        let unet = Checkpoint::open(&self.unet)?.load(dtype, device, &[], |vb| {
            UNet2DCondition::new(&unet_config, &vb)
        })?;
        let vae = Checkpoint::open(&self.vae)?.load(dtype, device, &[], |vb| {
            AutoencoderKl::new(&vae_config, &vb)
        })?;
        if unet_config.in_channels != vae_config.latent_channels
            || unet_config.out_channels != vae_config.latent_channels
            || (vae_config.in_channels, vae_config.out_channels) != (3, 3)
        {
            return Err(format_error(
                &self.vae_config,
                format!(
                    "the autoencoder has {} and {} image channels and {} latent channels, the UNet has \
                     {} and {} channels: they do not match",
                    vae_config.in_channels,
                    vae_config.out_channels,
                    vae_config.latent_channels,
                    unet_config.in_channels,
                    unet_config.out_channels
                ),
            ));
        }
        Ok(Networks {
            pipeline: Pipeline { unet, vae },
            scheduler,
            prompts: encoded,
        })
    }

    /// Encodes all prompts and the negative prompt.
    fn encode_prompts(
        &self,
        config: &Config,
        prompts: &Prompts,
        (dtype, device): (DType, &Device),
        unet: &UNet2DConditionConfig,
    ) -> Result<EncodedPrompts, GeneratorError> {
        let path = &self.text_encoder_config;
        let text_config: ClipTextConfig = read(path, |value| {
            serde_json::from_value(value.clone()).map_err(|error| error.to_string())
        })?;
        if text_config.hidden_size != unet.cross_attention_dim {
            let message = format!(
                "hidden_size is {}, but the cross_attention_dim of the UNet is {}",
                text_config.hidden_size, unet.cross_attention_dim
            );
            return Err(format_error(path, message));
        }
        let tokenizer = ClipTokenizer::open(&self.vocab, &self.merges)?;
        if tokenizer.vocabulary() > text_config.vocab_size {
            let message = format!(
                "it has {} tokens, expected at most {}, the vocab_size of the text encoder",
                tokenizer.vocabulary(),
                text_config.vocab_size
            );
            return Err(format_error(&self.vocab, message));
        }
        let length = text_config.max_position_embeddings;
        let mut warnings = Vec::new();
        let mut ids = |key: &str, text: &str| -> Result<Vec<u32>, GeneratorError> {
            let tokens = tokenizer
                .encode(text, length)
                .map_err(|error| InvalidKey::new(key, format!("\"{text}\": {error}")))?;
            if let Some(truncated) = tokens.truncated {
                warnings.push(format!(
                    "model.{key}: \"{text}\" is longer than {length} tokens and was truncated: \
                     \"{truncated}\" is ignored"
                ));
            }
            Ok(tokens.ids)
        };
        let mut rows = Vec::with_capacity(prompts.texts().len());
        for text in prompts.texts() {
            rows.push(ids("prompts", text)?);
        }
        let negative = ids("negative_prompt", &config.negative_prompt)?;
        let encoder =
            Checkpoint::open(&self.text_encoder)?.load(dtype, device, ClipText::IGNORED, |vb| {
                ClipText::new(&text_config, &vb)
            })?;
        let states = |ids: Vec<u32>| -> candle_core::Result<Tensor> {
            let ids = Tensor::from_vec(ids, (1, length), device)?;
            encoder.forward(&ids)
        };
        let states_of: candle_core::Result<Vec<Tensor>> = rows.into_iter().map(states).collect();
        Ok(EncodedPrompts {
            states: Tensor::cat(&states_of?, 0)?,
            negative: states(negative)?,
            warnings,
        })
    }
}

fn format_error(path: &Path, message: String) -> GeneratorError {
    CheckpointError::Format {
        path: path.to_owned(),
        message,
    }
    .into()
}

/// Reads a JSON file and parses its content.
fn read<T, E: std::fmt::Display>(
    path: &Path,
    parse: impl FnOnce(&Value) -> Result<T, E>,
) -> Result<T, GeneratorError> {
    let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io {
        path: path.to_owned(),
        cause: source,
    })?;
    // Python writes `-Infinity`, which is not JSON, for a limit that is not set.
    let text = String::from_utf8_lossy(&bytes).replace("-Infinity", "null");
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| format_error(path, format!("it is not valid JSON: {error}")))?;
    parse(&value).map_err(|error| format_error(path, error.to_string()))
}
