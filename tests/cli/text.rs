//! Runs of texts drawn with fonts.

use std::path::Path;

use dpsyn::internals::images::SamplesReader;

use crate::support::fonts::{Letter, font, rectangle, write};
use crate::support::{NOISELESS, RunFixture};

/// A horizontal bar as `-` and a vertical one as `I`, of this thickness.
fn letters(thickness: i16) -> Vec<Letter> {
    vec![
        ('-', vec![rectangle(0, 300, 800, 300 + thickness)]),
        ('I', vec![rectangle(300, 0, 300 + thickness, 800)]),
    ]
}

const CONFIG: &str = r#"
[data]
path = "data"
image_size = 8
class_conditional = true
declared_size = 24

[model]
type = "text"
fonts = ["fonts"]
image_size = 8
size = [0.5, 0.9]
rotation = [-20, 20]
warp = 0.03
foreground = [150, 255]
texts = { cat = "-", dog = ["I", "-I"] }

[embedder]
type = "pixels"

[evolution]
num_samples = 16
variation_degree = [0, 0.5, 0.25]

[privacy]
epsilon = 4
delta = 1e-3

[output]
folder = "out"
"#;

/// A run with three fonts, one of which has no `-`.
fn fixture() -> RunFixture {
    let fixture = RunFixture::new();
    let fonts = fixture.path("fonts");
    std::fs::create_dir(&fonts).unwrap();
    write(&fonts, "thin.ttf", &font(900, &letters(100)));
    write(&fonts, "thick.otf", &font(900, &letters(300)));
    write(&fonts, "few.ttf", &font(900, &letters(200)[1..]));
    std::fs::write(fixture.path("run.toml"), CONFIG).unwrap();
    fixture
}

fn parameters(samples: &Path) -> Vec<serde_json::Value> {
    let mut reader = SamplesReader::open(samples).unwrap();
    let texts = reader.arrays().texts("parameters").unwrap();
    assert_eq!(texts.len(), 16);
    let read = |text: &String| serde_json::from_str(text).unwrap();
    texts.iter().map(read).collect()
}

#[test]
fn a_run_of_texts_stores_their_parameters_and_resumes_with_the_same_fonts_only() {
    let fixture = fixture();
    let text = fixture.succeed(&[]);
    assert!(text.contains("fonts that lack characters"), "{text}");
    let out = fixture.path("out");
    for iteration in ["0", "1", "2"] {
        let drawn = parameters(&out.join(iteration).join("samples.npz"));
        for (index, parameters) in drawn.iter().enumerate() {
            let text = parameters["text"].as_str().unwrap();
            assert_eq!(text == "-", index < 8, "{parameters}");
            let has_font = text == "I" || parameters["font"] != "few.ttf";
            assert!(has_font, "{parameters}");
            let size = parameters["size"].as_f64().unwrap();
            assert!((0.5..=0.9).contains(&size));
        }
    }
    let statement = std::fs::read_to_string(out.join("privacy.json")).unwrap();
    assert!(statement.contains("text \\\"-I\\\""), "{statement}");
    fixture.succeed(&["--resume"]);
    // The place of the fonts is free, their content is not.
    std::fs::rename(fixture.path("fonts"), fixture.path("moved")).unwrap();
    let moved = ["--resume", "--set", "model.fonts=[\"moved\"]"];
    fixture.succeed(&moved);
    write(
        &fixture.path("moved"),
        "thin.ttf",
        &font(900, &letters(120)),
    );
    let error = fixture.fail_with_any(&moved);
    assert!(error.contains("model"), "{error}");
}

#[test]
fn images_do_not_depend_on_the_batch_size() {
    let fixture = fixture();
    let run = |folder: &str, size: &str| {
        let set = format!("model.batch_size={size}");
        fixture.succeed(&[&["--out", folder, "--set", &set][..], &NOISELESS].concat());
        std::fs::read(fixture.path(folder).join("2/samples.npz")).unwrap()
    };
    assert!(run("one", "1") == run("many", "100"));
}

#[test]
fn texts_that_no_font_can_draw_are_refused_before_anything_is_spent() {
    let fixture = fixture();
    let error = fixture.fail(2, &["--set", "model.texts.cat=\"x\""]);
    assert!(
        error.contains("model.fonts") && error.contains("\"x\""),
        "{error}"
    );
    let error = fixture.fail(2, &["--set", "model.fonts=[\"nowhere\"]"]);
    assert!(error.contains("nowhere"), "{error}");
    let error = fixture.fail(2, &["--set", "evolution.variation_degree=[0, 2, 1]"]);
    assert!(error.contains("from 0 (no change) to 1"), "{error}");
    assert!(!fixture.path("out/ledger.jsonl").exists());
}
