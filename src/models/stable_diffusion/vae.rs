//! The autoencoder between images and latents: `AutoencoderKL` of diffusers
//! (`models/autoencoders/autoencoder_kl.py`, `vae.py`).

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::AutoencoderKlConfig;
use super::resnet::{ResnetBlock, ResnetShape};
use super::vae_blocks::{EPS, Mid, load_downsampler};
use crate::kernels::{Conv2d, Conv2dShape, GroupNorm, on_pool, upsample_nearest_2x};

/// The autoencoder.
#[derive(Debug, Clone)]
pub struct AutoencoderKl {
    config: AutoencoderKlConfig,
    dtype: DType,
    encoder: Encoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    decoder: Decoder,
}

/// The posterior that the encoder predicts for an image: independent normal distributions of its
/// latents, not scaled.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// The means, `[n, latent_channels, h, w]`.
    pub mean: Tensor,
    /// The logarithms of the variances, within [−30, 20].
    pub logvar: Tensor,
}

impl Posterior {
    /// `mean + σ · noise` for standard normal `noise` of the same shape.
    ///
    /// # Errors
    /// Noise of another shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        let deviation = (&self.logvar * 0.5)?.exp()?;
        &self.mean + (deviation * noise)?
    }
}

#[derive(Debug, Clone)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid_block: Mid,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug, Clone)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: Mid,
    up_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

fn resnets(
    shape: ResnetShape,
    (inputs, outputs): (usize, usize),
    count: usize,
    vb: &VarBuilder<'_>,
) -> Result<Vec<ResnetBlock>> {
    (0..count)
        .map(|index| {
            let inputs = if index == 0 { inputs } else { outputs };
            let vb = vb.pp(format!("resnets.{index}"));
            ResnetBlock::load(shape, (inputs, outputs), None, &vb)
        })
        .collect()
}

/// The first and the last of the levels' channels.
fn ends(config: &AutoencoderKlConfig) -> Result<(usize, usize)> {
    let widths = &config.block_out_channels;
    match (widths.first(), widths.last()) {
        (Some(&first), Some(&last)) => Ok((first, last)),
        _ => bail!("an autoencoder without levels"),
    }
}

