//! candle-transformers as an oracle: its networks and ours on the same weights and inputs.
//!
//! The two implementations are independent, so they are unlikely to share an error. A wider
//! tolerance marks a function that candle-transformers computes differently from the reference:
//! its GELU in Stable Diffusion's feed-forward networks and in DINOv2 is the approximation by tanh,
//! which is off by up to 5e-4, and DINOv2's layer norms have an epsilon of 1e-5 instead of 1e-6.
//!
//! `cargo test --release --test oracle -- --ignored --nocapture` measures the speed of both.

// Most helpers of `support` are for the tests of the program.
#[allow(dead_code, unused_imports)]
mod support;

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models as theirs;
use dpsyn::internals::models::clip::{ClipText, ClipTextConfig, ClipVision, ClipVisionConfig};
use dpsyn::internals::models::dinov2::{Dinov2, Dinov2Config};
use dpsyn::internals::models::stable_diffusion::{
    AutoencoderKl, AutoencoderKlConfig, UNet2DCondition, UNet2DConditionConfig,
};
use support::made_up;
use theirs::clip::text_model::Activation;
use theirs::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use theirs::stable_diffusion::vae::{AutoEncoderKL, AutoEncoderKLConfig};

/// Difference of two ways of computing in `f32`, as a share of the root mean square.
const ROUNDING: f64 = 2e-5;
/// [`ROUNDING`] and the approximation of GELU by tanh.
const TANH_GELU: f64 = 2e-3;

fn weights_of<M>(build: impl FnOnce(VarBuilder<'static>) -> Result<M>) -> HashMap<String, Tensor> {
    made_up(7, DType::F32, build)
}

fn vb(weights: &HashMap<String, Tensor>) -> VarBuilder<'static> {
    VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu)
}

/// Numbers of about a standard normal distribution's size, the same at every call.
fn numbers(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|index| ((index as f32 * 12.9898).sin() * 43758.547).fract() * 2.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn assert_near(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims());
    let list = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (list(found), list(expected));
    let square = |x: f64| x * x;
    let off: f64 = found
        .iter()
        .zip(&expected)
        .map(|(f, e)| square(f64::from(*f) - f64::from(*e)))
        .sum();
    let size: f64 = expected.iter().map(|e| square(f64::from(*e))).sum();
    let share = (off / size).sqrt();
    assert!(share < tolerance, "{share:e} of the size apart");
    assert!(size > 0.0);
}

#[test]
fn clip_s_text_tower() {
    let ours = ClipTextConfig {
        vocab_size: 50,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        max_position_embeddings: 11,
        ..ClipTextConfig::default()
    };
    let config = theirs::clip::text_model::ClipTextConfig {
        vocab_size: 50,
        embed_dim: 64,
        activation: Activation::QuickGelu,
        intermediate_size: 96,
        max_position_embeddings: 11,
        pad_with: None,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        projection_dim: 64,
    };
    let weights = weights_of(|vb| ClipText::new(&ours, &vb));
    let ids = Tensor::new(
        vec![vec![49u32, 1, 2, 3, 48], vec![49, 7, 48, 48, 48]],
        &Device::Cpu,
    );
    let ids = ids.unwrap();
    let found = ClipText::new(&ours, &vb(&weights)).unwrap();
    let found = found.forward(&ids).unwrap();
    let network =
        theirs::clip::text_model::ClipTextTransformer::new(vb(&weights).pp("text_model"), &config);
    let expected = network.unwrap().forward_with_mask(&ids, usize::MAX);
    assert_near(&found, &expected.unwrap(), ROUNDING);
}

