//! Preparation of images: from files to the input of a network.

use std::hint::black_box;

use dpsyn::internals::images::{
    DecodeOptions, Filter, ImageBatch, Resampler, center_crop, decode, png, resize_to_cover,
};
use rayon::prelude::*;

use super::Work;
use super::weights::numbers;

fn images(n: usize, side: usize) -> ImageBatch {
    let bytes = numbers(n * side * side * 3);
    let bytes = bytes.iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
    ImageBatch::new(bytes, n, side, side).unwrap()
}

/// Resampling in floating point to planes: the input of Inception.
pub fn inception_input(n: usize, from: usize, to: usize) -> Work {
    let images = images(n, from);
    Box::new(move || {
        let resampler = Resampler::new(Filter::Bicubic, (from, from), (to, to)).unwrap();
        let planes = resampler.batch_planes(&images, |v| (v - 128.0) / 128.0);
        black_box(planes.unwrap());
    })
}

/// Decoding, resizing and cropping of PNG files, as for private images.
pub fn decode_and_crop(n: usize, from: usize, to: usize) -> Work {
    let images = images(n, from);
    let files: Vec<Vec<u8>> = images
        .iter()
        .map(|image| {
            let one = ImageBatch::new(image.to_vec(), 1, from, from).unwrap();
            png(&one).unwrap()
        })
        .collect();
    Box::new(move || {
        files.par_iter().for_each(|file| {
            let image = decode(file, &DecodeOptions::default()).unwrap().image;
            let image = resize_to_cover(image, to.into(), Filter::Bilinear).unwrap();
            black_box(center_crop(&image, to.into()).unwrap());
        });
    })
}
