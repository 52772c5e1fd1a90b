//! Implements a foundation model and writes its random images and their variations as a picture.
//!
//! ```sh
//! cargo run --release --example custom_generator -- plaids.png
//! ```
//!
//! A generator of Private Evolution needs two operations: a random image, and a variation of an
//! image. This one generates plaids: horizontal and vertical bars of random width, phase and color.

use std::error::Error;
use std::f64::consts::TAU;
use std::path::PathBuf;

use dpsyn::{Condition, ConditionRequest, Generated, Generator, GeneratorError, Operation};
use dpsyn::{ImageBatch, grid, write_png};
use dpsyn::{Phase, RngKey, SampleRequest, Variation};

/// Rows and columns of an image.
const SIZE: usize = 32;

struct Plaids;

impl Plaids {
    /// Returns the pixels of the plaid of one request, `[SIZE, SIZE, 3]`.
    ///
    /// All randomness comes from the key of the request. An image is therefore independent of the
    /// rest of its batch, and an interrupted run can be resumed.
    fn render(request: &SampleRequest) -> Vec<u8> {
        let mut rng = request.rng_key.rng();
        let (across, down) = (1.0 + 3.0 * rng.uniform(), 1.0 + 3.0 * rng.uniform());
        let (left, top) = (rng.uniform(), rng.uniform());
        let color = [rng.uniform(), rng.uniform(), rng.uniform()];
        let wave = |at: usize, count: f64, shift: f64| {
            0.5 + 0.5 * (TAU * (count * at as f64 / SIZE as f64 + shift)).sin()
        };
        let mut pixels = Vec::with_capacity(SIZE * SIZE * 3);
        for y in 0..SIZE {
            for x in 0..SIZE {
                let light = 0.5 * (wave(x, across, left) + wave(y, down, top));
                pixels.extend(color.map(|level| (255.0 * light * level) as u8));
            }
        }
        pixels
    }
}

impl Generator for Plaids {
    fn image_size(&self) -> (usize, usize) {
        (SIZE, SIZE)
    }

    fn batch_size(&self) -> usize {
        100
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        Ok(vec![Condition::UNCONDITIONAL; requests.len()])
    }

    fn num_conditions(&self) -> u32 {
        1
    }

    fn describe_conditions(&self, _: Option<&str>) -> Vec<String> {
        vec!["none".to_owned()]
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let pixels: Vec<u8> = requests.iter().flat_map(Self::render).collect();
        Ok(ImageBatch::new(pixels, requests.len(), SIZE, SIZE)?.into())
    }

    /// Blends each image with a new plaid; the degree is the share of the new plaid, 0 to 1.
    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        let (images, degree) = (&parents.images, variation.degree);
        if !(0.0..=1.0).contains(&degree) {
            return Err(GeneratorError::Degree {
                degree,
                expected: "0 to 1".to_owned(),
            });
        }
        if images.len() != requests.len() {
            let message = format!("{} images for {} requests", images.len(), requests.len());
            return Err(GeneratorError::Input(message));
        }
        let blend = |(old, new): (&u8, u8)| {
            (f64::from(*old) * (1.0 - degree) + f64::from(new) * degree).round() as u8
        };
        let pixels = images
            .iter()
            .zip(requests)
            .flat_map(|(image, request)| image.iter().zip(Self::render(request)).map(blend))
            .collect();
        Ok(ImageBatch::new(pixels, requests.len(), SIZE, SIZE)?.into())
    }

    fn evaluations(&self, _: Operation) -> Result<u64, GeneratorError> {
        Ok(1)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args_os().nth(1).map(PathBuf::from);
    let out = out.unwrap_or_else(|| std::env::temp_dir().join("plaids.png"));
    let requests = |phase, count| -> Vec<SampleRequest> {
        (0..count)
            .map(|sample| SampleRequest {
                condition: Condition::UNCONDITIONAL,
                rng_key: RngKey {
                    seed: 1,
                    phase,
                    iteration: 0,
                    repeat: 0,
                    sample,
                },
            })
            .collect()
    };
    let originals = Plaids.random(&requests(Phase::Random, 8))?;
    // Rows of the picture: random images, then variations of them with a growing degree.
    let mut picture = originals.clone();
    for degree in [0.1, 0.3, 0.6] {
        let variation = Variation::new(degree, 1);
        picture.extend(&Plaids.vary(&originals, &requests(Phase::Vary, 8), variation)?)?;
    }
    write_png(&out, &grid(&picture.images, 8, 2)?)?;
    println!("{}", out.display());
    Ok(())
}
