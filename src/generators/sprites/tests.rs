//! Tests of the generator of sprites with parts made here.

use std::path::Path;

use png::{BitDepth, ColorType};

use super::*;
use crate::progress::Silent;
use crate::streams::{Phase, RngKey};

/// Writes a PNG file of 6 rows and 4 columns, each pixel by `color(y, x)`.
fn write(path: &Path, color: impl Fn(usize, usize) -> [u8; 4]) {
    write_sized(path, (6, 4), color);
}

fn write_sized(path: &Path, (height, width): (u32, u32), color: impl Fn(usize, usize) -> [u8; 4]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels: Vec<u8> = (0..height as usize)
        .flat_map(|y| (0..width as usize).map(move |x| (y, x)))
        .flat_map(|(y, x)| color(y, x))
        .collect();
    encode(path, (height, width), ColorType::Rgba, &pixels);
}

fn encode(path: &Path, (height, width): (u32, u32), color: ColorType, pixels: &[u8]) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), width, height);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder
        .write_header()
        .unwrap()
        .write_image_data(pixels)
        .unwrap();
}

/// Skins that fill the picture, eyes in the upper half, and hats in the first row.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, level) in [("dark", 50), ("fair", 200), ("green", 120)] {
        let path = folder.path().join(format!("1_skin/{name}.png"));
        write(&path, |_, _| [level, level / 2, 0, 255]);
    }
    for (name, column) in [("left", 1), ("right", 2)] {
        let path = folder.path().join(format!("2_eyes/{name}.png"));
        write(&path, |y, x| {
            [0, 0, 255, if y == 2 && x == column { 255 } else { 0 }]
        });
    }
    for (name, red) in [("cap", 255), ("crown", 100)] {
        let path = folder.path().join(format!("3_hat/{name}.png"));
        write(&path, |y, _| [red, 0, 0, if y == 0 { 128 } else { 0 }]);
    }
    folder
}

fn config(parts: &Path, text: &str) -> Config {
    let parts = toml::Value::from(parts.to_str().unwrap());
    toml::from_str(&format!("parts = {parts}\nimage_size = [6, 4]\n{text}")).unwrap()
}

const LAYERS: &str = "[[layers]]
name = \"1_skin\"
weights = { green = 0, fair = 3 }
[[layers]]
name = \"2_eyes\"
[[layers]]
name = \"3_hat\"
probability = 0.25
";

fn request(condition: u32, phase: Phase, sample: u64) -> SampleRequest {
    SampleRequest {
        condition: Condition(condition),
        rng_key: RngKey {
            seed: 5,
            phase,
            iteration: 0,
            repeat: 0,
            sample,
        },
    }
}

fn requests(phase: Phase, count: u64) -> Vec<SampleRequest> {
    (0..count).map(|sample| request(0, phase, sample)).collect()
}

fn read(generated: &Generated) -> Vec<Chosen> {
    let indices = 0..generated.len();
    indices
        .map(|index| generated.parameters(index).read().unwrap())
        .collect()
}

