//! The denoising network: `UNet2DConditionModel` of diffusers
//! (`models/unets/unet_2d_condition.py`, `unet_2d_blocks.py`).

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::UNet2DConditionConfig;
use super::attention::Transformer;
use super::resnet::{ResnetBlock, ResnetShape};
use crate::kernels::{
    BatchSplit, Conv2d, Conv2dShape, GroupNorm, Linear, concat, par_over_batch, silu,
    upsample_nearest_2x,
};
use crate::models::improved_diffusion::timestep_embedding;

/// The network: predicts the noise of noisy latents under a text.
#[derive(Debug, Clone)]
pub struct UNet2DCondition {
    config: UNet2DConditionConfig,
    dtype: DType,
    time_embedding: (Linear, Linear),
    conv_in: Conv2d,
    down_blocks: Vec<Down>,
    mid_block: (ResnetBlock, Transformer, ResnetBlock),
    up_blocks: Vec<Up>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// A residual block and, on some levels, attention.
#[derive(Debug, Clone)]
struct Layer {
    resnet: ResnetBlock,
    attention: Option<Transformer>,
}

impl Layer {
    fn forward(&self, x: &Tensor, time: &Tensor, text: &Tensor) -> Result<Tensor> {
        let h = self.resnet.forward(x, Some(time))?;
        match &self.attention {
            Some(attention) => attention.forward(&h, text),
            None => Ok(h),
        }
    }
}

#[derive(Debug, Clone)]
struct Down {
    layers: Vec<Layer>,
    downsampler: Option<Conv2d>,
}

#[derive(Debug, Clone)]
struct Up {
    layers: Vec<Layer>,
    upsampler: Option<Conv2d>,
}

/// Loads the parts, whose shapes follow from their level.
struct Loader<'a> {
    config: &'a UNet2DConditionConfig,
    resnet: ResnetShape,
}