#[test]
fn clip_s_vision_tower() {
    let ours = ClipVisionConfig {
        hidden_size: 64,
        intermediate_size: 96,
        projection_dim: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        image_size: 32,
        patch_size: 8,
        ..ClipVisionConfig::default()
    };
    let config = theirs::clip::vision_model::ClipVisionConfig {
        embed_dim: 64,
        activation: Activation::QuickGelu,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        projection_dim: 24,
        num_channels: 3,
        image_size: 32,
        patch_size: 8,
    };
    // Under Hugging Face's names, which are the only ones that theirs knows.
    let weights = weights_of(|vb| {
        vb.get((24, 64), "visual_projection.weight")?;
        theirs::clip::vision_model::ClipVisionTransformer::new(vb.pp("vision_model"), &config)
    });
    let x = numbers(&[3, 3, 32, 32]);
    let found = ClipVision::new(&ours, &vb(&weights)).unwrap();
    let found = found.forward(&x).unwrap();
    // Theirs ends before the projection.
    let network = theirs::clip::vision_model::ClipVisionTransformer::new(
        vb(&weights).pp("vision_model"),
        &config,
    );
    let class = network.unwrap().forward(&x).unwrap();
    let projection = weights["visual_projection.weight"].t().unwrap();
    assert_near(&found, &class.matmul(&projection).unwrap(), ROUNDING);
}

// 32 groups, as in every published Stable Diffusion model: the down and up blocks of theirs ignore
// the number in the configuration.
#[test]
fn stable_diffusion_s_unet() {
    let ours = UNet2DConditionConfig {
        sample_size: 16,
        in_channels: 4,
        out_channels: 4,
        block_out_channels: vec![32, 64],
        layers_per_block: 2,
        down_attention: vec![true, false],
        up_attention: vec![false, true],
        num_heads: 4,
        cross_attention_dim: 24,
        norm_num_groups: 32,
        norm_eps: 1e-5,
    };
    let block = |out_channels, use_cross_attn| BlockConfig {
        out_channels,
        use_cross_attn,
        attention_head_dim: 4,
    };
    let config = UNet2DConditionModelConfig {
        blocks: vec![block(32, Some(1)), block(64, None)],
        layers_per_block: 2,
        norm_num_groups: 32,
        cross_attention_dim: 24,
        ..UNet2DConditionModelConfig::default()
    };
    let weights = weights_of(|vb| UNet2DCondition::new(&ours, &vb));
    let (x, text) = (numbers(&[2, 4, 16, 16]), numbers(&[2, 7, 24]));
    let found = UNet2DCondition::new(&ours, &vb(&weights)).unwrap();
    let found = found.forward(&x, &[981.0, 981.0], &text).unwrap();
    let network = UNet2DConditionModel::new(vb(&weights), 4, 4, false, config).unwrap();
    let expected = network.forward(&x, 981.0, &text).unwrap();
    assert_near(&found, &expected, TANH_GELU);
}

// 32 groups, as in every published Stable Diffusion model: the down and up blocks of theirs ignore
// the number in the configuration.
#[test]
fn stable_diffusion_s_autoencoder() {
    let ours = AutoencoderKlConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: vec![32, 64],
        layers_per_block: 1,
        norm_num_groups: 32,
        scaling_factor: 0.18215,
    };
    let config = AutoEncoderKLConfig {
        block_out_channels: vec![32, 64],
        layers_per_block: 1,
        latent_channels: 4,
        norm_num_groups: 32,
        ..AutoEncoderKLConfig::default()
    };
    let mut weights = weights_of(|vb| AutoencoderKl::new(&ours, &vb));
    // Theirs returns samples only, drawn with noise of its own: with a deviation of e⁻³⁰ they are
    // the means.
    let bias = [0.1f32, 0.2, 0.3, 0.4, -60.0, -60.0, -60.0, -60.0];
    let bias = Tensor::new(&bias, &Device::Cpu).unwrap();
    weights.insert("quant_conv.bias".to_owned(), bias);
    let network = AutoencoderKl::new(&ours, &vb(&weights)).unwrap();
    let oracle = AutoEncoderKL::new(vb(&weights), 3, 3, config).unwrap();
    // candle-transformers returns wrong images for a batch of two, so it gets one at a time.
    let each = |x: &Tensor, run: &dyn Fn(&Tensor) -> Tensor| {
        let parts: Vec<Tensor> = (0..2).map(|i| run(&x.narrow(0, i, 1).unwrap())).collect();
        Tensor::cat(&parts, 0).unwrap()
    };
    let latents = numbers(&[2, 4, 8, 8]);
    let found = network.decode(&latents).unwrap();
    let expected = each(&latents, &|x| oracle.decode(x).unwrap());
    assert_near(&found, &expected, ROUNDING);
    let images = numbers(&[2, 3, 16, 16]);
    let found = network.encode(&images).unwrap().mean;
    let expected = each(&images, &|x| oracle.encode(x).unwrap().sample().unwrap());
    assert_near(&found, &expected, ROUNDING);
}

