//! The section `[data]`: the path of the private images, and what their owner declares about them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::clients::{ClientPlace, ClientsConfig};
use super::decode::{DecodeOptions, Orientation, SixteenBit};
use super::layout::{Choose, Format, Labels, Layout};
use super::size::ImageSize;
use crate::sections::{InvalidKey, Section};

/// Largest accepted `image_size`.
const MAX_IMAGE_SIZE: usize = 4096;

/// Name of the only class of an unconditional run.
const ALL_CLASS: &str = "all";

/// Section `[data]`: path of the private images, options of reading them, and declared facts about
/// them.
///
/// Classes and the number of images are declared here and never computed from the images, because
/// what a run publishes must not depend on a single image in any other way than through the noisy
/// histograms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder of image files, possibly nested, a CSV file that lists them, or a file with many
    /// images.
    pub path: PathBuf,
    /// Kind of container; implied by the name of the path if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Part of a data set that has several, such as `train` or `test`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Place of the class of an image file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Name of the column of the class in the CSV file; `label` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Rows and columns of every image after resizing and cropping: a number, or `[height, width]`.
    pub image_size: ImageSize,
    /// Generates separate samples for each class; otherwise all images form one class.
    #[serde(default)]
    pub class_conditional: bool,
    /// Names of the classes in the order of labels; `None` where another section names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// Treatment of images of a class that is not declared.
    #[serde(default, skip_serializing_if = "is_default")]
    pub undeclared_class: UndeclaredClass,
    /// Declared (public) number of images; never counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_size: Option<usize>,
    /// Number of images to use at most; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_samples: Option<usize>,
    /// Rule by which images are chosen, if their number is limited; random if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<Choose>,
    /// Seed of the choice.
    #[serde(default, skip_serializing_if = "is_default")]
    pub choose_seed: u64,
    /// Treatment of files that are not readable images.
    #[serde(default)]
    pub on_bad_image: OnBadImage,
    /// Treatment of equal images.
    #[serde(default, skip_serializing_if = "is_default")]
    pub duplicates: Duplicates,
    /// Rule by which samples of 16 bits become bytes: `"high-byte"`, or a window `[low, high]`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sixteen_bit: SixteenBit,
    /// Color behind transparent pixels: red, green and blue.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alpha: [u8; 3],
    /// Orientation in which images are used.
    #[serde(default, skip_serializing_if = "is_default")]
    pub orientation: Orientation,
    /// Page of each TIFF and frame of each DICOM file, from 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page: usize,
    /// To whom the images belong, if the unit of privacy is a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientsConfig>,
}

/// Treatment of images of a class that is not declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UndeclaredClass {
    /// Ends the run with an error that names the file.
    #[default]
    Error,
    /// Leaves the image out. Only the owner's terminal shows the number of such images.
    LeaveOut,
}

/// Treatment of files that are not readable images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadImage {
    /// Ends the run with an error that names the file.
    #[default]
    Error,
    /// Skips the file, and lists it on the owner's terminal.
    ///
    /// This is sound because no number of images is published: a run on a data set with an
    /// unreadable file is the run on the data set without it. To add or to remove an unreadable
    /// file therefore changes nothing, and to replace an image by one is to remove the image, which
    /// both neighboring relations cover.
    Skip,
}

/// Treatment of equal images: of one class, and with the same pixels after resizing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// Counts every copy. A person with several copies is protected less.
    #[default]
    Keep,
    /// Counts equal images once, the first one in order.
    ///
    /// The votes then depend on the *set* of pairs (class, pixels), which changes by at most one
    /// element if an image is added or removed; if the unit is a client, each client has a set of
    /// its own, which does not depend on other clients. The class has to be part of the pair: if
    /// equal images of two classes were one, the removal of the first copy would move its votes to
    /// the other class, and the histogram would change by √2 times the sensitivity.
    Once,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Section for DataConfig {
    // The fingerprint of the images includes their classes and clients.
    const NON_IDENTITY_KEYS: &'static [&'static str] = &[
        "path",
        "format",
        "split",
        "labels",
        "label_column",
        "on_bad_image",
        "clients",
    ];
}

