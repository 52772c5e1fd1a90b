//! The UNet of improved diffusion (Nichol & Dhariwal 2021, arXiv 2102.09672).
//!
//! Reference: `UNetModel` in `improved_diffusion/unet.py` and `create_model` in `script_util.py` of
//! openai/improved-diffusion. Weights keep the names of its `state_dict`.

mod blocks;
mod config;

pub use config::UNetConfig;

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::kernels::{
    BatchSplit, Conv2d, Conv2dShape, GroupNorm, Linear, concat, convert, par_over_batch, silu,
};
use blocks::{AttentionBlock, Block, Layer, ResBlock, norm};

/// Channels up to which a network is small: its largest convolution's weight fits a core's own
/// cache.
const SMALL: usize = 128;

/// The network: predicts the noise (and, with `learn_sigma`, a variance) of a noisy image.
#[derive(Debug, Clone)]
pub struct UNet {
    config: UNetConfig,
    dtype: DType,
    time_embed: (Linear, Linear),
    label_emb: Option<Tensor>,
    input_blocks: Vec<Block>,
    middle_block: Block,
    output_blocks: Vec<Block>,
    out: (GroupNorm, Conv2d),
    share: BatchSplit,
}

impl UNet {
    /// Builds the network on the device of `vb`. Its convolutions and feature maps have the type of
    /// `vb`; as in the original, the embedding, the normalization and the last layer are `f32`.
    ///
    /// # Errors
    /// A configuration that [`UNetConfig::validate`] refuses; a tensor that is missing or has
    /// another shape.
    pub fn new(config: &UNetConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        // One pass over the levels, in the order of the original's constructor: the channels and
        // the skip connections of a block depend on all blocks before it, so that parts of it would
        // pass the same six values to each other.
        let layout = config.layout().map_err(candle_core::Error::wrap)?;
        let time_dim = config.time_embed_dim();
        let wide = vb.to_dtype(DType::F32);
        let time_embed = (
            Linear::load(
                config.model_channels,
                time_dim,
                true,
                &wide.pp("time_embed.0"),
            )?,
            Linear::load(time_dim, time_dim, true, &wide.pp("time_embed.2"))?,
        );
        let label_emb = match config.num_classes {
            Some(classes) => Some(wide.get((classes, time_dim), "label_emb.weight")?),
            None => None,
        };

        let res_block =
            |from: usize, level: usize, to: usize, vb: VarBuilder<'_>| -> Result<Layer> {
                let side = config.image_size >> level;
                let scale_shift = config.use_scale_shift_norm;
                let block = ResBlock::load((from, to), side, time_dim, scale_shift, &vb)?;
                Ok(Layer::Res(Box::new(block)))
            };
        let attention = |channels: usize, heads: usize, vb: VarBuilder<'_>| -> Result<Layer> {
            Ok(Layer::Attention(AttentionBlock::load(
                channels, heads, &vb,
            )?))
        };

        let base = config.model_channels;
        let stem = Conv2dShape::same(config.in_channels, base, 3);
        let mut input_blocks = vec![Block::new(vec![Layer::Conv(Conv2d::load(
            stem,
            true,
            &vb.pp("input_blocks.0.0"),
        )?)])];
        // What each input block hands over to its output block.
        let mut skips = vec![base];
        let mut channels = base;
        for (level, step) in layout.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                let vb = vb.pp(format!("input_blocks.{}", input_blocks.len()));
                let mut layers = vec![res_block(channels, level, step.channels, vb.pp("0"))?];
                channels = step.channels;
                if step.attention {
                    layers.push(attention(channels, config.num_heads, vb.pp("1"))?);
                }
                input_blocks.push(Block::new(layers));
                skips.push(channels);
            }
            if level + 1 < layout.len() {
                let vb = vb.pp(format!("input_blocks.{}.0.op", input_blocks.len()));
                let shape = Conv2dShape::same(channels, channels, 3).with_stride(2);
                input_blocks.push(Block::new(vec![Layer::Conv(Conv2d::load(
                    shape, true, &vb,
                )?)]));
                skips.push(channels);
            }
        }

        let middle = vb.pp("middle_block");
        let last = layout.len() - 1;
        let middle_block = Block::new(vec![
            res_block(channels, last, channels, middle.pp("0"))?,
            attention(channels, config.num_heads, middle.pp("1"))?,
            res_block(channels, last, channels, middle.pp("2"))?,
        ]);

        let heads = config.num_heads_upsample.unwrap_or(config.num_heads);
        let mut output_blocks = Vec::new();
        for (level, step) in layout.iter().enumerate().rev() {
            for index in 0..=config.num_res_blocks {
                let vb = vb.pp(format!("output_blocks.{}", output_blocks.len()));
                let Some(skip) = skips.pop() else {
                    bail!("the output blocks want more inputs than there are input blocks");
                };
                let mut layers = vec![res_block(
                    channels + skip,
                    level,
                    step.channels,
                    vb.pp("0"),
                )?];
                channels = step.channels;
                if step.attention {
                    layers.push(attention(channels, heads, vb.pp("1"))?);
                }
                if level > 0 && index == config.num_res_blocks {
                    let vb = vb.pp(layers.len()).pp("conv");
                    let side = config.image_size >> (level - 1);
                    let shape = Conv2dShape::same(channels, channels, 3).giving(side);
                    layers.push(Layer::Upsample(Conv2d::load(shape, true, &vb)?));
                }
                output_blocks.push(Block::new(layers));
            }
        }

        let shape = Conv2dShape::same(channels, config.out_channels(), 3);
        let out = (
            norm(channels, &wide.pp("out.0"))?,
            Conv2d::load(shape, true, &wide.pp("out.2"))?,
        );
        Ok(Self {
            config: config.clone(),
            dtype: vb.dtype(),
            time_embed,
            label_emb,
            input_blocks,
            middle_block,
            output_blocks,
            out,
            share: match layout.iter().map(|step| step.channels).max() {
                Some(..=SMALL) => BatchSplit::SmallChunks,
                _ => BatchSplit::PerThread,
            },
        })
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Evaluates the network.
    ///
    /// `x` is `[n, in_channels, height, width]` with sides that halve as often as the network does,
    /// `timesteps` and `labels` have one entry per image; `labels` are given if and only if the
    /// model is class-conditional. The result is `[n, out_channels, height, width]` in the type of
    /// `x`.
    ///
    /// # Errors
    /// Arguments of other shapes, labels out of range, and whatever candle reports.
    pub fn forward(&self, x: &Tensor, timesteps: &[f32], labels: Option<&[u32]>) -> Result<Tensor> {
        self.check(x, timesteps, labels)?;
        par_over_batch(x, self.share, |images| {
            let x = x.narrow(0, images.start, images.len())?;
            let timesteps = timesteps.get(images.clone()).unwrap_or_default();
            let labels = labels.and_then(|labels| labels.get(images));
            self.forward_observed(&x, timesteps, labels, |_, _| Ok(()))
        })
    }

    /// [`UNet::forward`], showing `observe` what comes out of `time_embed` (before the label is
    /// added), of every `input_blocks.<i>`, of `middle_block` and of every `output_blocks.<i>`.
    ///
    /// # Errors
    /// As [`UNet::forward`], and whatever `observe` returns.
    pub fn forward_observed(
        &self,
        x: &Tensor,
        timesteps: &[f32],
        labels: Option<&[u32]>,
        mut observe: impl FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        self.check(x, timesteps, labels)?;
        let mut emb = self.embed_timesteps(x, timesteps)?;
        observe("time_embed", &emb)?;
        if let Some(embedded) = self.embed_labels(x, labels)? {
            emb = (emb + embedded)?;
        }
        // Every residual block begins with the activation of the same embedding.
        let emb = silu(&emb)?;

        let mut h = convert(x, self.dtype)?;
        let mut skips = Vec::with_capacity(self.input_blocks.len());
        for (index, block) in self.input_blocks.iter().enumerate() {
            h = block.forward(&h, &emb)?;
            observe(&format!("input_blocks.{index}"), &h)?;
            skips.push(h.clone());
        }
        h = self.middle_block.forward(&h, &emb)?;
        observe("middle_block", &h)?;
        for (index, block) in self.output_blocks.iter().enumerate() {
            let Some(skip) = skips.pop() else {
                bail!("the output blocks want more inputs than there are input blocks");
            };
            h = block.forward(&concat(&[h, skip])?, &emb)?;
            observe(&format!("output_blocks.{index}"), &h)?;
        }
        let (norm, conv) = &self.out;
        let h = convert(&h, DType::F32)?;
        conv.forward(&norm.forward_silu(&h)?)?.to_dtype(x.dtype())
    }

    fn check(&self, x: &Tensor, timesteps: &[f32], labels: Option<&[u32]>) -> Result<()> {
        let (n, channels, height, width) = x.dims4()?;
        let multiple = self.config.size_multiple();
        if channels != self.config.in_channels
            || !height.is_multiple_of(multiple)
            || !width.is_multiple_of(multiple)
        {
            bail!(
                "input {:?} does not fit a network of {} channels whose sides are multiples of {multiple}",
                x.dims(),
                self.config.in_channels
            );
        }
        if timesteps.len() != n {
            bail!("{} timesteps for {n} images", timesteps.len());
        }
        if let Some(labels) = labels
            && labels.len() != n
        {
            bail!("{} labels for {n} images", labels.len());
        }
        Ok(())
    }

    fn embed_timesteps(&self, x: &Tensor, timesteps: &[f32]) -> Result<Tensor> {
        let dim = self.config.model_channels;
        // Elsewhere than on the CPU, where it costs nothing, one row is uploaded for a batch that
        // is at one time.
        let same = timesteps.windows(2).all(|pair| pair[0] == pair[1]);
        let rows = match timesteps {
            [first, _, ..] if same && !x.device().is_cpu() => std::slice::from_ref(first),
            all => all,
        };
        let values = timestep_embedding(rows, dim);
        let emb = Tensor::from_vec(values, (rows.len(), dim), x.device())?;
        let emb = self.time_embed.0.forward(&emb)?;
        let emb = self.time_embed.1.forward(&silu(&emb)?)?;
        if rows.len() == timesteps.len() {
            return Ok(emb);
        }
        emb.broadcast_as((timesteps.len(), emb.dim(1)?))?
            .contiguous()
    }

    fn embed_labels(&self, x: &Tensor, labels: Option<&[u32]>) -> Result<Option<Tensor>> {
        let (table, labels) = match (&self.label_emb, labels) {
            (None, None) => return Ok(None),
            (Some(table), Some(labels)) => (table, labels),
            (None, Some(_)) => bail!("labels were given to a model without classes"),
            (Some(_), None) => bail!("a class-conditional model needs labels"),
        };
        let classes = table.dim(0)?;
        if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
            bail!("label {label} is out of range: the model has {classes} classes");
        }
        let indices = Tensor::from_slice(labels, labels.len(), x.device())?;
        table.index_select(&indices, 0).map(Some)
    }
}

