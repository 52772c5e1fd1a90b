//! Every shipped configuration, up to the first private vote: `dpsyn run CONFIG --dry-run` with
//! made-up images and models in the places that the configuration names.
//!
//! A dry run opens everything that a run opens, so a configuration fails here if it has an unknown
//! key, a schedule of the wrong length, a degree that the model refuses, classes that do not fit,
//! or the wrong layout of images. What is not checked is whether the published weights fit, because
//! they are not in the repository.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use candle_core::DType;
use dpsyn::internals::config::Settings;
use dpsyn::internals::images::{ImageBatch, png};
use dpsyn::internals::models::improved_diffusion::{UNet, UNetConfig};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::fonts::{font, rectangle};
use crate::support::stable_diffusion::{tiny, write_model};
use crate::support::{copy_folder, made_up, write_inception};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const CIFAR10: [&str; 10] = [
    "plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
];
const IMAGENET64: &str = "weights/imagenet64_cond_270M_250K.pt";
const INCEPTION: &str = "weights/pt_inception-2015-12-05-6726825d.pth";
const STABLE_DIFFUSION: &str = "CompVis/stable-diffusion-v1-4";

/// The options that make the network of [`write_imagenet64`] of that of the published weights,
/// which are too large for a test.
const SMALL_IMAGENET64: [&str; 2] = ["model.num_channels=32", "model.num_res_blocks=1"];

