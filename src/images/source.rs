//! Reads the private images: from the section `[data]` to labeled batches.
//!
//! Errors, counts and progress reports contain names and numbers of files, never pixels.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::batch::ImageBatch;
use super::choose::choose;
use super::clients::numbered;
use super::container::Kinds;
use super::data_config::{DataConfig, OnBadImage, UndeclaredClass, missing_classes};
use super::error::ImagesError;
use super::layout::{Format, Labels};
use super::name::{normal, shown_text};
use super::reader::Reader;

/// The name of a skipped image, and the reason.
pub type Skipped = (String, String);

/// Source of images that reads one batch at a time, so that memory does not grow with their number.
pub struct ImageSource {
    config: DataConfig,
    container: Kinds,
    /// The number in the container of each image.
    places: Vec<usize>,
    labels: Vec<Option<u32>>,
    /// The client of each image, if the configuration names clients.
    clients: Option<Vec<u32>>,
    classes: Vec<String>,
    remarks: Vec<String>,
}

impl ImageSource {
    /// Lists a folder or opens a file of images; reads names and labels, but no images. The classes
    /// are those of the configuration, whatever the names of the files are.
    ///
    /// # Errors
    /// [`ImagesError`] if there are no images, if the run is class-conditional and no classes are
    /// declared, or, under [`UndeclaredClass::Error`], if an image has no declared class.
    pub fn open(config: &DataConfig) -> Result<Self, ImagesError> {
        config.validate()?;
        let mut container = Kinds::open(config)?;
        if container.get().len() == 0 {
            return Err(ImagesError::Empty {
                path: config.path.clone(),
                expected: expected_images(config, &container),
                passed_over: instead_of_images(&container),
            });
        }
        let classes = Classes::of(config)?;
        let labels = classes.labels(&mut container)?;
        let container_ref = container.get();
        let places: Vec<usize> = match config.choice() {
            None => (0..labels.len()).collect(),
            Some((count, choice)) => {
                let key = |index| {
                    container_ref
                        .key(index)
                        .unwrap_or_else(|| index.to_string())
                };
                let (number, seed) = (classes.names.len(), config.choose_seed);
                choose(&labels, number, count, choice, seed, key)
            }
        };
        let clients = clients_of(config, &mut container)?;
        let select = |all: &[u32]| {
            let selected = places.iter().filter_map(|place| all.get(*place));
            selected.copied().collect()
        };
        Ok(Self {
            remarks: remarks(config, &container),
            labels: places
                .iter()
                .map(|place| labels.get(*place).copied().flatten())
                .collect(),
            clients: clients.as_deref().map(select),
            places,
            config: config.clone(),
            container,
            classes: classes.names,
        })
    }

    /// Returns the number of images, also of classes that are not declared.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns true if there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the class of each image, as an index into [`ImageSource::classes`]; `None` for an
    /// image of a class that is not declared, under [`UndeclaredClass::LeaveOut`].
    #[must_use]
    pub fn labels(&self) -> &[Option<u32>] {
        &self.labels
    }

    /// Returns the client of each image as a number from 0, if the configuration names clients.
    #[must_use]
    pub fn clients(&self) -> Option<&[u32]> {
        self.clients.as_deref()
    }

    /// Returns the declared class names, in the declared order.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Returns true if files that are not readable images are skipped.
    #[must_use]
    pub fn skips_bad_images(&self) -> bool {
        self.config.on_bad_image == OnBadImage::Skip
    }

    /// Returns lines for the owner of the images: files that were passed over, and settings that
    /// may not be meant. They tell of the images, so they are as private.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Reads all images once, in order, in batches `uint8[batch, image_size, image_size, 3]`. A
    /// file that is not a readable image is an error; under [`OnBadImage::Skip`] it is removed from
    /// the source and returned.
    ///
    /// # Errors
    /// [`ImagesError`] with the file, or the error of `visit`.
    pub fn check<E: From<ImagesError>>(
        &mut self,
        batch_size: usize,
        visit: impl FnMut(ImageBatch) -> Result<(), E>,
    ) -> Result<Vec<Skipped>, E> {
        let skips = self.skips_bad_images();
        let mut bad = BTreeMap::new();
        let mut reader = Reader::new(&self.config, self.container.get_mut());
        reader.pass(&self.places, batch_size, visit, |index, error| {
            if skips && error.is_of_the_image() {
                bad.insert(index, error.reason());
                return Ok(());
            }
            Err(error)
        })?;
        self.remarks.extend(reader.remark());
        Ok(self.leave_out(&bad)?)
    }

