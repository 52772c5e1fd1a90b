//! The networks ask for the tensors of the published v1-4 checkpoint, no more and no less.
//!
//! The lists here are written down from the public architecture (the checkpoint's configurations
//! and the layers of diffusers and transformers), without our loaders. Their sizes are the
//! published ones: 859,520,964 numbers in the UNet, 83,653,863 in the autoencoder, 123,060,480 in
//! the text encoder.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use serde_json::json;

use super::*;
use crate::models::clip::{ClipText, ClipTextConfig};

#[derive(Default, Clone, PartialEq, Debug)]
struct Manifest(BTreeMap<String, Vec<usize>>);

impl Manifest {
    fn add(&mut self, name: String, shape: &[usize]) {
        assert!(
            self.0.insert(name.clone(), shape.to_vec()).is_none(),
            "{name} twice"
        );
    }

    /// A layer: its weight, and a bias of the weight's first size.
    fn layer(&mut self, name: &str, shape: &[usize]) {
        self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
    }

    fn numbers(&self) -> usize {
        let sizes = self.0.values().map(|shape| shape.iter().product::<usize>());
        sizes.sum()
    }

    fn resnet(&mut self, name: &str, inputs: usize, outputs: usize, time: Option<usize>) {
        self.layer(&format!("{name}.norm1"), &[inputs]);
        self.layer(&format!("{name}.conv1"), &[outputs, inputs, 3, 3]);
        if let Some(time) = time {
            self.layer(&format!("{name}.time_emb_proj"), &[outputs, time]);
        }
        self.layer(&format!("{name}.norm2"), &[outputs]);
        self.layer(&format!("{name}.conv2"), &[outputs, outputs, 3, 3]);
        if inputs != outputs {
            self.layer(&format!("{name}.conv_shortcut"), &[outputs, inputs, 1, 1]);
        }
    }

    fn transformer(&mut self, name: &str, width: usize) {
        self.layer(&format!("{name}.norm"), &[width]);
        self.layer(&format!("{name}.proj_in"), &[width, width, 1, 1]);
        self.layer(&format!("{name}.proj_out"), &[width, width, 1, 1]);
        let block = format!("{name}.transformer_blocks.0");
        for (attention, context) in [("attn1", width), ("attn2", 768)] {
            self.add(format!("{block}.{attention}.to_q.weight"), &[width, width]);
            self.add(
                format!("{block}.{attention}.to_k.weight"),
                &[width, context],
            );
            self.add(
                format!("{block}.{attention}.to_v.weight"),
                &[width, context],
            );
            self.layer(&format!("{block}.{attention}.to_out.0"), &[width, width]);
        }
        self.layer(&format!("{block}.ff.net.0.proj"), &[8 * width, width]);
        self.layer(&format!("{block}.ff.net.2"), &[width, 4 * width]);
        for norm in ["norm1", "norm2", "norm3"] {
            self.layer(&format!("{block}.{norm}"), &[width]);
        }
    }
}

fn unet() -> Manifest {
    let mut list = Manifest::default();
    let time = Some(1280);
    list.layer("time_embedding.linear_1", &[1280, 320]);
    list.layer("time_embedding.linear_2", &[1280, 1280]);
    list.layer("conv_in", &[320, 4, 3, 3]);
    for (block, inputs, width) in [
        (0, 320, 320),
        (1, 320, 640),
        (2, 640, 1280),
        (3, 1280, 1280),
    ] {
        let name = format!("down_blocks.{block}");
        list.resnet(&format!("{name}.resnets.0"), inputs, width, time);
        list.resnet(&format!("{name}.resnets.1"), width, width, time);
        if block < 3 {
            list.transformer(&format!("{name}.attentions.0"), width);
            list.transformer(&format!("{name}.attentions.1"), width);
            list.layer(
                &format!("{name}.downsamplers.0.conv"),
                &[width, width, 3, 3],
            );
        }
    }
    list.resnet("mid_block.resnets.0", 1280, 1280, time);
    list.transformer("mid_block.attentions.0", 1280);
    list.resnet("mid_block.resnets.1", 1280, 1280, time);
    for (block, inputs, width) in [
        (0, [2560, 2560, 2560], 1280),
        (1, [2560, 2560, 1920], 1280),
        (2, [1920, 1280, 960], 640),
        (3, [960, 640, 640], 320),
    ] {
        let name = format!("up_blocks.{block}");
        for (layer, inputs) in inputs.into_iter().enumerate() {
            list.resnet(&format!("{name}.resnets.{layer}"), inputs, width, time);
            if block > 0 {
                list.transformer(&format!("{name}.attentions.{layer}"), width);
            }
        }
        if block < 3 {
            list.layer(&format!("{name}.upsamplers.0.conv"), &[width, width, 3, 3]);
        }
    }
    list.layer("conv_norm_out", &[320]);
    list.layer("conv_out", &[4, 320, 3, 3]);
    list
}

