//! `clip_preprocess`: what CLIP's network sees of an image.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use dpsyn::internals::embedders::ClipEmbedder;
use dpsyn::internals::images::ImageBatch;
use dpsyn::internals::models::clip::{ClipVision, ClipVisionConfig};

use super::compare::check_bytes;
use super::{Case, Outcome, Tolerance};

const SIDE: usize = 224;

pub fn check(case: &Case) -> Outcome {
    // The network only says how large its input is.
    let config = ClipVisionConfig {
        hidden_size: 1,
        intermediate_size: 1,
        projection_dim: 1,
        num_hidden_layers: 0,
        num_attention_heads: 1,
        image_size: SIDE,
        patch_size: SIDE,
        ..ClipVisionConfig::default()
    };
    let zeros = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let embedder = ClipEmbedder::new(ClipVision::new(&config, &zeros)?, 1, 1, Device::Cpu)?;
    let mut checked = 0;
    for name in case.names() {
        let Some(name) = name.strip_suffix(".image") else {
            continue;
        };
        let (pixels, shape) = case.u8s(&format!("{name}.image"))?;
        let [height, width, 3] = shape[..] else {
            return Err(format!("{name}.image has shape {shape:?}, not HWC").into());
        };
        let images = ImageBatch::new(pixels, 1, height, width)?;
        let stage = format!("{name}.stage224_uint8");
        let cut = ClipEmbedder::cut_out(&images, SIDE)?;
        check_bytes(&stage, cut.data(), &case.u8s(&stage)?.0, 0.0)?;

        let rows = format!("{name}.normalised_rows_0_111_223");
        let input = embedder.network_input(&images)?.squeeze(0)?;
        let rows_at = candle_core::Tensor::new(&[0u32, 111, 223], &Device::Cpu)?;
        let found = input.index_select(&rows_at, 1)?.to_dtype(DType::F64)?;
        let found: Vec<f64> = found.flatten_all()?.to_vec1()?;
        Tolerance::absolute(1e-6).check(&rows, &found, &case.f64s(&rows)?.0)?;
        checked += 1;
    }
    match checked {
        0 => Err("no tensor is named `<name>.image`".into()),
        _ => Ok(()),
    }
}
