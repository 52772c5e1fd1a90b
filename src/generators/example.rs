//! A model of random colors: the worked example of `docs/adding-a-model.md`.

use std::path::PathBuf;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, GeneratorSection,
    OpenedGenerator, Operation, SampleRequest, Variation, check_pairs, open_on_all,
};
use crate::hub::{Requirement, weights_digest};
use crate::images::{ImageBatch, ImageSize};
use crate::progress::Observer;
use crate::sections::{InvalidKey, Section};

/// A model of random colors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// File of the colors, three bytes each.
    pub colors: PathBuf,
    /// Height and width of the images in pixels: a number, or `[height, width]`.
    #[serde(default = "default_image_size")]
    pub image_size: ImageSize,
    /// Images per batch. Results do not depend on it.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
}

fn default_image_size() -> ImageSize {
    ImageSize::square(32)
}

fn default_batch_size() -> usize {
    1000
}

impl Section for Config {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["colors", "batch_size"];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        if self.colors.as_os_str().is_empty() {
            return Err(InvalidKey::new("colors", "is empty: expected a file"));
        }
        for (key, positive) in [
            ("image_size", self.image_size.all(|side| side > 0)),
            ("batch_size", self.batch_size > 0),
        ] {
            if !positive {
                return Err(InvalidKey::new(key, "is 0: expected at least 1"));
            }
        }
        Ok(())
    }

    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        evaluations(operation).map(drop)
    }

    fn requirements(&self) -> Vec<Requirement> {
        vec![Requirement::path(&self.colors)]
    }

    fn open(
        &self,
        devices: &[Device],
        _: &dyn Observer,
    ) -> Result<OpenedGenerator, GeneratorError> {
        let config = self.clone();
        // One copy per device. A model on a GPU must be loaded by the thread that uses it.
        let generator = open_on_all(devices, move |_| Ok(Box::new(Colors::load(&config)?)))?;
        Ok(OpenedGenerator {
            generator,
            weights_digest: Some(weights_digest(&self.colors)?),
            warnings: Vec::new(),
        })
    }
}

/// Returns the number of network evaluations of one image, the measure of cost in a plan.
fn evaluations(operation: Operation) -> Result<u64, GeneratorError> {
    match operation {
        // The comparison is false for NaN.
        Operation::Vary(Variation { degree, .. }) if !(0.0..=1.0).contains(&degree) => {
            Err(GeneratorError::Degree {
                degree,
                expected: "a share from 0 (least change) to 1 (most change)".to_owned(),
            })
        }
        Operation::Random | Operation::Vary(_) => Ok(1),
    }
}

/// A loaded model of random colors.
pub struct Colors {
    config: Config,
    colors: Vec<[u8; 3]>,
}

impl Colors {
    /// Reads the colors.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if the file cannot be read, [`GeneratorError::Config`] if it is
    /// empty.
    pub fn load(config: &Config) -> Result<Self, GeneratorError> {
        config.validate()?;
        let bytes = std::fs::read(&config.colors).map_err(|error| {
            GeneratorError::Input(format!("{}: {error}", config.colors.display()))
        })?;
        let colors: Vec<[u8; 3]> = bytes.as_chunks().0.to_vec();
        if colors.is_empty() {
            let message = "has no color: expected three bytes each";
            return Err(InvalidKey::new("colors", message).into());
        }
        Ok(Self {
            config: config.clone(),
            colors,
        })
    }

    /// Chooses the color of one image. All randomness comes from the key of the request, so an
    /// image is independent of its batch, and an interrupted run continues with the same images.
    fn choose(&self, request: &SampleRequest) -> [u8; 3] {
        let index = request.rng_key.rng().below(self.colors.len() as u64);
        let color = self.colors.get(index as usize);
        color.copied().unwrap_or_default()
    }
}

impl Generator for Colors {
    fn image_size(&self) -> (usize, usize) {
        self.config.image_size.pair()
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
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
        vec!["none: the model is unconditional".to_owned()]
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let (height, width) = self.image_size();
        let mut data = Vec::with_capacity(requests.len() * height * width * 3);
        for request in requests {
            let color = self.choose(request);
            data.extend((0..height * width).flat_map(|_| color));
        }
        Ok(ImageBatch::new(data, requests.len(), height, width)?.into())
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        self.evaluations(Operation::Vary(variation))?;
        check_pairs(parents, requests)?;
        let images = &parents.images;
        let mut data = Vec::with_capacity(images.data().len());
        for (image, request) in images.iter().zip(requests) {
            let color = self.choose(request).into_iter().cycle();
            let blend = |(old, new): (&u8, u8)| {
                let degree = variation.degree;
                ((1.0 - degree) * f64::from(*old) + degree * f64::from(new)).round() as u8
            };
            data.extend(image.iter().zip(color).map(blend));
        }
        let made = ImageBatch::new(data, images.len(), images.height(), images.width())?;
        Ok(made.into())
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        evaluations(operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::streams::{Phase, RngKey};

    #[test]
    fn images_have_one_of_the_colors_and_variations_blend_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            colors: folder.path().join("colors.bin"),
            image_size: ImageSize::square(2),
            batch_size: 1,
        };
        std::fs::write(&config.colors, [255, 0, 0, 0, 0, 255]).unwrap();
        let opened = config.open(&[Device::Cpu, Device::Cpu], &Silent).unwrap();
        let request = |sample| SampleRequest {
            condition: Condition::UNCONDITIONAL,
            rng_key: RngKey {
                seed: 1,
                phase: Phase::Random,
                iteration: 0,
                repeat: 0,
                sample,
            },
        };
        let requests: Vec<SampleRequest> = (0..9).map(request).collect();
        let images = opened.generator.random(&requests).unwrap();
        let known = |color: &[u8]| color == [255, 0, 0] || color == [0, 0, 255];
        assert!(images.images.iter().all(|image| image.chunks(3).all(known)));
        let vary = |degree| {
            let variation = Variation::new(degree, 1);
            opened.generator.vary(&images, &requests, variation)
        };
        assert!(vary(0.0).unwrap() == images);
        assert!(vary(1.5).is_err());
    }

    #[test]
    fn the_page_shows_this_file() {
        let page = include_str!("../../docs/adding-a-model.md");
        let (shown, _) = include_str!("example.rs")
            .split_once("\n#[cfg(test)]")
            .unwrap();
        assert!(page.contains(shown));
    }
}