fn open(config: &Config) -> Sprites {
    Sprites::open(config).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(config: &Config) -> String {
    Sprites::open(config).err().unwrap().to_string()
}

fn by(degree: f64) -> Variation {
    Variation {
        degree,
        population: 1,
    }
}

/// Number of images with this part.
fn count(chosen: &[Chosen], attribute: &str, part: Option<&str>) -> usize {
    let has = |chosen: &&Chosen| chosen[attribute].as_deref() == part;
    chosen.iter().filter(has).count()
}

#[test]
fn parts_are_laid_over_each_other_in_order() {
    let folder = folder();
    let model = open(&config(folder.path(), "background = [1, 2, 3]"));
    let text = r#"{"1_skin":"dark","2_eyes":"right","3_hat":"cap"}"#;
    let chosen = model.read(&Parameters::from_text(text).unwrap()).unwrap();
    let (pixels, parameters) = model.render(&chosen).unwrap();
    assert_eq!(parameters.text(), text);
    let pixel = |y: usize, x: usize| &pixels[3 * (4 * y + x)..3 * (4 * y + x) + 3];
    assert_eq!(pixel(5, 0), [50, 25, 0]);
    assert_eq!(pixel(2, 2), [0, 0, 255]);
    assert_eq!(pixel(2, 1), [50, 25, 0]);
    // (255·128 + 50·127) / 255 and 25·127 / 255.
    assert_eq!(pixel(0, 3), [153, 12, 0]);
    let (bare, parameters) = model.render(&[None, None, Some(1)]).unwrap();
    assert_eq!(bare[3 * 4 * 5..3 * 4 * 5 + 3], [1, 2, 3]);
    let expected = r#"{"1_skin":null,"2_eyes":null,"3_hat":"crown"}"#;
    assert_eq!(parameters.text(), expected);
    // Other sizes, and other proportions.
    for (height, width) in [(3, 2), (12, 4)] {
        let mut config = config(folder.path(), "");
        config.image_size = crate::images::ImageSize { height, width };
        let model = open(&config);
        let images = model.random(&requests(Phase::Random, 2)).unwrap().images;
        assert_eq!((images.height(), images.width()), (height, width));
    }
}

#[test]
fn attributes_are_drawn_with_their_weights_and_probabilities() {
    let folder = folder();
    let model = open(&config(folder.path(), LAYERS));
    let chosen = read(&model.random(&requests(Phase::Random, 2000)).unwrap());
    // Expected: 1500 of 2000, 1000 and 500; the limits are five standard deviations.
    let near = |found: usize, expected: i64, slack: i64| {
        assert!((found as i64 - expected).abs() < slack, "{found}");
    };
    near(count(&chosen, "1_skin", Some("fair")), 1500, 97);
    assert_eq!(count(&chosen, "1_skin", Some("green")), 0);
    near(count(&chosen, "2_eyes", Some("left")), 1000, 112);
    assert_eq!(count(&chosen, "2_eyes", None), 0);
    near(count(&chosen, "3_hat", None), 1500, 97);
    near(count(&chosen, "3_hat", Some("cap")), 250, 74);
}

#[test]
fn images_depend_on_their_keys_alone() {
    let folder = folder();
    let model = open(&config(folder.path(), LAYERS));
    let (random, vary) = (requests(Phase::Random, 30), requests(Phase::Vary, 30));
    let images = model.random(&random).unwrap();
    let varied = model.vary(&images, &vary, by(0.5)).unwrap();
    assert!(images != varied && images != model.random(&vary).unwrap());
    let mut parts = Generated::from(ImageBatch::empty(6, 4));
    let mut varied_parts = parts.clone();
    for start in (0..30).step_by(7) {
        let range = start..30.min(start + 7);
        parts
            .extend(&model.random(&random[range.clone()]).unwrap())
            .unwrap();
        let part = model.vary(&images.slice(range.clone()), &vary[range], by(0.5));
        varied_parts.extend(&part.unwrap()).unwrap();
    }
    assert!(parts == images && varied_parts == varied);
}

#[test]
fn the_degree_is_the_probability_of_drawing_again() {
    let folder = folder();
    let model = open(&config(folder.path(), ""));
    let images = model.random(&requests(Phase::Random, 2000)).unwrap();
    let vary = |degree| model.vary(&images, &requests(Phase::Vary, 2000), by(degree));
    assert!(vary(0.0).unwrap() == images);
    let parents = read(&images);
    let changed = |degree| {
        let children = read(&vary(degree).unwrap());
        let pairs = parents.iter().zip(&children);
        pairs
            .filter(|(parent, child)| parent["2_eyes"] != child["2_eyes"])
            .count() as i64
    };
    // Of two parts, half of the draws choose the other one.
    assert!((changed(0.5) - 500).abs() < 97);
    assert!((changed(1.0) - 1000).abs() < 112);
    for degree in [-0.1, 1.1, f64::NAN] {
        let error = vary(degree).err().unwrap();
        assert!(matches!(error, GeneratorError::Degree { .. }), "{error}");
    }
    let unknown = [
        r#"{"1_skin":"blue","2_eyes":"left","3_hat":null}"#,
        r#"{"1_skin":"dark"}"#,
        "",
    ];
    for text in unknown {
        let parameters = vec![Parameters::from_text(text).unwrap()];
        let parent = Generated::new(images.images.slice(0..1), parameters).unwrap();
        let error = model
            .vary(&parent, &requests(Phase::Vary, 1), by(0.0))
            .err();
        assert!(matches!(error, Some(GeneratorError::Input(_))), "{text}");
    }
}

#[test]
fn classes_restrict_parts() {
    let folder = folder();
    let text = "[class_parts.pale]\n1_skin = [\"fair\"]\n2_eyes = [\"left\", \"right\"]\n\
                [class_parts.any]\n";
    let model = open(&config(folder.path(), text));
    assert_eq!(
        model.config.classes(),
        Some(("model.class_parts", vec!["any", "pale"]))
    );
    assert_eq!(model.num_conditions(), 2);
    let key = request(0, Phase::Condition, 0).rng_key;
    let of = |class| {
        let request = ConditionRequest {
            class,
            rng_key: key,
        };
        model.initial_conditions(&[request])
    };
    assert_eq!(of(Some("pale")).unwrap(), [Condition(1)]);
    for (class, expected) in [(Some("red"), "\"red\""), (None, "class_conditional")] {
        let error = of(class).unwrap_err().to_string();
        assert!(
            error.starts_with("class_parts: ") && error.contains(expected),
            "{error}"
        );
    }
    let pale = (0..300).map(|sample| request(1, Phase::Random, sample));
    let pale = model.random(&pale.collect::<Vec<_>>()).unwrap();
    assert_eq!(count(&read(&pale), "1_skin", Some("fair")), 300);
    let again = (0..300).map(|sample| request(1, Phase::Vary, sample));
    let again = model
        .vary(&pale, &again.collect::<Vec<_>>(), by(1.0))
        .unwrap();
    assert_eq!(count(&read(&again), "1_skin", Some("fair")), 300);
    assert!(count(&read(&again), "3_hat", Some("cap")) > 100);
    let described = model.describe_conditions(Some("pale"));
    assert_eq!(described, ["1_skin: fair", "2_eyes: left, right"]);
    assert!(model.random(&[request(2, Phase::Random, 0)]).is_err());
    for (text, expected) in [
        (
            "[class_parts.a]\nskin = [\"fair\"]",
            "class_parts.a: has the attribute \"skin\"",
        ),
        (
            "[class_parts.a]\n1_skin = [\"blue\"]",
            "class_parts.a.1_skin: has \"blue\"",
        ),
    ] {
        let error = refused(&config(folder.path(), text));
        assert!(error.starts_with(expected), "{error}");
    }
    let text = format!("{LAYERS}[class_parts.a]\n1_skin = [\"green\"]");
    assert!(refused(&config(folder.path(), &text)).contains("weight 0"));
}

#[test]
fn wrong_files_are_named() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let plain = config(folder.path(), "");
    write_sized(&path("2_eyes/wide.png"), (6, 5), |_, _| [0; 4]);
    let error = refused(&plain);
    assert!(
        error.contains("wide.png has 6x5") && error.contains("dark.png has 6x4"),
        "{error}"
    );
    std::fs::remove_file(path("2_eyes/wide.png")).unwrap();
    let bytes = std::fs::read(path("2_eyes/left.png")).unwrap();
    std::fs::write(path("2_eyes/cut.png"), &bytes[..bytes.len() / 2]).unwrap();
    let error = refused(&plain);
    assert!(
        error.starts_with("parts: ") && error.contains("cut.png as PNG"),
        "{error}"
    );
    std::fs::remove_file(path("2_eyes/cut.png")).unwrap();
    std::fs::copy(path("2_eyes/left.png"), path("2_eyes/left.PNG")).unwrap();
    if !path("2_eyes/LEFT.png").exists() {
        assert!(refused(&plain).contains("the same name"));
    }
    std::fs::remove_file(path("2_eyes/left.PNG")).unwrap();
    std::fs::create_dir(path("4_none")).unwrap();
    assert!(refused(&plain).contains("4_none has no PNG files"));
    open(&config(folder.path(), LAYERS));
    let text = LAYERS.replace("green = 0", "blue = 2");
    let error = refused(&config(folder.path(), &text));
    assert!(
        error.contains("\"blue\"") && error.contains("green"),
        "{error}"
    );
    let text = LAYERS.replace("2_eyes", "nose");
    assert!(refused(&config(folder.path(), &text)).contains("nose"));
    let text = LAYERS.replace("green = 0, fair = 3", "green = 0, fair = 0, dark = 0");
    assert!(refused(&config(folder.path(), &text)).contains("weight 0"));
    let empty = tempfile::tempdir().unwrap();
    assert!(refused(&config(empty.path(), "")).contains("has no folders"));
    assert!(refused(&config(&path("missing"), "")).contains("missing"));
}

