//! The keys of `[data]` that name the layout of private images on disk.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// `data.format`: the kind of container that `data.path` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Image files in a folder, or listed in a CSV file.
    Images,
    /// An `.npz` file.
    Npz,
    /// IDX files, as MNIST is published.
    Idx,
    /// Parquet files in the layout of the hub's image data sets.
    Parquet,
    /// Tar archives in the layout of WebDataset.
    Webdataset,
}

impl Format {
    /// Returns the format that the name of a path implies; a name that implies none is that of a
    /// folder of image files. The file system is not asked, so that the meaning of a configuration
    /// does not depend on private data.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_ascii_lowercase();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "npz" => Self::Npz,
            "parquet" => Self::Parquet,
            "tar" => Self::Webdataset,
            _ if ["idx3-ubyte", "idx4-ubyte"]
                .iter()
                .any(|idx| name.contains(idx)) =>
            {
                Self::Idx
            }
            _ => Self::Images,
        }
    }
}

/// `data.labels`: the place of the class of an image file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// In its name: the part before the first `_`.
    #[default]
    Prefix,
    /// In its path: the first folder below `data.path`.
    Folder,
    /// In its path: the folder that it lies in.
    LeafFolder,
    /// In a CSV file with the columns `file` and `label`: `data.path` itself, or `labels.csv` or
    /// `metadata.csv` in the folder `data.path`.
    Csv,
}

impl Labels {
    /// Describes where a class was expected, for errors.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::Prefix => "a name `<class>_<rest>`, or another data.labels",
            Self::Folder | Self::LeafFolder => {
                "a folder named like the class below data.path, or another data.labels"
            }
            Self::Csv => "a row with a label in the CSV file",
        }
    }
}

/// `data.choose`: the rule by which images are chosen, if `data.num_samples` limits their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choose {
    /// Images that are as good as drawn at random: those whose keyed hash of the name is smallest.
    #[default]
    Random,
    /// The same number of images of each declared class, drawn as under [`Choose::Random`].
    Stratified,
    /// The first images in the order of their names. Sorted by class, they may be of one class.
    First,
}

/// The keys that describe a layout, apart from the path, for images that `[data]` does not
/// describe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// As `data.format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// As `data.split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// As `data.labels`.
    #[serde(default)]
    pub labels: Labels,
    /// As `data.label_column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_path_implies_its_format() {
        for (path, format) in [
            ("images", Format::Images),
            ("a.npz/b", Format::Images),
            ("a/B.NPZ", Format::Npz),
            ("train-00000-of-00001.parquet", Format::Parquet),
            ("shard.tar", Format::Webdataset),
            ("shard.tar.gz", Format::Images),
            ("train-images-idx3-ubyte.gz", Format::Idx),
            ("t10k-images.idx3-ubyte", Format::Idx),
            ("labels.csv", Format::Images),
        ] {
            assert_eq!(Format::of_path(Path::new(path)), format, "{path}");
        }
    }
}