/// At the one size at which theirs leaves the positions as they are.
#[test]
fn dinov2_at_its_native_size() {
    let (ours, weights) = dinov2(64, 1);
    let x = numbers(&[1, 3, 518, 518]);
    let found = our_dinov2(&ours, &weights, 518).forward(&x).unwrap();
    let scores = their_dinov2(&ours, &weights).forward(&x).unwrap();
    let expected = scores.narrow(1, 0, 64).unwrap();
    assert_near(&found, &expected, TANH_GELU);
}

/// The time of theirs as a multiple of ours, for the base size.
#[test]
#[ignore = "measures the speed; run it in release mode"]
fn dinov2_speed() {
    let (ours, weights) = dinov2(768, 12);
    let oracle = their_dinov2(&ours, &weights);
    // Theirs takes one image at a time: it does not repeat the class token for a batch.
    for (size, batch) in [(224, 1), (518, 1)] {
        let network = our_dinov2(&ours, &weights, size);
        let x = numbers(&[batch, 3, size, size]);
        let fastest = |run: &dyn Fn() -> Tensor| {
            run();
            let times = (0..3).map(|_| {
                let begun = std::time::Instant::now();
                run();
                begun.elapsed()
            });
            times.min().unwrap()
        };
        let own = fastest(&|| network.forward(&x).unwrap());
        let other = fastest(&|| oracle.forward(&x).unwrap());
        println!(
            "DINOv2 base, {batch} images of {size} pixels: ours {own:?}, theirs {other:?}, ratio {:.2}",
            other.as_secs_f64() / own.as_secs_f64()
        );
    }
}

/// Weights under Meta's names, with the classifier that theirs requires: it hands on the class
/// token.
fn dinov2(hidden_size: usize, num_hidden_layers: usize) -> (Dinov2Config, HashMap<String, Tensor>) {
    let config = Dinov2Config {
        hidden_size,
        num_hidden_layers,
        num_attention_heads: hidden_size / 64,
        ..Dinov2Config::default()
    };
    let heads = config.num_attention_heads;
    let mut weights = weights_of(|vb| {
        theirs::dinov2::DinoVisionTransformer::new(vb, num_hidden_layers, hidden_size, heads)
    });
    let head: Vec<f32> = (0..1000 * 2 * hidden_size)
        .map(|index| {
            let (row, column) = (index / (2 * hidden_size), index % (2 * hidden_size));
            f32::from(u8::from(row == column && column < hidden_size))
        })
        .collect();
    let head = Tensor::from_vec(head, (1000, 2 * hidden_size), &Device::Cpu).unwrap();
    weights.insert("head.weight".to_owned(), head);
    let bias = Tensor::zeros(1000, DType::F32, &Device::Cpu).unwrap();
    weights.insert("head.bias".to_owned(), bias);
    (config, weights)
}

fn our_dinov2(config: &Dinov2Config, weights: &HashMap<String, Tensor>, size: usize) -> Dinov2 {
    Dinov2::new(config, size, &vb(weights)).unwrap()
}

fn their_dinov2(
    config: &Dinov2Config,
    weights: &HashMap<String, Tensor>,
) -> theirs::dinov2::DinoVisionTransformer {
    let (depth, heads) = (config.num_hidden_layers, config.num_attention_heads);
    let hidden = config.hidden_size;
    theirs::dinov2::DinoVisionTransformer::new(vb(weights), depth, hidden, heads).unwrap()
}