#[test]
fn gray_files_without_alpha_are_opaque() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a/one.png"), |_, _| [9, 9, 9, 255]);
    std::fs::create_dir(folder.path().join("b")).unwrap();
    let gray: Vec<u8> = (0..24).collect();
    encode(
        &folder.path().join("b/one.png"),
        (6, 4),
        ColorType::Grayscale,
        &gray,
    );
    let image = open(&config(folder.path(), "")).random(&requests(Phase::Random, 1));
    let expected: Vec<u8> = gray.iter().flat_map(|level| [*level; 3]).collect();
    assert_eq!(image.unwrap().images.data(), expected);
}

#[test]
fn the_digest_changes_with_the_parts_but_not_with_their_place() {
    let (folder, copy) = (folder(), folder());
    let digest = |folder: &Path| open(&config(folder, "")).parts.digest;
    let before = digest(folder.path());
    assert_eq!((before.len(), digest(copy.path())), (64, before.clone()));
    let eyes = copy.path().join("2_eyes");
    std::fs::rename(eyes.join("left.png"), eyes.join("closed.png")).unwrap();
    assert!(digest(copy.path()) != before);
    std::fs::rename(eyes.join("closed.png"), eyes.join("left.png")).unwrap();
    write(&eyes.join("left.png"), |_, _| [0; 4]);
    assert!(digest(copy.path()) != before);
}