impl Loader<'_> {
    /// Rows and columns of the feature maps of a level.
    fn side(&self, level: usize) -> usize {
        (self.config.sample_size >> level).max(1)
    }

    fn resnet(
        &self,
        channels: (usize, usize),
        level: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<ResnetBlock> {
        ResnetBlock::load(self.resnet, channels, Some(self.side(level)), vb)
    }

    fn transformer(&self, channels: usize, vb: &VarBuilder<'_>) -> Result<Transformer> {
        let config = self.config;
        let text = config.cross_attention_dim;
        Transformer::load(channels, config.num_heads, text, config.norm_num_groups, vb)
    }

    fn layer(
        &self,
        channels: (usize, usize),
        level: usize,
        attention: bool,
        index: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Layer> {
        let resnet = self.resnet(channels, level, &vb.pp(format!("resnets.{index}")))?;
        let attention = if attention {
            let vb = vb.pp(format!("attentions.{index}"));
            Some(self.transformer(channels.1, &vb)?)
        } else {
            None
        };
        Ok(Layer { resnet, attention })
    }
}

impl UNet2DCondition {
    /// Builds the network; all tensors have the type and device of `vb`.
    ///
    /// # Errors
    /// A configuration that [`UNet2DConditionConfig::validate`] refuses; a tensor that is missing
    /// or has another shape.
    pub fn new(config: &UNet2DConditionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        // One pass over the levels, in the order of the original's constructor: the channels and
        // the skip connections of a block depend on all blocks before it.
        config.validate().map_err(candle_core::Error::wrap)?;
        let widths = &config.block_out_channels;
        let (Some(&first), Some(&last)) = (widths.first(), widths.last()) else {
            bail!("a network without levels");
        };
        let time_dim = 4 * first;
        let time_vb = vb.pp("time_embedding");
        let time_embedding = (
            Linear::load(first, time_dim, true, &time_vb.pp("linear_1"))?,
            Linear::load(time_dim, time_dim, true, &time_vb.pp("linear_2"))?,
        );
        let loader = Loader {
            config,
            resnet: ResnetShape {
                groups: config.norm_num_groups,
                eps: config.norm_eps,
                time: Some(time_dim),
            },
        };
        let stem = Conv2dShape::same(config.in_channels, first, 3);
        let conv_in = Conv2d::load(stem, true, &vb.pp("conv_in"))?;

        let mut down_blocks = Vec::with_capacity(widths.len());
        // What each layer on the way down hands over to one on the way up.
        let mut skips = vec![first];
        let mut channels = first;
        for (level, (&width, &attention)) in widths.iter().zip(&config.down_attention).enumerate() {
            let vb = vb.pp(format!("down_blocks.{level}"));
            let mut layers = Vec::with_capacity(config.layers_per_block);
            for index in 0..config.layers_per_block {
                layers.push(loader.layer((channels, width), level, attention, index, &vb)?);
                channels = width;
                skips.push(width);
            }
            let downsampler = if level + 1 < widths.len() {
                let shape = Conv2dShape::same(width, width, 3).with_stride(2);
                skips.push(width);
                Some(Conv2d::load(shape, true, &vb.pp("downsamplers.0.conv"))?)
            } else {
                None
            };
            down_blocks.push(Down {
                layers,
                downsampler,
            });
        }

        let bottom = widths.len() - 1;
        let mid = vb.pp("mid_block");
        let mid_block = (
            loader.resnet((last, last), bottom, &mid.pp("resnets.0"))?,
            loader.transformer(last, &mid.pp("attentions.0"))?,
            loader.resnet((last, last), bottom, &mid.pp("resnets.1"))?,
        );

        let mut up_blocks = Vec::with_capacity(widths.len());
        let levels = widths.iter().enumerate().rev();
        for (index, ((level, &width), &attention)) in levels.zip(&config.up_attention).enumerate() {
            let vb = vb.pp(format!("up_blocks.{index}"));
            let mut layers = Vec::with_capacity(config.layers_per_block + 1);
            for layer in 0..=config.layers_per_block {
                let Some(skip) = skips.pop() else {
                    bail!("the way up wants more inputs than the way down gives");
                };
                let channels_in = (channels + skip, width);
                layers.push(loader.layer(channels_in, level, attention, layer, &vb)?);
                channels = width;
            }
            let upsampler = if level > 0 {
                let shape = Conv2dShape::same(width, width, 3).giving(loader.side(level - 1));
                Some(Conv2d::load(shape, true, &vb.pp("upsamplers.0.conv"))?)
            } else {
                None
            };
            up_blocks.push(Up { layers, upsampler });
        }

        let shape = Conv2dShape::same(first, config.out_channels, 3);
        Ok(Self {
            config: config.clone(),
            dtype: vb.dtype(),
            time_embedding,
            conv_in,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::load(
                config.norm_num_groups,
                first,
                config.norm_eps,
                &vb.pp("conv_norm_out"),
            )?,
            conv_out: Conv2d::load(shape, true, &vb.pp("conv_out"))?,
        })
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &UNet2DConditionConfig {
        &self.config
    }

    /// Evaluates the network.
    ///
    /// `sample` is `[n, in_channels, height, width]` with sides that halve as often as the network
    /// does, `timesteps` has one entry per image, `encoder_hidden_states` is `[n, tokens,
    /// cross_attention_dim]`. The result is `[n, out_channels, height, width]` in the type of
    /// `sample`.
    ///
    /// # Errors
    /// Arguments of other shapes, and whatever candle reports.
    pub fn forward(
        &self,
        sample: &Tensor,
        timesteps: &[f32],
        encoder_hidden_states: &Tensor,
    ) -> Result<Tensor> {
        let n = sample.dim(0)?;
        if timesteps.len() != n || encoder_hidden_states.dim(0)? != n {
            bail!(
                "{} timesteps and states {:?} for {n} images",
                timesteps.len(),
                encoder_hidden_states.dims()
            );
        }
        par_over_batch(sample, BatchSplit::PerThread, |images| {
            let (first, count) = (images.start, images.len());
            let sample = sample.narrow(0, first, count)?;
            let states = encoder_hidden_states.narrow(0, first, count)?;
            let timesteps = timesteps.get(images).unwrap_or_default();
            self.forward_observed(&sample, timesteps, &states, |_, _| Ok(()))
        })
    }

    /// [`UNet2DCondition::forward`], showing `observe` what comes out of `time_embedding`,
    /// `conv_in`, every `down_blocks.<i>`, `mid_block` and every `up_blocks.<i>`.
    ///
    /// # Errors
    /// As [`UNet2DCondition::forward`], and whatever `observe` returns.
    pub fn forward_observed(
        &self,
        sample: &Tensor,
        timesteps: &[f32],
        encoder_hidden_states: &Tensor,
        mut observe: impl FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        self.check(sample, timesteps, encoder_hidden_states)?;
        let text = encoder_hidden_states.to_dtype(self.dtype)?.contiguous()?;
        let time = self.embed_timesteps(sample, timesteps)?;
        observe("time_embedding", &time)?;
        // Every residual block begins with the activation of the same embedding.
        let time = silu(&time)?;

        let mut h = self.conv_in.forward(&sample.to_dtype(self.dtype)?)?;
        observe("conv_in", &h)?;
        let mut skips = vec![h.clone()];
        for (index, block) in self.down_blocks.iter().enumerate() {
            for layer in &block.layers {
                h = layer.forward(&h, &time, &text)?;
                skips.push(h.clone());
            }
            if let Some(conv) = &block.downsampler {
                h = conv.forward(&h)?;
                skips.push(h.clone());
            }
            observe(&format!("down_blocks.{index}"), &h)?;
        }
        let (before, attention, after) = &self.mid_block;
        h = before.forward(&h, Some(&time))?;
        h = attention.forward(&h, &text)?;
        h = after.forward(&h, Some(&time))?;
        observe("mid_block", &h)?;
        for (index, block) in self.up_blocks.iter().enumerate() {
            for layer in &block.layers {
                let Some(skip) = skips.pop() else {
                    bail!("the way up wants more inputs than the way down gives");
                };
                h = layer.forward(&concat(&[h, skip])?, &time, &text)?;
            }
            if let Some(conv) = &block.upsampler {
                h = conv.forward(&upsample_nearest_2x(&h)?)?;
            }
            observe(&format!("up_blocks.{index}"), &h)?;
        }
        self.conv_out
            .forward(&self.conv_norm_out.forward_silu(&h)?)?
            .to_dtype(sample.dtype())
    }

    fn check(&self, sample: &Tensor, timesteps: &[f32], text: &Tensor) -> Result<()> {
        let (n, channels, height, width) = sample.dims4()?;
        let multiple = self.config.size_multiple();
        if channels != self.config.in_channels
            || !height.is_multiple_of(multiple)
            || !width.is_multiple_of(multiple)
        {
            bail!(
                "input {:?} does not fit a network of {} channels whose sides are multiples of {multiple}",
                sample.dims(),
                self.config.in_channels
            );
        }
        if timesteps.len() != n {
            bail!("{} timesteps for {n} images", timesteps.len());
        }
        let (texts, _, dim) = text.dims3()?;
        if texts != n || dim != self.config.cross_attention_dim {
            bail!(
                "text {:?} does not fit {n} images and a network of width {}",
                text.dims(),
                self.config.cross_attention_dim
            );
        }
        Ok(())
    }

    fn embed_timesteps(&self, sample: &Tensor, timesteps: &[f32]) -> Result<Tensor> {
        let Some(&dim) = self.config.block_out_channels.first() else {
            bail!("a network without levels");
        };
        let values = timestep_embedding(timesteps, dim);
        let emb = Tensor::from_vec(values, (timesteps.len(), dim), sample.device())?;
        let emb = self.time_embedding.0.forward(&emb.to_dtype(self.dtype)?)?;
        self.time_embedding.1.forward(&silu(&emb)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check_bf16_on_cpu;
    use crate::models::testing::{any_weights_in, relative_error, uniform};

    fn small() -> UNet2DCondition {
        small_in(DType::F32)
    }

    fn small_in(dtype: DType) -> UNet2DCondition {
        let config = UNet2DConditionConfig {
            sample_size: 8,
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![16, 32],
            layers_per_block: 1,
            down_attention: vec![true, false],
            up_attention: vec![false, true],
            num_heads: 2,
            cross_attention_dim: 12,
            norm_num_groups: 8,
            norm_eps: 1e-5,
        };
        UNet2DCondition::new(&config, &any_weights_in(dtype)).unwrap()
    }

    /// Each of some thirty roundings on the way adds up to 2⁻⁸ of what it rounds.
    #[test]
    fn bf16_stays_near_f32() {
        if check_bf16_on_cpu().is_err() {
            return;
        }
        let (x, text) = (uniform(&[2, 4, 8, 12], 1), uniform(&[2, 7, 12], 2));
        let evaluate = |dtype| small_in(dtype).forward(&x, &[981.0, 21.0], &text).unwrap();
        let (found, expected) = (evaluate(DType::BF16), evaluate(DType::F32));
        assert_eq!(found.dtype(), DType::F32);
        let error = relative_error(&found, &expected);
        assert!(error > 0.0 && error < 0.02, "{error}");
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        check_batches(&small());
        if check_bf16_on_cpu().is_ok() {
            check_batches(&small_in(DType::BF16));
        }
    }

    fn check_batches(unet: &UNet2DCondition) {
        let (x, text) = (uniform(&[5, 4, 8, 12], 1), uniform(&[5, 7, 12], 2));
        let times = [1.0, 21.0, 981.0, 500.5, 1.0];
        let bits = |y: &Tensor| -> Vec<u32> {
            let values: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
            values.iter().map(|v| v.to_bits()).collect()
        };
        let together = unet.forward(&x, &times, &text).unwrap();
        for i in 0..5 {
            let one = |t: &Tensor| t.narrow(0, i, 1).unwrap();
            let alone = unet.forward(&one(&x), &times[i..=i], &one(&text)).unwrap();
            assert_eq!(bits(&alone), bits(&one(&together)), "image {i}");
        }
    }

    #[test]
    fn the_text_and_the_time_matter() {
        let unet = small();
        let x = uniform(&[1, 4, 8, 8], 1);
        let values = |time: f32, text: u64| -> Vec<f32> {
            let y = unet.forward(&x, &[time], &uniform(&[1, 7, 12], text));
            y.unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        assert_ne!(values(1.0, 2), values(1.0, 3));
        assert_ne!(values(1.0, 2), values(900.0, 2));
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let unet = small();
        let text = uniform(&[1, 7, 12], 2);
        let refused = |x: &[usize], times: &[f32], text: &Tensor| {
            unet.forward(&uniform(x, 1), times, text).is_err()
        };
        assert!(refused(&[1, 4, 7, 8], &[1.0], &text));
        assert!(refused(&[1, 3, 8, 8], &[1.0], &text));
        assert!(refused(&[1, 4, 8, 8], &[1.0, 2.0], &text));
        assert!(refused(&[2, 4, 8, 8], &[1.0, 2.0], &text));
        assert!(refused(&[1, 4, 8, 8], &[1.0], &uniform(&[1, 7, 11], 2)));
    }
}