/// The folder in which the configurations run, with stand-ins in the places that they name.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Writes a PNG of `height` × `width` pixels at each of `names`, each of other colors.
    fn images<S: AsRef<str>>(&self, (height, width): (usize, usize), names: &[S]) {
        for (index, name) in names.iter().enumerate() {
            let pixels = pattern(index, height * width * 3);
            let image = ImageBatch::new(pixels, 1, height, width).unwrap();
            std::fs::write(self.path(name.as_ref()), png(&image).unwrap()).unwrap();
        }
    }

    /// Writes `count` images of 28 × 28 pixels and labels 0 to 9, beginning with the pattern of
    /// number `first`, as MNIST and Fashion-MNIST are published.
    fn idx(&self, folder: &str, first: usize, count: usize) {
        let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
        let mut images = [[0, 0, 8, 3], number(count), number(28), number(28)].concat();
        images.extend((0..count).flat_map(|index| pattern(first + index, 28 * 28)));
        let mut labels = [[0, 0, 8, 1], number(count)].concat();
        labels.extend((0..count).map(|index| (index % 10) as u8));
        for (name, bytes) in [("images-idx3", images), ("labels-idx1", labels)] {
            let path = self.path(&format!("{folder}/train-{name}-ubyte.gz"));
            let mut file = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
            file.write_all(&bytes).unwrap();
            file.finish().unwrap();
        }
    }

    /// Copies a file of the repository to the same place.
    fn copy(&self, name: &str) {
        std::fs::copy(Path::new(REPOSITORY).join(name), self.path(name)).unwrap();
    }

    /// Writes what `write` writes to `name`, unless another configuration has needed it.
    fn once(&self, name: &str, write: impl FnOnce(&Path)) {
        let path = self.path(name);
        if !path.exists() {
            write(&path);
        }
    }

    /// Writes a font whose digits are steps of different heights into a folder.
    fn font(&self, folder: &str) {
        let letter = |(index, character): (usize, char)| {
            let top = 300 + 40 * index as i16;
            let contours = vec![
                rectangle(100, 0, 350, top),
                rectangle(350, 0, 600, 900 - top),
            ];
            (character, contours)
        };
        let letters: Vec<_> = "0123456789I".chars().enumerate().map(letter).collect();
        let path = self.path(&format!("{folder}/steps.ttf"));
        std::fs::write(path, font(700, &letters)).unwrap();
    }

    /// Writes two images of CelebA and the list of them that the configurations describe.
    fn celeba(&self) {
        let names = ["img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg"];
        self.images((218, 178), &names.map(|name| format!("data/celeba/{name}")));
        let list = format!(
            "file,label,client\n{},Male_0,7\n{},Male_1,8\n",
            names[0], names[1]
        );
        std::fs::write(self.path("data/celeba/train.csv"), list).unwrap();
    }

    fn inception(&self) {
        self.once(INCEPTION, |path| write_inception(path, None));
    }

    /// Makes everything that the configuration `name` reads and returns the keys to override;
    /// `None` for a configuration that is not known here.
    fn prepare(&self, name: &str) -> Option<Vec<&'static str>> {
        Some(match name {
            "quickstart.toml" => {
                self.copy("data/digits.npz");
                self.copy("weights/glyphs32.pt");
                vec![]
            }
            "cifar10.toml" | "cifar10_unconditional.toml" => {
                let names = CIFAR10.map(|class| format!("data/cifar10_train/{class}_00000.png"));
                self.images((32, 32), &names);
                self.once(IMAGENET64, write_imagenet64);
                self.inception();
                SMALL_IMAGENET64.to_vec()
            }
            "camelyon17.toml" | "camelyon17_29.toml" => {
                let names = ["0_0", "1_1"].map(|name| format!("data/camelyon17_train/{name}.png"));
                self.images((96, 96), &names);
                self.once(IMAGENET64, write_imagenet64);
                self.inception();
                SMALL_IMAGENET64.to_vec()
            }
            "cookie.toml" | "doudou.toml" | "cookie_openai.toml" | "cats.toml" => {
                let names = ["cookie", "doudou", "cats/cookie", "cats/doudou"];
                self.images(
                    (512, 512),
                    &names.map(|name| format!("data/{name}/IMG_1.png")),
                );
                self.once(&format!("{STABLE_DIFFUSION}/unet/config.json"), |_| {
                    write_model(&self.path(STABLE_DIFFUSION), &tiny(), DType::F32);
                });
                self.inception();
                vec![]
            }
            "program.toml" | "mixture.toml" => {
                self.copy("data/digits.npz");
                self.copy("weights/glyphs32.pt");
                self.copy("examples/generator.py");
                vec![]
            }
            "mnist_text.toml" => {
                self.idx("data/mnist", 0, 10);
                self.font("fonts");
                vec!["model.fonts=[\"fonts\"]"]
            }
            "mnist_text_library.toml" => {
                self.idx("data/mnist", 0, 10);
                self.font("data/fonts-main/ofl");
                self.inception();
                vec![]
            }
            "fashion_mnist_pool.toml" => {
                // As many images as samples, because each is drawn once.
                self.idx("data/fashion-mnist/public", 0, 10_000);
                self.idx("data/fashion-mnist/private", 10_000, 10);
                vec![]
            }
            "cifar10_pool.toml" => {
                let names = CIFAR10.map(|class| format!("data/cifar10_private/{class}_0.png"));
                self.images((32, 32), &names);
                // As many images as samples, of another size so that none is private.
                let names: Vec<String> = (0..2000)
                    .map(|index| format!("data/cifar10_public/{index}.png"))
                    .collect();
                self.images((33, 33), &names);
                // The components of 32 × 32 pixels would take several seconds.
                vec!["model.embedder.size=8", "embedder.size=8"]
            }
            "celeba_sprites.toml" | "sprites.toml" => {
                self.celeba();
                let names = ["smiling", "serious"].map(|class| format!("data/faces/{class}/0.png"));
                self.images((218, 178), &names);
                let parts = self.path("examples/sprites");
                copy_folder(&Path::new(REPOSITORY).join("examples/sprites"), &parts);
                self.inception();
                vec![]
            }
            "nearest_images.toml" => {
                self.celeba();
                let names = [0, 1, 2].map(|subject| format!("data/digiface1m/{subject}/0.png"));
                self.images((112, 112), &names);
                self.inception();
                // Inception would take a minute for a pool of 1,000 images.
                vec!["evolution.variation_degree=[3, 3, 3, 2, 2, 1, 1]"]
            }
            _ => return None,
        })
    }

    /// `dpsyn run … --dry-run` on the CPU, without network.
    fn dry_run(&self, config: &Path, overrides: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpsyn"));
        command
            .current_dir(self.0.path())
            .arg("run")
            .arg(config)
            .args(["--dry-run", "--offline", "--device", "cpu"])
            .env("HF_HUB_CACHE", self.path("hub"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("OPENAI_API_KEY");
        for setting in overrides {
            command.args(["--set", setting]);
        }
        command.output().unwrap()
    }
}

/// Returns `count` values that differ between indices.
fn pattern(index: usize, count: usize) -> Vec<u8> {
    let value = |at: usize| (index * 37 + at * (1 + index % 7)) as u8 ^ (index >> 8) as u8;
    (0..count).map(value).collect()
}

/// The network of imagenet64_cond_270M_250K.pt with [`SMALL_IMAGENET64`].
fn write_imagenet64(path: &Path) {
    let config = UNetConfig {
        image_size: 64,
        in_channels: 3,
        model_channels: 32,
        learn_sigma: true,
        num_res_blocks: 1,
        channel_mult: None,
        attention_resolutions: vec![16, 8],
        num_heads: 4,
        num_heads_upsample: None,
        use_scale_shift_norm: true,
        num_classes: Some(1000),
    };
    let made = made_up(99, DType::F32, |vb| UNet::new(&config, &vb));
    candle_core::safetensors::save(&made, path).unwrap();
}

/// Returns the names of the shipped configurations, sorted.
fn shipped() -> Vec<String> {
    let entries = std::fs::read_dir(Path::new(REPOSITORY).join("configs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    names.sort();
    names
}

#[test]
fn every_shipped_configuration_has_a_plan() {
    let world = World::new();
    let mut failures = Vec::new();
    for name in shipped() {
        let has_python = || Command::new("python3").arg("--version").output().is_ok();
        if ["program.toml", "mixture.toml"].contains(&name.as_str()) && !has_python() {
            eprintln!("NOT CHECKED on this machine: configs/{name} needs python3");
            continue;
        }
        let Some(overrides) = world.prepare(&name) else {
            failures.push(format!(
                "configs/{name} has no stand-ins: add what it reads (images in its layout, tiny \
                 weights, fonts, …) to `World::prepare` in tests/cli/dry_runs.rs"
            ));
            continue;
        };
        let config = Path::new(REPOSITORY).join("configs").join(&name);
        let output = world.dry_run(&config, &overrides);
        let plan = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            let error = String::from_utf8(output.stderr).unwrap();
            failures.push(format!("configs/{name}: {error}"));
            continue;
        }
        // A line for each population, with its number first.
        let loaded = Settings::load(&config, &[]).unwrap();
        let numbers = plan
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let numbers = numbers.filter_map(|word| word.parse::<usize>().ok());
        let expected: Vec<usize> = (0..loaded.populations.len()).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected, "{name}: {plan}");
        assert!(!world.0.path().join("results").exists(), "{name}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Without this, a dry run that checks nothing would pass the test above.
#[test]
fn mistakes_in_a_configuration_are_found() {
    let world = World::new();
    let overrides = world.prepare("camelyon17.toml").unwrap();
    let shipped = Path::new(REPOSITORY).join("configs/camelyon17.toml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    for (right, wrong, message) in [
        ("lookahead_degree", "lookahead_degrees", "unknown key"),
        ("3, 3, 3, 3, 3]", "3, 3, 3, 3, 10]", "variation_degree"),
        ("classes = [\"0\", \"1\"]", "classes = [\"0\"]", "1_1.png"),
        ("cond = true", "cond = false", "label_emb.weight"),
        (
            "data/camelyon17_train\"",
            "data/camelyon\"",
            "data/camelyon",
        ),
    ] {
        assert!(shipped.contains(right), "{right}");
        let config = world.path("wrong.toml");
        std::fs::write(&config, shipped.replace(right, wrong)).unwrap();
        let output = world.dry_run(&config, &overrides);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{wrong}: {text}");
        assert!(text.contains(message), "{wrong}: {text}");
    }
}
