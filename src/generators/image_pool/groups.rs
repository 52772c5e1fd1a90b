//! The images of the pool that represent each private class.

use sha2::{Digest, Sha256};

use super::Config;
use crate::generators::{Condition, GeneratorError};
use crate::hex;
use crate::images::{DataConfig, ImageSource, UndeclaredClass};
use crate::public_images::PublicImagesError;
use crate::sections::InvalidKey;

/// The images of each condition: those of the labels of a class, or all images.
pub(super) struct Groups {
    groups: Vec<Group>,
    /// Images in the pool.
    count: usize,
    /// True if the groups are those of a table by class.
    by_class: bool,
}

struct Group {
    /// Name of the private class; empty where there is no table by class.
    class: String,
    /// Names of the labels of the pool.
    labels: Vec<String>,
    /// Numbers of the images, in order.
    images: Vec<u32>,
    /// True for each image that belongs to the group, by its number; empty for a group of all
    /// images.
    members: Vec<bool>,
}

impl Groups {
    /// Reads the labels of a pool of `count` images, if the configuration assigns labels to
    /// classes; otherwise all images are one group, and no label is read.
    pub(super) fn read(config: &Config, count: usize) -> Result<Self, GeneratorError> {
        let Some(table) = &config.class_labels else {
            return Ok(Self {
                groups: vec![Group {
                    class: String::new(),
                    labels: Vec::new(),
                    images: (0..count as u32).collect(),
                    members: Vec::new(),
                }],
                count,
                by_class: false,
            });
        };
        let mut names: Vec<String> = table.values().flatten().cloned().collect();
        names.sort_unstable();
        names.dedup();
        let source = ImageSource::open(&DataConfig {
            class_conditional: true,
            classes: Some(names.clone()),
            undeclared_class: UndeclaredClass::LeaveOut,
            ..config.images().data(config.image_size)
        });
        let source = source.map_err(PublicImagesError::from)?;
        let labels = source.labels();
        if labels.len() != count {
            let path = config.path.clone();
            return Err(PublicImagesError::ImagesChanged { path }.into());
        }
        let group = |(class, wanted): (&String, &Vec<String>)| -> Result<Group, GeneratorError> {
            let is_wanted: Vec<bool> = names.iter().map(|name| wanted.contains(name)).collect();
            let members: Vec<bool> = labels
                .iter()
                .map(|label| label.is_some_and(|l| is_wanted.get(l as usize) == Some(&true)))
                .collect();
            for label in wanted {
                let number = names.iter().position(|name| name == label);
                if !labels.iter().any(|l| l.map(|l| l as usize) == number) {
                    let message = format!("has `{label}`, which is the label of no image");
                    return Err(InvalidKey::new(format!("class_labels.{class}"), message).into());
                }
            }
            let images = (0..).zip(&members).filter(|(_, is_member)| **is_member);
            Ok(Group {
                class: class.clone(),
                labels: wanted.clone(),
                images: images.map(|(index, _)| index).collect(),
                members,
            })
        };
        Ok(Self {
            groups: table.iter().map(group).collect::<Result<_, _>>()?,
            count,
            by_class: true,
        })
    }

    /// Returns the number of groups, at least 1.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Returns the numbers of the images of a group, in order.
    pub(super) fn images(&self, group: usize) -> &[u32] {
        self.groups.get(group).map_or(&[], |group| &group.images)
    }

    /// Returns true if a group contains an image of the pool.
    pub(super) fn contains(&self, group: usize, image: usize) -> bool {
        self.groups
            .get(group)
            .is_some_and(|group| match group.members.as_slice() {
                [] => image < self.count,
                members => members.get(image) == Some(&true),
            })
    }

    /// Returns the condition of a private class.
    pub(super) fn condition(&self, class: Option<&str>) -> Result<Condition, GeneratorError> {
        if !self.by_class {
            return Ok(Condition::UNCONDITIONAL);
        }
        let invalid = |message: String| InvalidKey::new("class_labels", message).into();
        let class = class
            .ok_or_else(|| invalid("is set, but data.class_conditional is false".to_owned()))?;
        let group = self.groups.iter().position(|group| group.class == class);
        let group = group.and_then(|group| u32::try_from(group).ok());
        let missing = || invalid(format!("has no entry for class `{class}`"));
        group.map(Condition).ok_or_else(missing)
    }

    /// Describes the images that represent a class.
    pub(super) fn describe(&self, class: Option<&str>) -> Vec<String> {
        let groups = self.groups.iter();
        let labels = groups.filter(|group| Some(group.class.as_str()) == class);
        let labels = labels.flat_map(|group| &group.labels);
        labels
            .map(|label| format!("images of the pool with label {label}"))
            .collect()
    }

    /// Returns a digest of the images of all groups.
    pub(super) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for group in &self.groups {
            hasher.update((group.images.len() as u64).to_le_bytes());
            for image in &group.images {
                hasher.update(image.to_le_bytes());
            }
        }
        hex::encode(&hasher.finalize())
    }
}
