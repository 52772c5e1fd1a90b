//! The device on which private images are embedded (`embedder.private_device`).

use serde::{Deserialize, Serialize};

use super::position_check::is_independent_of_position;
use super::{Embedder, EmbedderConfig, EmbedderError};
use crate::sections::InvalidKey;

/// The key, common to all types of embedders.
const KEY: &str = "private_device";

/// The `[embedder]` section of the vote: the embedder, and the device for private images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VoteEmbedderConfig {
    /// The embedder.
    #[serde(flatten)]
    pub embedder: EmbedderConfig,
    /// The device on which it embeds private images. No result depends on it but by rounding, as on
    /// the option `--device`.
    pub private_device: PrivateDevice,
}

impl VoteEmbedderConfig {
    /// The key of [`VoteEmbedderConfig::private_device`].
    pub const PRIVATE_DEVICE: &'static str = KEY;
}

/// The value of `embedder.private_device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrivateDevice {
    /// The device of the run if vectors do not depend there on the place in a batch, otherwise the
    /// CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The device of the run; refused if vectors depend there on the place in a batch.
    Same,
}

/// The embedder of the private images of a run.
pub enum PrivateEmbedder {
    /// The embedder of the run.
    Shared,
    /// A copy on the CPU, and whether it was opened because the device of the run rounds the
    /// vectors of an image differently at different places of a batch.
    OnCpu(Box<dyn Embedder>, bool),
}

impl PrivateDevice {
    /// Chooses the embedder of private images of `image_size` (height, width). `embedder` is that
    /// of the run; `open_on_cpu` opens a copy of it on the CPU.
    ///
    /// On the CPU, where images are computed alike at every place, nothing is tried.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] naming the key if the run's device is demanded and not
    /// independent, or if there can be no copy on the CPU; other errors of the embedder.
    pub fn choose(
        self,
        embedder: &dyn Embedder,
        image_size: (usize, usize),
        open_on_cpu: impl FnOnce() -> Result<Box<dyn Embedder>, EmbedderError>,
    ) -> Result<PrivateEmbedder, EmbedderError> {
        if !embedder.overlaps_host_work() {
            return Ok(PrivateEmbedder::Shared);
        }
        let dependent = match self {
            Self::Cpu => false,
            Self::Auto | Self::Same => {
                if is_independent_of_position(embedder, image_size)? {
                    return Ok(PrivateEmbedder::Shared);
                }
                true
            }
        };
        if self == Self::Same {
            let message = "is \"same\", but on this device the vector of an image depends on its \
                           place in the batch, so that one private image could change the votes \
                           of others: expected \"auto\" or \"cpu\"";
            return Err(InvalidKey::new(KEY, message).into());
        }
        let copy = open_on_cpu().map_err(|error| match error {
            EmbedderError::Config(error) => InvalidKey::new(
                KEY,
                format!("the private images need a copy of the embedder on the CPU, but {error}"),
            )
            .into(),
            other => other,
        })?;
        Ok(PrivateEmbedder::OnCpu(copy, dependent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedders::Embeddings;
    use crate::images::ImageBatch;

    /// An embedder on a GPU or not, which may depend on the place.
    struct Placed {
        gpu: bool,
        dependent: bool,
    }

    impl Embedder for Placed {
        fn dimension(&self) -> usize {
            1
        }

        fn batch_size(&self) -> usize {
            4
        }

        fn overlaps_host_work(&self) -> bool {
            self.gpu
        }

        fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
            let vector = |(place, image): (usize, &[u8])| {
                let place = if self.dependent { place as f32 } else { 0.0 };
                f32::from(image.first().copied().unwrap_or(0)) + place
            };
            let data = images.iter().enumerate().map(vector).collect();
            Ok(Embeddings::new(data, 1).unwrap())
        }
    }

    /// The choice, as `None` for the embedder of the run, or whether the copy replaces a dependent
    /// one.
    fn choice(
        device: PrivateDevice,
        gpu: bool,
        dependent: bool,
    ) -> Result<Option<bool>, EmbedderError> {
        let copy = || -> Result<Box<dyn Embedder>, EmbedderError> {
            Ok(Box::new(Placed {
                gpu: false,
                dependent: false,
            }))
        };
        match device.choose(&Placed { gpu, dependent }, (2, 2), copy)? {
            PrivateEmbedder::Shared => Ok(None),
            PrivateEmbedder::OnCpu(copy, replaces) => {
                assert!(!copy.overlaps_host_work());
                Ok(Some(replaces))
            }
        }
    }

    #[test]
    fn on_the_cpu_there_is_no_choice() {
        for device in [PrivateDevice::Auto, PrivateDevice::Cpu, PrivateDevice::Same] {
            assert_eq!(choice(device, false, false).unwrap(), None);
        }
    }

    #[test]
    fn on_a_gpu_the_test_decides() {
        let [auto, cpu, same] = [PrivateDevice::Auto, PrivateDevice::Cpu, PrivateDevice::Same];
        assert_eq!(choice(auto, true, false).unwrap(), None);
        assert_eq!(choice(auto, true, true).unwrap(), Some(true));
        assert_eq!(choice(cpu, true, false).unwrap(), Some(false));
        assert_eq!(choice(same, true, false).unwrap(), None);
        let error = choice(same, true, true).unwrap_err();
        assert!(
            matches!(&error, EmbedderError::Config(key) if key.key == KEY),
            "{error}"
        );
    }

    #[test]
    fn a_copy_that_the_cpu_cannot_have_names_the_key() {
        let embedder = Placed {
            gpu: true,
            dependent: true,
        };
        let none = || Err(InvalidKey::new("dtype", "f16 is not available on the CPU").into());
        let error = PrivateDevice::Auto.choose(&embedder, (2, 2), none);
        let error = error.err().unwrap().to_string();
        assert!(
            error.starts_with("private_device: ") && error.contains("dtype: f16"),
            "{error}"
        );
    }
}
