use std::collections::HashMap;

use super::*;
use crate::kernels::check_bf16_on_cpu;
use crate::models::testing::{any_weights_in, relative_error, uniform};

fn config(use_swiglu_ffn: bool, num_register_tokens: usize) -> Dinov2Config {
    Dinov2Config {
        hidden_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        use_swiglu_ffn,
        image_size: 70,
        num_register_tokens,
        ..Dinov2Config::default()
    }
}

fn network(config: &Dinov2Config, dtype: DType) -> Dinov2 {
    Dinov2::new(config, 42, &any_weights_in(dtype)).unwrap()
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    for (swiglu, registers) in [(false, 0), (true, 4)] {
        let network = network(&config(swiglu, registers), DType::F32);
        let x = uniform(&[3, 3, 42, 42], 1);
        let together: Vec<Vec<f32>> = network.forward(&x).unwrap().to_vec2().unwrap();
        let alone = network.forward(&x.narrow(0, 1, 1).unwrap()).unwrap();
        assert_eq!(alone.to_vec2::<f32>().unwrap()[0], together[1]);
        assert_eq!(together[1].len(), 128);
        assert_ne!(together[0], together[1]);
        assert!(network.forward(&uniform(&[1, 3, 70, 70], 1)).is_err());
    }
}

#[test]
fn bf16_stays_near_f32() {
    if check_bf16_on_cpu().is_err() {
        return;
    }
    let x = uniform(&[2, 3, 42, 42], 1);
    for (swiglu, registers) in [(false, 4), (true, 0)] {
        let config = config(swiglu, registers);
        let forward = |dtype| network(&config, dtype).forward(&x).unwrap();
        let error = relative_error(&forward(DType::BF16), &forward(DType::F32));
        assert!(error > 0.0 && error < 0.02, "{error}");
    }
}

/// Tensors of two blocks under Meta's names.
fn tensors(swiglu: bool, registers: usize) -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    let mut put = |name: String, shape: &[usize]| {
        tensors.insert(name, uniform(shape, 2));
    };
    put("cls_token".to_owned(), &[1, 1, 128]);
    put("mask_token".to_owned(), &[1, 128]);
    put("pos_embed".to_owned(), &[1, 26, 128]);
    put("patch_embed.proj.weight".to_owned(), &[128, 3, 14, 14]);
    put("patch_embed.proj.bias".to_owned(), &[128]);
    put("norm.weight".to_owned(), &[128]);
    put("norm.bias".to_owned(), &[128]);
    if registers > 0 {
        put("register_tokens".to_owned(), &[1, registers, 128]);
    }
    let feed_forward: [(&str, usize, usize); 2] = match swiglu {
        true => [("mlp.w12", 2 * 344, 128), ("mlp.w3", 128, 344)],
        false => [("mlp.fc1", 512, 128), ("mlp.fc2", 128, 512)],
    };
    for block in 0..2 {
        let mut put = |name: &str, shape: &[usize]| put(format!("blocks.{block}.{name}"), shape);
        for (name, outputs, inputs) in [("attn.qkv", 384, 128), ("attn.proj", 128, 128)]
            .into_iter()
            .chain(feed_forward)
        {
            put(&format!("{name}.weight"), &[outputs, inputs]);
            put(&format!("{name}.bias"), &[outputs]);
        }
        for name in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
            put(name, &[128]);
        }
        put("ls1.gamma", &[128]);
        put("ls2.gamma", &[128]);
    }
    tensors
}

fn written(tensors: &HashMap<String, Tensor>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    candle_core::safetensors::save(tensors, file.path()).unwrap();
    file
}

fn open(path: &Path) -> std::result::Result<Dinov2, String> {
    Dinov2::open(path, 42, DType::F32, &Device::Cpu).map_err(|error| error.to_string())
}

#[test]
fn the_configuration_follows_from_the_shapes() {
    for (swiglu, registers) in [(false, 0), (false, 4), (true, 0), (true, 4)] {
        let network = open(written(&tensors(swiglu, registers)).path()).unwrap();
        let (found, expected) = (network.config(), config(swiglu, registers));
        assert_eq!(found.intermediate_size(), expected.intermediate_size());
        assert_eq!(found.use_swiglu_ffn, swiglu);
        assert_eq!(found.num_register_tokens, registers);
        assert_eq!(
            (found.hidden_size, found.num_hidden_layers, found.image_size),
            (128, 2, 70)
        );
    }
}

/// The published giant size.
#[test]
fn swiglu_is_as_wide_as_the_reference_makes_it() {
    let giant = Dinov2Config {
        hidden_size: 1536,
        use_swiglu_ffn: true,
        ..Dinov2Config::default()
    };
    assert_eq!(giant.intermediate_size(), 4096);
}

#[test]
fn missing_unknown_and_misshapen_tensors_are_named() {
    let refused = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors = tensors(false, 4);
        change(&mut tensors);
        open(written(&tensors).path()).expect_err("a refusal")
    };
    for name in [
        "blocks.1.mlp.fc1.bias",
        "blocks.0.ls1.gamma",
        "cls_token",
        "pos_embed",
        "norm.weight",
        "patch_embed.proj.weight",
    ] {
        let message = refused(&|tensors| drop(tensors.remove(name)));
        assert!(message.contains(name), "{message}");
    }
    for (name, shape) in [
        ("blocks.1.attn.proj.bias", &[127usize][..]),
        ("pos_embed", &[1, 27, 128]),
        ("pos_embed", &[26, 128]),
        ("register_tokens", &[4, 128]),
        ("blocks.0.mlp.fc1.weight", &[512]),
        ("extra", &[1]),
    ] {
        let message = refused(&|tensors| {
            tensors.insert(name.to_owned(), uniform(shape, 1));
        });
        assert!(message.contains(name), "{message}");
    }
    let message = refused(&|tensors| {
        tensors.insert("blocks.999999999.x".to_owned(), uniform(&[1], 1));
    });
    assert!(message.contains("blocks.999999999 is"), "{message}");
    let message = refused(&HashMap::clear);
    assert!(message.contains("patch_embed"), "{message}");
}

#[test]
fn a_folder_is_read_with_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors(false, 4), &path).unwrap();
    let good = r#"{"model_type": "dinov2_with_registers", "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 70, "layerscale_value": 1.0, "num_register_tokens": 4}"#;
    let write = |text: &str| std::fs::write(folder.path().join("config.json"), text).unwrap();
    write(good);
    let network = open(folder.path()).unwrap();
    assert_eq!(network.config().num_register_tokens, 4);
    for (from, to, named) in [
        ("dinov2_with_registers", "vit", "model_type"),
        ("dinov2_with_registers", "dinov2", "model_type"),
        ("_heads\": 2", "_heads\": 4", "num_attention_heads"),
        ("_layers\": 2", "_layers\": 9999999", "num_hidden_layers"),
        ("\"image_size\": 70", "\"image_size\": 84", "image_size"),
        (
            "layerscale_value\": 1.0",
            "hidden_act\": \"relu\"",
            "hidden_act",
        ),
        (
            "layerscale_value\": 1.0",
            "layer_norm_eps\": 1e-5",
            "layer_norm_eps",
        ),
        ("{", "", "config.json"),
    ] {
        write(&good.replace(from, to));
        let message = open(folder.path()).expect_err("a refusal");
        assert!(message.contains(named), "{message}");
    }
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(open(folder.path()).is_ok());
}

#[test]
fn inputs_are_multiples_of_a_patch() {
    let file = written(&tensors(false, 0));
    for size in [0, 43] {
        let error = Dinov2::open(file.path(), size, DType::F32, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("input_size"), "{error}");
    }
}