    /// Reads all images like [`ImageSource::check`], except that an unreadable file is always an
    /// error.
    ///
    /// # Errors
    /// [`ImagesError`] with the file, or the error of `visit`.
    pub fn for_each_batch<E: From<ImagesError>>(
        &mut self,
        batch_size: usize,
        visit: impl FnMut(ImageBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = Reader::new(&self.config, self.container.get_mut());
        reader.pass(&self.places, batch_size, visit, |_, error| Err(error))
    }

    /// Removes unreadable files. A class without files stays, because it is declared.
    fn leave_out(&mut self, bad: &BTreeMap<usize, String>) -> Result<Vec<Skipped>, ImagesError> {
        let container = self.container.get();
        let skipped = bad.iter().filter_map(|(index, reason)| {
            let place = self.places.get(*index)?;
            Some((container.name(*place), reason.clone()))
        });
        let skipped = skipped.collect();
        retain(&mut self.places, bad);
        retain(&mut self.labels, bad);
        if let Some(clients) = &mut self.clients {
            retain(clients, bad);
        }
        if self.labels.is_empty() {
            return Err(ImagesError::Empty {
                path: self.config.path.clone(),
                expected: "at least one readable image".to_owned(),
                passed_over: None,
            });
        }
        Ok(skipped)
    }
}

/// Removes the elements whose indices are in `bad`.
fn retain<T>(values: &mut Vec<T>, bad: &BTreeMap<usize, String>) {
    let mut index = 0..;
    values.retain(|_| index.next().is_some_and(|index| !bad.contains_key(&index)));
}

/// Describes what a source without images should have.
fn expected_images(config: &DataConfig, container: &Kinds) -> String {
    match container {
        Kinds::Folder(_) if config.labels() != Labels::Csv => {
            let endings = super::EXTENSIONS.join(", .");
            format!("image files (.{endings})")
        }
        _ => "at least one image".to_owned(),
    }
}

/// Says what a folder without images has instead.
fn instead_of_images(container: &Kinds) -> Option<String> {
    let Kinds::Folder(folder) = container else {
        return None;
    };
    let what = folder.passed_over()?;
    Some(format!(
        "; it has {what}; files of many images need data.format (idx, parquet or webdataset) or \
         their own path as data.path"
    ))
}

fn clients_of(config: &DataConfig, container: &mut Kinds) -> Result<Option<Vec<u32>>, ImagesError> {
    let Some(clients) = &config.clients else {
        return Ok(None);
    };
    match container {
        Kinds::Folder(folder) if !folder.has_clients() => {
            let numbers = clients.of_files(folder.root(), folder.files());
            numbers.map(Some)
        }
        other => Ok(Some(numbered(&other.get_mut().clients()?))),
    }
}

/// Returns lines for the owner about a container.
fn remarks(config: &DataConfig, container: &Kinds) -> Vec<String> {
    let mut lines = Vec::new();
    let Kinds::Folder(folder) = container else {
        return lines;
    };
    lines.extend(folder.passed_over().map(|what| format!("left out: {what}")));
    if config.class_conditional {
        let classes = folder.classes_over_folders().into_iter();
        lines.extend(classes.map(|(class, folders)| {
            let class = shown_text(&class);
            format!(
                "warning: class `{class}` is in {folders} folders that have no other class: if the \
                 folders are the classes, set data.labels = \"folder\""
            )
        }));
    }
    lines
}

/// The declared classes of a source.
struct Classes {
    names: Vec<String>,
    /// Index of each name in its normal form; empty in an unconditional run.
    places: HashMap<String, u32>,
    conditional: bool,
    undeclared: UndeclaredClass,
    expected: &'static str,
}

impl Classes {
    /// Reads the declaration.
    ///
    /// # Errors
    /// [`ImagesError::Config`] if the run is class-conditional and no classes are declared.
    fn of(config: &DataConfig) -> Result<Self, ImagesError> {
        if config.class_conditional && config.classes.is_none() {
            return Err(missing_classes().into());
        }
        let names = config.class_names();
        let normal_names = names.iter().map(|name| normal(name).into_owned());
        Ok(Self {
            places: normal_names.zip(0..).collect(),
            names,
            conditional: config.class_conditional,
            undeclared: config.undeclared_class,
            expected: match config.format() {
                Format::Images => config.labels().expected(),
                _ => "a label of each image in the file",
            },
        })
    }

