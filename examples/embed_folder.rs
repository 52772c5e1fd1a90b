//! Embeds the images of a folder and writes the vectors as `float32 [images, dimension]`.
//!
//! ```sh
//! cargo run --release --example embed_folder -- FOLDER vectors.npy
//! cargo run --release --example embed_folder -- FOLDER vectors.npy INCEPTION_WEIGHTS
//! ```
//!
//! Without weights, the vectors are the pixels. `dpsyn fetch inception` downloads the weights.

use std::error::Error;
use std::path::PathBuf;

use candle_core::Device;
use dpsyn::{DataConfig, ImageSource};
use dpsyn::{
    Embedder, Embeddings, InceptionConfig, InceptionEmbedder, PixelsConfig, PixelsEmbedder,
};
use ndarray::ArrayView2;

/// Height and width in pixels to which every image is resized.
const SIZE: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (folder, out, weights) = match arguments.as_slice() {
        [folder, out] => (folder, out, None),
        [folder, out, weights] => (folder, out, Some(weights)),
        _ => return Err("expected: FOLDER OUT.npy [INCEPTION_WEIGHTS]".into()),
    };
    let embedder: Box<dyn Embedder> = match weights {
        Some(weights) => Box::new(InceptionEmbedder::open(
            &InceptionConfig::of(weights.clone()),
            &Device::Cpu,
        )?),
        None => Box::new(PixelsEmbedder::new(&PixelsConfig::default(), (SIZE, SIZE))?),
    };
    let mut source = ImageSource::open(&DataConfig::new(folder, SIZE))?;
    // One batch of images is in memory at a time; all vectors are kept.
    let mut vectors = Vec::new();
    source.for_each_batch(embedder.batch_size(), |images| {
        vectors.extend(embedder.embed(&images).map(Embeddings::into_data)?);
        Ok::<(), Box<dyn Error>>(())
    })?;
    let shape = (source.len(), embedder.dimension());
    ndarray_npy::write_npy(out, &ArrayView2::from_shape(shape, &vectors)?)?;
    println!("{}: float32 [{}, {}]", out.display(), shape.0, shape.1);
    Ok(())
}