impl Encoder {
    fn load(config: &AutoencoderKlConfig, shape: ResnetShape, vb: &VarBuilder<'_>) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (first, last) = ends(config)?;
        let stem = Conv2dShape::same(config.in_channels, first, 3);
        let mut down_blocks = Vec::with_capacity(widths.len());
        let mut channels = first;
        for (level, &width) in widths.iter().enumerate() {
            let vb = vb.pp(format!("down_blocks.{level}"));
            let layers = resnets(shape, (channels, width), config.layers_per_block, &vb)?;
            channels = width;
            let downsampler = if level + 1 < widths.len() {
                Some(load_downsampler(width, &vb.pp("downsamplers.0.conv"))?)
            } else {
                None
            };
            down_blocks.push((layers, downsampler));
        }
        let head = Conv2dShape::same(last, 2 * config.latent_channels, 3);
        Ok(Self {
            conv_in: Conv2d::load(stem, true, &vb.pp("conv_in"))?,
            down_blocks,
            mid_block: Mid::load(shape, last, &vb.pp("mid_block"))?,
            conv_norm_out: GroupNorm::load(shape.groups, last, EPS, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::load(head, true, &vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = self.conv_in.forward(x)?;
        for (layers, downsampler) in &self.down_blocks {
            for layer in layers {
                h = layer.forward(&h, None)?;
            }
            if let Some(conv) = downsampler {
                h = conv.forward(&h)?;
            }
        }
        let h = self.mid_block.forward(&h)?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&h)?)
    }
}

impl Decoder {
    fn load(config: &AutoencoderKlConfig, shape: ResnetShape, vb: &VarBuilder<'_>) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (first, last) = ends(config)?;
        let stem = Conv2dShape::same(config.latent_channels, last, 3);
        let mut up_blocks = Vec::with_capacity(widths.len());
        let mut channels = last;
        for (index, &width) in widths.iter().rev().enumerate() {
            let vb = vb.pp(format!("up_blocks.{index}"));
            let layers = resnets(shape, (channels, width), config.layers_per_block + 1, &vb)?;
            channels = width;
            let upsampler = if index + 1 < widths.len() {
                let same = Conv2dShape::same(width, width, 3);
                Some(Conv2d::load(same, true, &vb.pp("upsamplers.0.conv"))?)
            } else {
                None
            };
            up_blocks.push((layers, upsampler));
        }
        let head = Conv2dShape::same(first, config.out_channels, 3);
        Ok(Self {
            conv_in: Conv2d::load(stem, true, &vb.pp("conv_in"))?,
            mid_block: Mid::load(shape, last, &vb.pp("mid_block"))?,
            up_blocks,
            conv_norm_out: GroupNorm::load(shape.groups, first, EPS, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::load(head, true, &vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let mut h = self.mid_block.forward(&self.conv_in.forward(z)?)?;
        for (layers, upsampler) in &self.up_blocks {
            for layer in layers {
                h = layer.forward(&h, None)?;
            }
            if let Some(conv) = upsampler {
                h = conv.forward(&upsample_nearest_2x(&h)?)?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&h)?)
    }
}

impl AutoencoderKl {
    /// Builds the network; all tensors have the type and device of `vb`.
    ///
    /// # Errors
    /// A configuration that [`AutoencoderKlConfig::validate`] refuses; a tensor that is missing or
    /// has another shape.
    pub fn new(config: &AutoencoderKlConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        config.validate().map_err(candle_core::Error::wrap)?;
        let shape = ResnetShape {
            groups: config.norm_num_groups,
            eps: EPS,
            time: None,
        };
        let latent = config.latent_channels;
        let moments = Conv2dShape::same(2 * latent, 2 * latent, 1);
        let latents = Conv2dShape::same(latent, latent, 1);
        Ok(Self {
            config: config.clone(),
            dtype: vb.dtype(),
            encoder: Encoder::load(config, shape, &vb.pp("encoder"))?,
            quant_conv: Conv2d::load(moments, true, &vb.pp("quant_conv"))?,
            post_quant_conv: Conv2d::load(latents, true, &vb.pp("post_quant_conv"))?,
            decoder: Decoder::load(config, shape, &vb.pp("decoder"))?,
        })
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }

    /// `images [n, in_channels, h, w]` in [−1, 1], with sides that the encoder can halve as often
    /// as it does, to the distributions of their latents, in the type of `images`. One image after
    /// another: the feature maps of a large one take gigabytes.
    ///
    /// # Errors
    /// Images of another shape, and whatever candle reports.
    pub fn encode(&self, images: &Tensor) -> Result<Posterior> {
        let (n, channels, height, width) = images.dims4()?;
        let multiple = self.config.downsampling();
        if channels != self.config.in_channels
            || !height.is_multiple_of(multiple)
            || !width.is_multiple_of(multiple)
        {
            bail!(
                "images {:?} do not fit an autoencoder of {} channels whose sides are multiples of \
                 {multiple}",
                images.dims(),
                self.config.in_channels
            );
        }
        let moments = one_by_one(images, n, |image| {
            let h = self.encoder.forward(&image.to_dtype(self.dtype)?)?;
            self.quant_conv.forward(&h)?.to_dtype(images.dtype())
        })?;
        let latent = self.config.latent_channels;
        Ok(Posterior {
            mean: moments.narrow(1, 0, latent)?.contiguous()?,
            logvar: moments.narrow(1, latent, latent)?.clamp(-30f32, 20f32)?,
        })
    }

    /// `latents [n, latent_channels, h, w]`, not scaled, to images `[n, out_channels, …]` of about
    /// [−1, 1], in the type of `latents`. One image after another.
    ///
    /// # Errors
    /// Latents of another shape, and whatever candle reports.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let (n, channels, _, _) = latents.dims4()?;
        if channels != self.config.latent_channels {
            bail!(
                "latents {:?} for an autoencoder of {} latent channels",
                latents.dims(),
                self.config.latent_channels
            );
        }
        one_by_one(latents, n, |latents| {
            let z = self
                .post_quant_conv
                .forward(&latents.to_dtype(self.dtype)?)?;
            self.decoder.forward(&z)?.to_dtype(latents.dtype())
        })
    }
}

/// Applies `f` to each of the `n` images of `x` and puts the results together.
fn one_by_one(
    x: &Tensor,
    n: usize,
    f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync,
) -> Result<Tensor> {
    let parts: Result<Vec<Tensor>> = (0..n)
        .map(|index| {
            let one = x.narrow(0, index, 1)?;
            // In the usual order of dimensions, whatever order the layers left it in.
            on_pool(x.device(), || f(&one))?.contiguous()
        })
        .collect();
    Tensor::cat(&parts?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check_bf16_on_cpu;
    use crate::models::testing::{any_weights, any_weights_in, relative_error, uniform};
    use candle_core::Device;

    fn small() -> AutoencoderKl {
        small_in(DType::F32)
    }

    fn small_in(dtype: DType) -> AutoencoderKl {
        let config = AutoencoderKlConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![8, 16],
            layers_per_block: 1,
            norm_num_groups: 4,
            scaling_factor: 0.18215,
        };
        AutoencoderKl::new(&config, &any_weights_in(dtype)).unwrap()
    }

    #[test]
    fn shapes_and_batches() {
        let vae = small();
        let images = uniform(&[3, 3, 12, 8], 1);
        let posterior = vae.encode(&images).unwrap();
        assert_eq!(posterior.mean.dims(), [3, 4, 6, 4]);
        assert_eq!(posterior.logvar.dims(), [3, 4, 6, 4]);
        let last = vae.encode(&images.narrow(0, 2, 1).unwrap()).unwrap();
        let values = |t: &Tensor| -> Vec<f32> { t.flatten_all().unwrap().to_vec1().unwrap() };
        assert_eq!(
            values(&last.mean),
            values(&posterior.mean.narrow(0, 2, 1).unwrap())
        );
        assert_eq!(vae.decode(&posterior.mean).unwrap().dims(), [3, 3, 12, 8]);
        assert!(vae.encode(&uniform(&[1, 3, 11, 8], 1)).is_err());
        assert!(vae.encode(&uniform(&[1, 4, 12, 8], 1)).is_err());
        assert!(vae.decode(&uniform(&[1, 3, 6, 4], 1)).is_err());
    }

    #[test]
    fn bf16_stays_near_f32() {
        if check_bf16_on_cpu().is_err() {
            return;
        }
        let (wide, narrow) = (small(), small_in(DType::BF16));
        let images = uniform(&[2, 3, 12, 8], 1);
        let encode = |vae: &AutoencoderKl| vae.encode(&images).unwrap().mean;
        let latents = encode(&wide);
        let decode = |vae: &AutoencoderKl| vae.decode(&latents).unwrap();
        for (found, expected) in [
            (encode(&narrow), encode(&wide)),
            (decode(&narrow), decode(&wide)),
        ] {
            assert_eq!(found.dtype(), DType::F32);
            let error = relative_error(&found, &expected);
            assert!(error > 0.0 && error < 0.02, "{error}");
        }
    }

    #[test]
    fn a_downsampler_pads_below_and_to_the_right_only() {
        let vb = any_weights();
        let conv = load_downsampler(4, &vb).unwrap();
        let x = uniform(&[1, 4, 6, 8], 3);
        let padded = x.pad_with_zeros(2, 0, 1).unwrap().pad_with_zeros(3, 0, 1);
        let weight = vb.get((4, 4, 3, 3), "weight").unwrap();
        let expected = padded.unwrap().conv2d(&weight, 0, 2, 1, 1).unwrap();
        let bias = vb.get(4, "bias").unwrap().reshape((1, 4, 1, 1)).unwrap();
        let expected = expected.broadcast_add(&bias).unwrap();
        let found = conv.forward(&x).unwrap();
        assert_eq!(found.dims(), expected.dims());
        let worst = (found - expected)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap();
        assert!(worst.to_scalar::<f32>().unwrap() < 1e-5);
    }

    #[test]
    fn a_sample_lies_a_deviation_away_for_each_unit_of_noise() {
        let at = |value: f32| Tensor::new(&[[[[value]]]], &Device::Cpu).unwrap();
        let posterior = Posterior {
            mean: at(3.0),
            logvar: at(4f32.ln()),
        };
        let sample = posterior.sample(&at(-2.0)).unwrap();
        let value = sample.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        assert!((value + 1.0).abs() < 1e-6, "{value}");
    }
}