#[test]
fn every_range_error_names_its_key() {
    let valid = config(Path::new("parts"), LAYERS);
    valid.validate().unwrap();
    assert_eq!(
        toml::from_str::<Config>(&toml::to_string(&valid).unwrap()).unwrap(),
        valid
    );
    for (text, key) in [
        ("batch_size = 0", "batch_size"),
        ("layers = []", "layers"),
        ("layers = [{ name = \"\" }]", "layers"),
        ("layers = [{ name = \"../a\" }]", "layers"),
        ("layers = [{ name = \"a\" }, { name = \"a\" }]", "layers"),
        ("layers = [{ name = \"a\", probability = 1.5 }]", "layers"),
        (
            "layers = [{ name = \"a\", weights = { b = -1 } }]",
            "layers",
        ),
        ("class_parts = {}", "class_parts"),
        ("class_parts = { a = { b = [] } }", "class_parts.a.b"),
    ] {
        let error = config(Path::new("parts"), text).validate();
        assert_eq!(error.unwrap_err().key, key, "{text}");
    }
    assert_eq!(
        config(Path::new(""), "").validate().unwrap_err().key,
        "parts"
    );
    for size in ["0", "[8, 5000]"] {
        let text = format!("parts = \"x\"\nimage_size = {size}");
        let error = toml::from_str::<Config>(&text).unwrap().validate();
        assert_eq!(error.unwrap_err().key, "image_size");
    }
    let folder = folder();
    let opened = config(folder.path(), LAYERS).open(&[], &Silent).unwrap();
    assert!(opened.weights_digest.is_some());
}