/// Sinusoidal embedding of timesteps, which may be fractional: row-major `[timesteps, dim]`, first
/// the cosines, then the sines, of `t · 10000^(-i / (dim / 2))`; a last column of zeros when `dim`
/// is odd (`timestep_embedding` in `improved_diffusion/nn.py`).
///
/// Frequencies and angles are rounded to `f32` as the original's are: at large timesteps, that
/// rounding is most of what the network was trained to see.
#[must_use]
pub fn timestep_embedding(timesteps: &[f32], dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let log_period = -(10_000f64.ln()) as f32;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| libm::exp(f64::from(log_period * i as f32 / half as f32)) as f32)
        .collect();
    let mut out = Vec::with_capacity(timesteps.len() * dim);
    for t in timesteps {
        let angles = || frequencies.iter().map(|f| f64::from(t * f));
        out.extend(angles().map(|angle| libm::cos(angle) as f32));
        out.extend(angles().map(|angle| libm::sin(angle) as f32));
        out.extend((2 * half..dim).map(|_| 0.0));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check_bf16_on_cpu;
    use crate::kernels::testing::composed;
    use crate::models::testing::{any_weights_in, relative_error, uniform};

    fn small() -> UNet {
        small_in(DType::F32)
    }

    fn small_in(dtype: DType) -> UNet {
        let config = UNetConfig {
            image_size: 16,
            model_channels: 32,
            num_res_blocks: 1,
            channel_mult: Some(vec![1, 2]),
            attention_resolutions: vec![8],
            num_classes: Some(3),
            ..UNetConfig::default()
        };
        UNet::new(&config, &any_weights_in(dtype)).unwrap()
    }

    /// As GPUs run it: in `f32`, and in f16 in the place of bf16, whose products candle has not on
    /// the CPU.
    #[test]
    fn composed_layers_are_the_same_network() {
        let x = uniform(&[2, 3, 16, 16], 1);
        let evaluate = |dtype| {
            let unet = small_in(dtype);
            unet.forward(&x, &[20.0, 20.0], Some(&[0, 2])).unwrap()
        };
        let expected = evaluate(DType::F32);
        for (dtype, allowed) in [(DType::F32, 1e-5), (DType::F16, 5e-3)] {
            let found = composed(|| evaluate(dtype));
            assert_eq!(found.dtype(), DType::F32);
            let error = relative_error(&found, &expected);
            assert!(error < allowed, "{dtype:?}: {error}");
        }
    }

    /// Each of some thirty roundings on the way adds up to 2⁻⁸ of what it rounds.
    #[test]
    fn bf16_stays_near_f32() {
        if check_bf16_on_cpu().is_err() {
            return;
        }
        let x = uniform(&[2, 3, 16, 16], 1);
        let evaluate = |dtype| {
            small_in(dtype)
                .forward(&x, &[500.0, 20.0], Some(&[0, 2]))
                .unwrap()
        };
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

    fn check_batches(unet: &UNet) {
        let x = uniform(&[5, 3, 16, 16], 1);
        let (timesteps, labels) = ([0.0, 17.5, 200.0, 999.0, 3.0], [0, 1, 2, 0, 1]);
        let bits = |y: Tensor| -> Vec<u32> {
            let values: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
            values.iter().map(|v| v.to_bits()).collect()
        };
        let together = unet.forward(&x, &timesteps, Some(&labels)).unwrap();
        for i in 0..5 {
            let one = x.narrow(0, i, 1).unwrap();
            let alone = unet.forward(&one, &timesteps[i..=i], Some(&labels[i..=i]));
            assert_eq!(
                bits(alone.unwrap()),
                bits(together.narrow(0, i, 1).unwrap()),
                "image {i}"
            );
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        let unet = small();
        let refused = |x: &[usize], timesteps: &[f32], labels: Option<&[u32]>| {
            let result = unet.forward(&uniform(x, 1), timesteps, labels);
            result.expect_err("a refusal").to_string()
        };
        let good = [1, 3, 16, 16];
        assert!(refused(&good, &[1.0], None).contains("needs labels"));
        assert!(refused(&good, &[1.0], Some(&[3])).contains("label 3 is out of range"));
        assert!(refused(&good, &[1.0], Some(&[1, 2])).contains("2 labels for 1 images"));
        assert!(refused(&good, &[], Some(&[1])).contains("0 timesteps"));
        assert!(refused(&[1, 3, 15, 16], &[1.0], Some(&[1])).contains("multiples of 2"));
        assert!(refused(&[1, 4, 16, 16], &[1.0], Some(&[1])).contains("3 channels"));
    }

    #[test]
    fn odd_embeddings_end_in_zero() {
        let embedding = timestep_embedding(&[0.0, 2.0], 5);
        assert_eq!(embedding[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(embedding[9], 0.0);
        assert_eq!(embedding[5], 2f64.cos() as f32);
    }
}
