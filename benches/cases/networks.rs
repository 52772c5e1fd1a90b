//! One evaluation of each network.

use std::hint::black_box;

use candle_core::DType;
use dpsyn::internals::models::improved_diffusion::{UNet, UNetConfig};
use dpsyn::internals::models::inception::{INPUT_SIZE, Inception};

use super::Work;
use super::weights::{any, device, tensor};

fn unet(n: usize, dtype: DType, config: &UNetConfig) -> Work {
    let unet = UNet::new(config, &any(dtype)).unwrap();
    let x = tensor((n, 3, config.image_size, config.image_size), 1.0);
    let timesteps = vec![500.0; n];
    let labels: Vec<u32> = (0..n as u32).collect();
    Box::new(move || {
        black_box(unet.forward(&x, &timesteps, Some(&labels)).unwrap());
        // Calls on a GPU return before the work is done.
        device().synchronize().unwrap();
    })
}

/// The UNet of `configs/quickstart.toml`.
pub fn quickstart(n: usize, dtype: DType) -> Work {
    let config = UNetConfig {
        image_size: 32,
        model_channels: 32,
        num_res_blocks: 1,
        channel_mult: Some(vec![1, 2, 2, 2]),
        attention_resolutions: vec![8],
        num_heads: 4,
        learn_sigma: true,
        num_classes: Some(62),
        ..UNetConfig::default()
    };
    unet(n, dtype, &config)
}

/// The paper's model: improved-diffusion's class-conditional ImageNet 64, 270 million weights.
pub fn imagenet64(n: usize, dtype: DType) -> Work {
    let config = UNetConfig {
        image_size: 64,
        model_channels: 192,
        num_res_blocks: 3,
        attention_resolutions: vec![16, 8],
        num_heads: 4,
        learn_sigma: true,
        num_classes: Some(1000),
        ..UNetConfig::default()
    };
    unet(n, dtype, &config)
}

/// FID's Inception.
pub fn inception(n: usize, dtype: DType) -> Work {
    let network = Inception::new(&any(dtype)).unwrap();
    let x = tensor((n, 3, INPUT_SIZE, INPUT_SIZE), 1.0);
    Box::new(move || {
        black_box(network.forward(&x).unwrap());
        device().synchronize().unwrap();
    })
}
