use super::*;
use crate::embedders::{EmbedderSection, PixelsConfig};
use crate::images::png;
use crate::progress::Silent;
use crate::public_images::PublicImagesConfig;

/// Images `uint8 [count, 3, 2, 3]` without a pattern.
fn images(count: usize) -> ImageBatch {
    let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8 % 200 + (i % 5) as u8 * 11;
    ImageBatch::new((0..count * 18).map(value).collect(), count, 3, 2).unwrap()
}

fn pixels(grayscale: bool) -> PixelsEmbedder {
    let config = PixelsConfig {
        size: None,
        grayscale,
    };
    PixelsEmbedder::new(&config, (3, 2)).unwrap()
}

fn covariance(images: &ImageBatch, grayscale: bool) -> Covariance {
    let pixels = pixels(grayscale);
    let mut covariance = Covariance::new(pixels.dimension(), if grayscale { 3 } else { 1 });
    covariance.push(pixels.embed(images).unwrap().data());
    covariance
}

#[test]
fn the_projection_has_the_covariance_of_the_components() {
    // More images than one product takes.
    let images = images(2500);
    for grayscale in [false, true] {
        let covariance = covariance(&images, grayscale);
        let components = covariance.components(5).unwrap();
        let embedder = PcaEmbedder::new(pixels(grayscale), &components, false).unwrap();
        let vectors = embedder.embed(&images).unwrap();
        assert_eq!((vectors.len(), vectors.dimension()), (2500, 5));
        let whitened = PcaEmbedder::new(pixels(grayscale), &components, true).unwrap();
        let whitened = whitened.embed(&images).unwrap();
        let variances: Vec<f64> = components.iter().map(|(_, variance)| variance).collect();
        assert!(variances.is_sorted_by(|a, b| a >= b));
        for a in 0..5 {
            for b in 0..=a {
                let moment = |vectors: &Embeddings| {
                    let rows = vectors.data().chunks_exact(5);
                    let sum: f64 = rows.map(|row| f64::from(row[a]) * f64::from(row[b])).sum();
                    sum / 2499.0
                };
                let expected = if a == b { variances[a] } else { 0.0 };
                let found = moment(&vectors);
                assert!(
                    (found - expected).abs() < 1e-4 * variances[0],
                    "{a} {b}: {found}"
                );
                let expected = f64::from(u8::from(a == b));
                assert!((moment(&whitened) - expected).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}

#[test]
fn the_largest_entry_of_a_component_is_positive() {
    let components = covariance(&images(100), false).components(18).unwrap();
    for (direction, _) in components.iter() {
        let largest = direction
            .iter()
            .copied()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        assert!(largest.unwrap() > 0.0);
        let norm: f64 = direction.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-12);
    }
}

#[test]
fn a_vector_does_not_depend_on_the_batch() {
    let images = images(301);
    let components = covariance(&images, false).components(7).unwrap();
    let embedder = PcaEmbedder::new(pixels(false), &components, false).unwrap();
    let all = embedder.embed(&images).unwrap();
    for range in [0..1, 17..18, 5..300, 300..301] {
        let some = embedder.embed(&images.slice(range.clone())).unwrap();
        assert_eq!(some.data(), all.rows(range));
    }
}

/// Writes a folder of `count` images; returns the section.
fn section(folder: &std::path::Path, count: usize) -> PcaConfig {
    let path = folder.join("public");
    std::fs::create_dir(&path).unwrap();
    for index in 0..count {
        let image = images(count).slice(index..index + 1);
        std::fs::write(path.join(format!("{index:03}.png")), png(&image).unwrap()).unwrap();
    }
    PcaConfig {
        components: 4,
        public: Some(Box::new(PublicImagesConfig {
            path,
            cache: Some(folder.join("cache")),
            ..PublicImagesConfig::default()
        })),
        ..PcaConfig::default()
    }
}

#[test]
fn components_are_cached_and_a_damaged_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let config = section(folder.path(), 30);
    config.validate().unwrap();
    let open = |config: &PcaConfig| config.open_fitted((3, 2), &Silent).unwrap().unwrap();
    let images = images(30);
    let first = open(&config).embedder.embed(&images).unwrap();
    let in_memory = covariance(&images, false).components(4).unwrap();
    let expected = PcaEmbedder::new(pixels(false), &in_memory, false).unwrap();
    assert!(first == expected.embed(&images).unwrap());
    let file = file_of(&folder.path().join("cache"), "components-");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[1..]).unwrap();
    assert!(open(&config).embedder.embed(&images).unwrap() == first);
    assert_eq!(std::fs::read(&file).unwrap(), whole);
    assert_eq!(open(&config).images.len(), 30);
}

/// The file in a folder below `folder` whose name begins with `name`.
fn file_of(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let set = std::fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let inside = std::fs::read_dir(set)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is = |path: &std::path::PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(name)
    };
    inside.filter(is).last().unwrap().join("00000000.rows")
}

#[test]
fn errors_name_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let config = section(folder.path(), 6);
    let refused = |config: &PcaConfig, size: (usize, usize)| match config.validate() {
        Err(error) => error.key,
        Ok(()) => match config.open_fitted(size, &Silent).err().unwrap() {
            EmbedderError::Config(error) => error.key,
            other => panic!("{other}"),
        },
    };
    let with = |change: fn(&mut PcaConfig)| {
        let mut config = config.clone();
        change(&mut config);
        config
    };
    assert_eq!(refused(&with(|c| c.components = 0), (3, 2)), "components");
    assert_eq!(refused(&with(|c| c.components = 6), (3, 2)), "components");
    assert_eq!(refused(&with(|c| c.components = 19), (3, 2)), "components");
    assert_eq!(refused(&with(|c| c.size = Some(0)), (3, 2)), "size");
    assert_eq!(refused(&config, (64, 64)), "size");
    assert_eq!(refused(&with(|c| c.public = None), (3, 2)), "public");
    let empty = with(|c| c.public.as_mut().unwrap().path = "".into());
    assert_eq!(refused(&empty, (3, 2)), "public.path");
}
