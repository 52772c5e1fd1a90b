//! Runs of pictures composed of parts.

use std::path::Path;

use dpsyn::internals::images::SamplesReader;

use crate::support::RunFixture;

const CONFIG: &str = r#"
[data]
path = "data"
image_size = [8, 6]
class_conditional = true
declared_size = 24

[model]
type = "sprites"
parts = "parts"
image_size = [8, 6]

[[model.layers]]
name = "wall"
[[model.layers]]
name = "spot"
probability = 0.5

[model.class_parts.cat]
wall = ["dark"]
[model.class_parts.dog]
spot = ["left"]

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

/// Writes a picture of 16 x 12 pixels in which a column has the level and others are transparent,
/// or all have it.
fn write(path: &Path, level: u8, column: Option<usize>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, 12, 16);
    encoder.set_color(png::ColorType::GrayscaleAlpha);
    let pixels: Vec<u8> = (0..16 * 12)
        .flat_map(|index| {
            let opaque = column.is_none_or(|column| index % 12 / 4 == column);
            [level, if opaque { 255 } else { 0 }]
        })
        .collect();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&pixels).unwrap();
}

fn fixture() -> RunFixture {
    let fixture = RunFixture::new();
    let parts = fixture.path("parts");
    write(&parts.join("wall/dark.png"), 30, None);
    write(&parts.join("wall/light.png"), 190, None);
    write(&parts.join("spot/left.png"), 255, Some(0));
    write(&parts.join("spot/right.png"), 255, Some(2));
    std::fs::write(fixture.path("run.toml"), CONFIG).unwrap();
    fixture
}

#[test]
fn a_run_of_sprites_keeps_the_parts_of_each_class() {
    let fixture = fixture();
    fixture.succeed(&[]);
    for iteration in ["0", "1", "2"] {
        let path = fixture.path("out").join(iteration).join("samples.npz");
        let mut reader = SamplesReader::open(&path).unwrap();
        assert_eq!((reader.len(), reader.height(), reader.width()), (16, 8, 6));
        let pixels = reader.read(0..16).unwrap();
        for (index, image) in pixels.iter().enumerate() {
            // The middle columns show the wall, the outer ones a spot or the wall.
            let at = |y: usize, x: usize| image[3 * (6 * y + x)];
            let wall = at(4, 2).min(at(4, 3));
            assert!(wall < 60 || (index >= 8 && wall > 150), "{index} {wall}");
            assert!(index < 8 || at(4, 5) < 210, "{index}");
        }
    }
    // A part that changes is noticed by a resumed run; one of another size by any.
    let left = fixture.path("parts/spot/left.png");
    write(&left, 250, Some(0));
    fixture.fail(5, &["--resume"]);
    std::fs::copy(fixture.path("data/nested/cat_00.png"), &left).unwrap();
    let error = fixture.fail(2, &["--out", "other"]);
    assert!(error.contains("left.png has 8x8"), "{error}");
    assert!(error.contains("dark.png has 16x12"), "{error}");
}