impl DataConfig {
    /// Creates the section for all images at `path`, as one class, with the defaults of the other
    /// keys.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, image_size: impl Into<ImageSize>) -> Self {
        Self {
            path: path.into(),
            format: None,
            split: None,
            labels: Labels::default(),
            label_column: None,
            image_size: image_size.into(),
            class_conditional: false,
            classes: None,
            undeclared_class: UndeclaredClass::default(),
            declared_size: None,
            num_samples: None,
            choose: None,
            choose_seed: 0,
            on_bad_image: OnBadImage::default(),
            duplicates: Duplicates::default(),
            sixteen_bit: SixteenBit::default(),
            alpha: [0; 3],
            orientation: Orientation::default(),
            page: 0,
            clients: None,
        }
    }

    /// Creates the section like [`DataConfig::new`], with a layout.
    #[must_use]
    pub fn with_layout(
        path: impl Into<PathBuf>,
        image_size: impl Into<ImageSize>,
        layout: &Layout,
    ) -> Self {
        Self {
            format: layout.format,
            split: layout.split.clone(),
            labels: layout.labels,
            label_column: layout.label_column.clone(),
            ..Self::new(path, image_size)
        }
    }

    /// Returns the layout, without the path.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout {
            format: self.format,
            split: self.split.clone(),
            labels: self.labels,
            label_column: self.label_column.clone(),
        }
    }

    /// Checks the ranges of the values.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        let range = 1..=MAX_IMAGE_SIZE;
        if !self.image_size.all(|side| range.contains(&side)) {
            let message = match self.image_size {
                ImageSize { height, width } if height == width => {
                    format!("is {height}: expected 1 to {MAX_IMAGE_SIZE}")
                }
                size => format!("is {size}: expected sides of 1 to {MAX_IMAGE_SIZE}"),
            };
            return Err(InvalidKey::new("image_size", message));
        }
        for (key, number) in [
            ("num_samples", self.num_samples),
            ("declared_size", self.declared_size),
        ] {
            if number == Some(0) {
                let message = "is 0: expected 1 or more, or no such key";
                return Err(InvalidKey::new(key, message));
            }
        }
        if let SixteenBit::Window(low, high) = self.sixteen_bit
            && low >= high
        {
            let message = format!("is [{low}, {high}]: expected [low, high] with low below high");
            return Err(InvalidKey::new("sixteen_bit", message));
        }
        self.validate_layout()?;
        if let Some(clients) = &self.clients {
            clients.validate(match (self.format(), self.labels()) {
                (Format::Images, Labels::Csv) => ClientPlace::Table,
                (Format::Images, _) => ClientPlace::Path,
                _ => ClientPlace::Container,
            })?;
        }
        self.validate_classes()
    }

    /// Checks that the keys of the layout fit each other.
    fn validate_layout(&self) -> Result<(), InvalidKey> {
        let refuse = |key: &str, message: &str| Err(InvalidKey::new(key, message));
        let is_images = self.format() == Format::Images;
        if !is_images && self.labels != Labels::default() {
            return refuse(
                "labels",
                "is for image files: a file of many images has the class of each of them",
            );
        }
        if self.label_column.is_some() && (!is_images || self.labels() != Labels::Csv) {
            return refuse(
                "label_column",
                "is given, but no CSV file names the classes: expected labels = \"csv\", or no \
                 label_column",
            );
        }
        match &self.split {
            Some(split) if split.is_empty() => {
                return refuse("split", "is empty: expected a name, such as \"train\"");
            }
            Some(_) if is_images => {
                return refuse(
                    "split",
                    "is not for image files: expected the folder of the split as data.path, or \
                     data.format if the folder has no image files",
                );
            }
            _ => {}
        }
        if self.num_samples.is_some() {
            return match self.choose {
                Some(Choose::Stratified) if !self.class_conditional => refuse(
                    "choose",
                    "is \"stratified\", but there are no classes: expected class_conditional = \
                     true, or \"random\"",
                ),
                _ => Ok(()),
            };
        }
        let unused = [
            ("choose", self.choose.is_some()),
            ("choose_seed", self.choose_seed != 0),
        ];
        match unused.iter().find(|(_, given)| *given) {
            Some((key, _)) => refuse(
                key,
                "is given, but all images are used: expected num_samples with it",
            ),
            None => Ok(()),
        }
    }

    /// Returns the kind of container: the stated one, or that which the path implies.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format.unwrap_or_else(|| Format::of_path(&self.path))
    }

    /// Returns where the class of an image file is: as stated, or in the CSV file that `path` is.
    #[must_use]
    pub fn labels(&self) -> Labels {
        let extension = self.path.extension();
        let is_csv = extension.is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        match is_csv {
            true => Labels::Csv,
            false => self.labels,
        }
    }

    /// Returns which images take part; all of them if their number is not limited.
    #[must_use]
    pub fn choice(&self) -> Option<(usize, Choose)> {
        Some((self.num_samples?, self.choose.unwrap_or_default()))
    }

    fn validate_classes(&self) -> Result<(), InvalidKey> {
        let Some(classes) = &self.classes else {
            return Ok(());
        };
        let refuse = |message: String| Err(InvalidKey::new("classes", message));
        if !self.class_conditional {
            let message = "is given, but data.class_conditional is false: expected \
                           class_conditional = true, or no classes";
            return refuse(message.to_owned());
        }
        if classes.is_empty() {
            return refuse("is empty: expected at least one class".to_owned());
        }
        for (index, class) in classes.iter().enumerate() {
            if class.is_empty() {
                return refuse("has an empty name: expected the name of a class".to_owned());
            }
            if classes.iter().take(index).any(|earlier| earlier == class) {
                return refuse(format!("has `{class}` twice: expected each class once"));
            }
        }
        Ok(())
    }

    /// Returns the names of the classes in the order of labels: the declared ones, or the only
    /// class of an unconditional run. Empty, if a class-conditional run declares none.
    #[must_use]
    pub fn class_names(&self) -> Vec<String> {
        match self.class_conditional {
            true => self.classes.clone().unwrap_or_default(),
            false => vec![ALL_CLASS.to_owned()],
        }
    }

    /// Returns the largest number of chosen images that are replaced when one image of the source
    /// is replaced by another one: one in each of two classes, if each class has its own number.
    #[must_use]
    pub fn replaced_images(&self) -> u32 {
        match self.choice() {
            Some((_, Choose::Stratified)) => 2,
            _ => 1,
        }
    }

    /// Returns the options with which files are decoded.
    #[must_use]
    pub fn decode_options(&self) -> DecodeOptions {
        DecodeOptions {
            sixteen_bit: self.sixteen_bit,
            alpha: self.alpha,
            orientation: self.orientation,
            page: self.page,
        }
    }

    /// Describes for the privacy statement which images of the source take part. The text depends
    /// on the configuration only, never on the images.
    #[must_use]
    pub fn selection(&self) -> String {
        let mut text = match self.choice() {
            Some((count, Choose::First)) => format!(
                "the first {count} images of the source in the order of their names, or all if \
                 there are fewer (data.num_samples, data.choose = \"first\")"
            ),
            Some((count, Choose::Random)) => format!(
                "{count} images of the source, chosen by a keyed hash of their names, or all if \
                 there are fewer (data.num_samples, data.choose = \"random\")"
            ),
            Some((count, Choose::Stratified)) => format!(
                "{count} images of the source, shared equally among the declared classes and \
                 chosen by a keyed hash of their names, or all of a class that has fewer \
                 (data.num_samples, data.choose = \"stratified\")"
            ),
            None => "all images of the source".to_owned(),
        };
        if let Some(split) = &self.split {
            text += &format!(", split `{split}` (data.split)");
        }
        if self.on_bad_image == OnBadImage::Skip {
            text += ", without files that are not readable images (data.on_bad_image = \"skip\")";
        }
        if self.undeclared_class == UndeclaredClass::LeaveOut {
            text += ", without images of other classes (data.undeclared_class = \"leave-out\")";
        }
        if self.duplicates == Duplicates::Once {
            text += match self.clients {
                None => ", equal images of a class counted once (data.duplicates = \"once\")",
                Some(_) => {
                    ", equal images of a class and a client counted once (data.duplicates = \
                     \"once\")"
                }
            };
        }
        if let SixteenBit::Window(low, high) = self.sixteen_bit {
            text += &format!(
                ", values of more than 8 bits from the declared window {low} to {high} \
                 (data.sixteen_bit)"
            );
        }
        if self.page > 0 {
            text += &format!(", page {} of files with pages (data.page)", self.page);
        }
        if let Some(most) = self.clients.as_ref().and_then(|clients| clients.max_images) {
            text += &format!(
                ", at most {most} images of each client, chosen by the hash of their pixels \
                 (data.clients.max_images)"
            );
        }
        text
    }
}