    /// Returns the label of each image.
    fn labels(&self, container: &mut Kinds) -> Result<Vec<Option<u32>>, ImagesError> {
        if !self.conditional {
            return Ok(vec![Some(0); container.get().len()]);
        }
        let mut labels = Vec::with_capacity(container.get().len());
        // The first image without a declared class.
        let mut refused: Option<(usize, Option<String>)> = None;
        container.get_mut().labels(&mut |class| {
            let place = class.and_then(|class| self.places.get(normal(class).as_ref()));
            if place.is_none() && refused.is_none() {
                refused = Some((labels.len(), class.map(str::to_owned)));
            }
            labels.push(place.copied());
        })?;
        match refused {
            Some((index, class)) if self.undeclared == UndeclaredClass::Error => {
                Err(self.refusal(container, index, class.as_deref()))
            }
            _ => Ok(labels),
        }
    }

    fn refusal(&self, container: &Kinds, index: usize, class: Option<&str>) -> ImagesError {
        let image = container.get().name(index);
        let Some(class) = class else {
            let expected = match container {
                Kinds::Folder(folder) if !folder.is_utf8(index) => {
                    "a path in UTF-8: rename the file or the folder, or set \
                     data.undeclared_class = \"leave-out\""
                }
                _ => self.expected,
            };
            return ImagesError::Class { image, expected };
        };
        ImagesError::Undeclared {
            image,
            class: shown_text(class),
            hint: self.hint(container, index),
        }
    }

    /// Returns a hint if an image lies in a folder that is named like a declared class.
    fn hint(&self, container: &Kinds, index: usize) -> String {
        let Kinds::Folder(folder) = container else {
            return String::new();
        };
        let folders = folder.folders_of(index);
        let declared = |name: &&&str| self.places.contains_key(normal(name).as_ref());
        let labels = match (
            folders.first().filter(declared),
            folders.last().filter(declared),
        ) {
            (Some(_), _) => "folder",
            (None, Some(_)) => "leaf-folder",
            (None, None) => return String::new(),
        };
        format!("its folder is named like a class (data.labels = \"{labels}\" takes that), or ")
    }
}

/// Classes that occur among images, with the number of images of each.
///
/// They are as private as the images. They serve their owner, who decides what to declare, and
/// evaluations; no run reads them.
pub struct OccurringClasses {
    /// Name and number of images of each class: sorted by number, if all names in a file of many
    /// images are numbers, and by name otherwise.
    pub counts: Vec<(String, usize)>,
    /// Number of images without a class.
    pub unnamed: usize,
    /// Lines for the owner, as [`ImageSource::remarks`].
    pub remarks: Vec<String>,
}

impl OccurringClasses {
    /// Reads the names of the files in a folder, or the labels in a file of many images; no image.
    /// Of the configuration, only the layout counts.
    ///
    /// # Errors
    /// [`ImagesError`] if the source cannot be read or has no images.
    pub fn of(config: &DataConfig) -> Result<Self, ImagesError> {
        let everything = DataConfig::with_layout(&config.path, 1, &config.layout());
        let mut source = ImageSource::open(&everything)?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut unnamed = 0;
        source
            .container
            .get_mut()
            .labels(&mut |label| match label {
                Some(class) => match counts.get_mut(class) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(class.to_owned(), 1);
                    }
                },
                None => unnamed += 1,
            })?;
        let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
        let numbers: Option<BTreeSet<i64>> =
            counts.iter().map(|(name, _)| name.parse().ok()).collect();
        if config.format() != Format::Images && numbers.is_some() {
            counts.sort_by_key(|(name, _)| name.parse::<i64>().unwrap_or_default());
        }
        let with_classes = DataConfig {
            class_conditional: true,
            ..everything
        };
        Ok(Self {
            counts,
            unnamed,
            remarks: remarks(&with_classes, &source.container),
        })
    }

    /// Returns the names of the classes.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.counts.iter().map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