fn vae() -> Manifest {
    let mut list = Manifest::default();
    let middle = |list: &mut Manifest, name: &str| {
        list.resnet(&format!("{name}.resnets.0"), 512, 512, None);
        list.resnet(&format!("{name}.resnets.1"), 512, 512, None);
        let attention = format!("{name}.attentions.0");
        list.layer(&format!("{attention}.group_norm"), &[512]);
        // The names from before 2023.
        for part in ["query", "key", "value", "proj_attn"] {
            list.layer(&format!("{attention}.{part}"), &[512, 512]);
        }
    };
    list.layer("encoder.conv_in", &[128, 3, 3, 3]);
    for (block, inputs, width) in [(0, 128, 128), (1, 128, 256), (2, 256, 512), (3, 512, 512)] {
        let name = format!("encoder.down_blocks.{block}");
        list.resnet(&format!("{name}.resnets.0"), inputs, width, None);
        list.resnet(&format!("{name}.resnets.1"), width, width, None);
        if block < 3 {
            list.layer(
                &format!("{name}.downsamplers.0.conv"),
                &[width, width, 3, 3],
            );
        }
    }
    middle(&mut list, "encoder.mid_block");
    list.layer("encoder.conv_norm_out", &[512]);
    list.layer("encoder.conv_out", &[8, 512, 3, 3]);
    list.layer("quant_conv", &[8, 8, 1, 1]);
    list.layer("post_quant_conv", &[4, 4, 1, 1]);
    list.layer("decoder.conv_in", &[512, 4, 3, 3]);
    middle(&mut list, "decoder.mid_block");
    for (block, inputs, width) in [(0, 512, 512), (1, 512, 512), (2, 512, 256), (3, 256, 128)] {
        let name = format!("decoder.up_blocks.{block}");
        list.resnet(&format!("{name}.resnets.0"), inputs, width, None);
        list.resnet(&format!("{name}.resnets.1"), width, width, None);
        list.resnet(&format!("{name}.resnets.2"), width, width, None);
        if block < 3 {
            list.layer(&format!("{name}.upsamplers.0.conv"), &[width, width, 3, 3]);
        }
    }
    list.layer("decoder.conv_norm_out", &[128]);
    list.layer("decoder.conv_out", &[3, 128, 3, 3]);
    list
}

fn text_encoder() -> Manifest {
    let mut list = Manifest::default();
    let embeddings = "text_model.embeddings";
    list.add(
        format!("{embeddings}.token_embedding.weight"),
        &[49_408, 768],
    );
    list.add(
        format!("{embeddings}.position_embedding.weight"),
        &[77, 768],
    );
    for layer in 0..12 {
        let name = format!("text_model.encoder.layers.{layer}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.layer(&format!("{name}.self_attn.{part}"), &[768, 768]);
        }
        list.layer(&format!("{name}.layer_norm1"), &[768]);
        list.layer(&format!("{name}.layer_norm2"), &[768]);
        list.layer(&format!("{name}.mlp.fc1"), &[3072, 768]);
        list.layer(&format!("{name}.mlp.fc2"), &[768, 3072]);
    }
    list.layer("text_model.final_layer_norm", &[768]);
    list
}

/// Hands out tensors of one number each, repeated, and notes what is asked for.
struct Noting {
    published: Manifest,
    asked: Arc<Mutex<Manifest>>,
}

impl SimpleBackend for Noting {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut asked = self.asked.lock().unwrap();
        asked.0.insert(name.to_owned(), shape.dims().to_vec());
        Tensor::zeros(1, dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.published.0.contains_key(name)
    }
}

/// The tensors that `build` reads from a checkpoint of these tensors. In bytes, not floats: the
/// numbers do not matter, their room does.
fn asked<M>(published: &Manifest, build: impl FnOnce(VarBuilder<'_>) -> Result<M>) -> Manifest {
    let asked = Arc::new(Mutex::new(Manifest::default()));
    let backend = Noting {
        published: published.clone(),
        asked: Arc::clone(&asked),
    };
    build(VarBuilder::from_backend(
        Box::new(backend),
        DType::U8,
        Device::Cpu,
    ))
    .unwrap();
    let asked = asked.lock().unwrap();
    asked.clone()
}

fn check(published: &Manifest, asked: &Manifest, tensors: usize, numbers: usize) {
    assert_eq!((published.0.len(), published.numbers()), (tensors, numbers));
    for (name, shape) in &published.0 {
        assert_eq!(asked.0.get(name), Some(shape), "{name}");
    }
    for name in asked.0.keys() {
        assert!(published.0.contains_key(name), "{name} is not published");
    }
}

#[test]
fn the_unet_is_the_published_one() {
    let config = UNet2DConditionConfig::from_json(&json!({"cross_attention_dim": 768})).unwrap();
    let published = unet();
    let asked = asked(&published, |vb| UNet2DCondition::new(&config, &vb));
    check(&published, &asked, 686, 859_520_964);
}

#[test]
fn the_autoencoder_is_the_published_one() {
    let file = json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2});
    let config = AutoencoderKlConfig::from_json(&file).unwrap();
    let published = vae();
    let asked = asked(&published, |vb| AutoencoderKl::new(&config, &vb));
    check(&published, &asked, 248, 83_653_863);
}

#[test]
fn the_text_encoder_is_the_published_one() {
    let file = json!({
        "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072,
        "max_position_embeddings": 77, "num_attention_heads": 12, "num_hidden_layers": 12,
        "vocab_size": 49_408
    });
    let config: ClipTextConfig = serde_json::from_value(file).unwrap();
    let published = text_encoder();
    let asked = asked(&published, |vb| ClipText::new(&config, &vb));
    check(&published, &asked, 196, 123_060_480);
}
