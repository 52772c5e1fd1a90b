//! A small fixture for tests of the real binary: private images, a tiny model, a configuration.

pub mod fetch_fixture;
pub mod file_server;
/// The makers of fonts of the unit tests of the generator of text.
#[path = "../../src/generators/text/testing.rs"]
pub mod fonts;
pub mod image_server;
#[cfg(target_os = "linux")]
pub mod seccomp;
pub mod stable_diffusion;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use dpsyn::internals::images::{ImageBatch, NpzReader, SamplesReader, png};
use dpsyn::internals::models::clip::{ClipVision, ClipVisionConfig};
use dpsyn::internals::models::dinov2::{Dinov2, Dinov2Config};
use dpsyn::internals::models::improved_diffusion::{UNet, UNetConfig};
use dpsyn::internals::models::inception::{FEATURES, Inception};
use dpsyn::internals::streams::{Phase, RngKey};

/// Rows and columns of all images here.
pub const SIZE: usize = 8;
/// Private images of each class.
pub const PER_CLASS: usize = 12;
/// The classes.
pub const CLASSES: [&str; 2] = ["cat", "dog"];

/// The options of a run whose histograms are exact.
pub const NOISELESS: [&str; 3] = ["--non-private", "--set", "privacy.noise_multiplier=0"];

/// A temporary folder with everything that a run needs.
pub struct RunFixture {
    pub root: tempfile::TempDir,
}

impl RunFixture {
    pub fn new() -> Self {
        let fixture = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let data = fixture.path("data/nested");
        std::fs::create_dir_all(&data).unwrap();
        for (class, name) in CLASSES.iter().enumerate() {
            for index in 0..PER_CLASS {
                let pixels = private_image(class, index);
                let image = ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap();
                let path = data.join(format!("{name}_{index:02}.png"));
                std::fs::write(path, png(&image).unwrap()).unwrap();
            }
        }
        write_model(&fixture.path("model.safetensors"));
        std::fs::write(fixture.path("run.toml"), config()).unwrap();
        fixture
    }

    /// Removes the declaration of classes from `run.toml`, so that all images form one class.
    pub fn make_unconditional(&self) {
        let text = std::fs::read_to_string(self.path("run.toml")).unwrap();
        let text = text.replace("class_conditional = true\n", "");
        let text = text.replace("classes = [\"cat\", \"dog\"]\n", "");
        std::fs::write(self.path("run.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `dpsyn run run.toml …` in the folder of the fixture, on the CPU.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpsyn"));
        command
            .current_dir(self.root.path())
            .args(["run", "run.toml", "--device", "cpu"])
            .args(arguments)
            .env_remove("DPSYN_TEST_NOISE_SEED");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs and expects success; returns standard error.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }

    /// Runs and expects an error, whatever its code; returns standard error.
    pub fn fail_with_any(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}: {text}");
        text
    }

    /// Runs and expects this exit code; returns standard error.
    pub fn fail(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }
}

/// `[SIZE, SIZE, 3]`: a bright spot that moves with class and index, on a little texture.
pub fn private_image(class: usize, index: usize) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(SIZE * SIZE * 3);
    let (cy, cx) = (1 + index % 6, 1 + (index / 2 + 3 * class) % 6);
    for y in 0..SIZE {
        for x in 0..SIZE {
            let far = y.abs_diff(cy) + x.abs_diff(cx);
            let light = 220u8.saturating_sub(50u8.wrapping_mul(far as u8) / 2);
            pixels.extend([
                light,
                light / (1 + class as u8),
                (17 * index + 5 * y + x) as u8,
            ]);
        }
    }
    pixels
}

fn config() -> String {
    format!(
        r#"
[data]
path = "data"
image_size = {SIZE}
class_conditional = true
classes = ["cat", "dog"]
declared_size = 24

[model]
type = "improved-diffusion"
checkpoint = "model.safetensors"
image_size = {SIZE}
num_channels = 32
num_res_blocks = 1
channel_mult = [1]
attention_resolutions = []
learn_sigma = true
class_cond = true
num_classes = 5
noise_schedule = "cosine"
timestep_respacing = "4"
rescale_timesteps = false
use_ddim = true
batch_size = 5

[embedder]
type = "pixels"

[evolution]
num_samples = 16
variation_degree = [0, 0, 1, 2]
lookahead_degree = 2
threshold = 0.5
seed = 3

[privacy]
noise_multiplier = 1.5
delta = 1e-3

[output]
folder = "out"
"#
    )
}

