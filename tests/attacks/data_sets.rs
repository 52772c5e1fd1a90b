//! Data sets of many small images, for pairs that differ in one image.

use dpsyn::internals::images::{ImageBatch, png};

use crate::support::{RunFixture, SIZE, private_image};

/// Writes image `index` of the fixture's pictures as `data/<name>`.
pub fn write(fixture: &RunFixture, name: &str, index: usize) {
    // Beyond 255 images, the texture of `private_image` repeats; the first pixels count on.
    let mut pixels = private_image(index % 2, index);
    pixels[..4].copy_from_slice(&(index as u32).to_le_bytes());
    let image = ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap();
    std::fs::write(fixture.path("data").join(name), png(&image).unwrap()).unwrap();
}

/// Returns a fixture with the files of these names and classes `0` and `9` instead of its own.
pub fn fixture(names: &[String]) -> RunFixture {
    let fixture = RunFixture::new();
    std::fs::remove_dir_all(fixture.path("data")).unwrap();
    std::fs::create_dir(fixture.path("data")).unwrap();
    for (index, name) in names.iter().enumerate() {
        write(&fixture, name, index);
    }
    edit(
        &fixture,
        "classes = [\"cat\", \"dog\"]",
        "classes = [\"0\", \"9\"]",
    );
    edit(&fixture, "declared_size = 24\n", "");
    fixture
}

/// Replaces `from`, which must occur, in `run.toml`.
pub fn edit(fixture: &RunFixture, from: &str, to: &str) {
    let path = fixture.path("run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// Returns names of images of class `0`.
pub fn zeros(count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("0_{index:03}.png"))
        .collect()
}