/// Returns the error of a class-conditional run without declared classes.
#[must_use]
pub fn missing_classes() -> InvalidKey {
    InvalidKey::new(
        "classes",
        "missing: a class-conditional run needs the names of the classes, such as classes = \
         [\"cat\", \"dog\"] (`dpsyn classes PATH` proposes them), or a table by class in \
         evolution.class_shares, model.class_labels or model.prompts; class_conditional = false \
         uses no classes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut DataConfig)) -> String {
        let mut config = DataConfig::new("x", 4);
        config.class_conditional = true;
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    fn names(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn values_out_of_range_name_their_key() {
        assert!(refusal(|config| config.image_size = 0.into()).starts_with("image_size: "));
        assert!(refusal(|config| config.num_samples = Some(0)).starts_with("num_samples: "));
        assert!(refusal(|config| config.declared_size = Some(0)).starts_with("declared_size: "));
        let window = refusal(|config| config.sixteen_bit = SixteenBit::Window(7, 7));
        assert!(window.starts_with("sixteen_bit: "), "{window}");
    }

    #[test]
    fn declared_classes_are_distinct_names_of_a_conditional_run() {
        assert!(refusal(|config| config.classes = names(&[])).contains("is empty"));
        assert!(refusal(|config| config.classes = names(&["a", ""])).contains("empty name"));
        assert!(refusal(|config| config.classes = names(&["a", "b", "a"])).contains("`a` twice"));
        let unconditional = refusal(|config| {
            config.classes = names(&["a"]);
            config.class_conditional = false;
        });
        assert!(unconditional.starts_with("classes: is given, but"));
        let mut config = DataConfig::new("x", 4);
        (config.class_conditional, config.classes) = (true, names(&["b", "a"]));
        config.validate().unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = "path = 'x'\nimage_size = 32\non_bad_image = 'skip'\n";
        let config: DataConfig = toml::from_str(text).unwrap();
        assert!(!config.class_conditional && config.classes.is_none());
        assert_eq!(config.on_bad_image, OnBadImage::Skip);
        assert!(toml::from_str::<DataConfig>(&format!("{text}image_sise = 3")).is_err());
    }

    #[test]
    fn the_new_keys_are_part_of_the_identity_and_defaults_are_not_written() {
        let text = "path = 'x'\nimage_size = 32\n";
        let default = toml::to_string(&toml::from_str::<DataConfig>(text).unwrap()).unwrap();
        for key in [
            "classes",
            "declared_size",
            "undeclared_class",
            "duplicates",
            "sixteen_bit",
            "alpha",
            "orientation",
            "page",
        ] {
            assert!(!default.contains(key), "{default}");
            assert!(!DataConfig::NON_IDENTITY_KEYS.contains(&key));
        }
        let text = format!(
            "{text}class_conditional = true\nclasses = ['b', 'a']\ndeclared_size = 9\n\
             undeclared_class = 'leave-out'\nduplicates = 'once'\nsixteen_bit = [-160, 240]\n\
             alpha = [255, 255, 255]\norientation = 'exif'\npage = 2\n"
        );
        let config: DataConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.undeclared_class, UndeclaredClass::LeaveOut);
        assert_eq!(config.duplicates, Duplicates::Once);
        let options = DecodeOptions {
            sixteen_bit: SixteenBit::Window(-160, 240),
            alpha: [255; 3],
            orientation: Orientation::Exif,
            page: 2,
        };
        assert_eq!(config.decode_options(), options);
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<DataConfig>(&written).unwrap(), config);
    }

    #[test]
    fn the_selection_names_every_setting_that_changes_the_images() {
        let mut config = DataConfig::new("x", 4);
        assert_eq!(config.selection(), "all images of the source");
        config.num_samples = Some(7);
        config.on_bad_image = OnBadImage::Skip;
        config.undeclared_class = UndeclaredClass::LeaveOut;
        config.duplicates = Duplicates::Once;
        config.sixteen_bit = SixteenBit::Window(-160, 240);
        config.page = 2;
        let text = config.selection();
        for part in [
            "7 images",
            "data.num_samples",
            "data.on_bad_image",
            "data.undeclared_class",
            "data.duplicates",
            "window -160 to 240 (data.sixteen_bit)",
            "page 2",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