/// The network of [`config`] with fixed pseudo-random weights, under the original's names.
pub fn write_model(path: &Path) {
    let config = UNetConfig {
        image_size: SIZE,
        in_channels: 3,
        model_channels: 32,
        learn_sigma: true,
        num_res_blocks: 1,
        channel_mult: Some(vec![1]),
        attention_resolutions: vec![],
        num_heads: 4,
        num_heads_upsample: None,
        use_scale_shift_norm: true,
        num_classes: Some(5),
    };
    let made = made_up(99, DType::F32, |vb| UNet::new(&config, &vb));
    candle_core::safetensors::save(&made, path).unwrap();
}

/// A CLIP vision tower of OpenAI's names with 2 heads of 64 channels.
pub fn write_clip(path: &Path) {
    let config = ClipVisionConfig {
        hidden_size: 128,
        intermediate_size: 32,
        projection_dim: 12,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        image_size: 12,
        patch_size: 4,
        ..ClipVisionConfig::default()
    };
    let made = made_up(99, DType::F32, |vb| ClipVision::new(&config, &vb));
    candle_core::safetensors::save(&made, path).unwrap();
}

/// A DINOv2 of transformers' names with one head of 64 channels and, if asked for, registers.
pub fn write_dinov2(path: &Path, num_register_tokens: usize) {
    let config = Dinov2Config {
        hidden_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        image_size: 70,
        num_register_tokens,
        ..Dinov2Config::default()
    };
    let made = made_up(99, DType::F32, |vb| Dinov2::new(&config, 28, &vb));
    candle_core::safetensors::save(&made, path).unwrap();
}

/// Fixed pseudo-random weights for whatever `build` asks for, by name.
pub fn made_up<M>(
    seed: u64,
    dtype: DType,
    build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<M>,
) -> HashMap<String, Tensor> {
    let made = Arc::new(Mutex::new(HashMap::new()));
    let maker = Maker {
        seed,
        made: Arc::clone(&made),
    };
    let vb = VarBuilder::from_backend(Box::new(maker), dtype, Device::Cpu);
    build(vb).unwrap();
    let made = made.lock().unwrap();
    made.clone()
}

/// FID's Inception with fixed pseudo-random weights and, if asked for, a classifier of so many
/// classes.
pub fn write_inception(path: &Path, classes: Option<usize>) {
    let made = made_up(99, DType::F32, |vb| {
        if let Some(classes) = classes {
            vb.get((classes, FEATURES), "fc.weight")?;
        }
        Inception::new(&vb)
    });
    candle_core::safetensors::save(&made, path).unwrap();
}

/// Answers every request with made-up weights and remembers them.
struct Maker {
    seed: u64,
    made: Arc<Mutex<HashMap<String, Tensor>>>,
}

impl SimpleBackend for Maker {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut made = self.made.lock().unwrap();
        let mut values = vec![0f32; shape.elem_count()];
        RngKey {
            seed: self.seed,
            phase: Phase::Random,
            iteration: 0,
            repeat: 0,
            sample: made.len() as u64,
        }
        .rng()
        .fill_normal(&mut values);
        let fan_in = shape.elem_count() / shape.dims().first().copied().unwrap_or(1).max(1);
        let scale = match shape.rank() {
            1 => 0.1,
            _ => 1.0 / (fan_in as f32).sqrt(),
        };
        let around_one = name.ends_with("weight") || name.ends_with("running_var");
        let center = if shape.rank() == 1 && around_one {
            1.0
        } else {
            0.0
        };
        for value in &mut values {
            *value = center + scale * *value;
        }
        let tensor = Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?;
        made.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("`{name}` was asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Waits until a path is there; fails when the process ends or a minute passes before.
pub fn wait_for(path: &Path, child: &mut std::process::Child) {
    let begun = std::time::Instant::now();
    while !path.exists() {
        let ended = child.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "ended before {}: {ended:?}",
            path.display()
        );
        assert!(
            begun.elapsed().as_secs() < 60,
            "no {} in a minute",
            path.display()
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Copies a folder with everything in it; its folders have the modes of new ones.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).unwrap();
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// All files below a folder but for those in `private/`, with their bytes.
pub fn released(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "private" {
                    folders.push(path);
                }
            } else {
                files.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Returns the pixels of a `samples.npz`.
pub fn sample_bytes(path: &Path) -> Vec<u8> {
    let mut reader = SamplesReader::open(path).unwrap();
    let count = reader.len();
    reader.read(0..count).unwrap().data().to_vec()
}

/// Returns the released histogram of an iteration, if there is one.
pub fn lattice(folder: &Path, iteration: u32) -> Option<Vec<i64>> {
    let path = folder.join(format!("{iteration}/votes.npz"));
    let mut votes = NpzReader::open(&path).ok()?;
    Some(votes.i64s("lattice").unwrap().1)
}
