//! WebDataset: shards in tar format, in which the files of a sample share a key.
//!
//! The key of a file is its path up to the first dot of the name: `a/0001.jpg` and `a/0001.cls` are
//! one sample. The headers are read when the container is opened; they give the place of each image
//! in its shard, so that images are then read in any order. No memory is allocated by a header's
//! claim: a place that is not within the shard is an error.

mod shard;

use std::collections::HashMap;
use std::collections::hash_map::{Entry as Slot, RandomState};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files::{fault, list};
use super::{Container, Stored};
use crate::images::EXTENSIONS;
use crate::images::error::ImagesError;
use crate::images::name::{shown, shown_text};
use shard::{ShardReader, Span, ends_with, for_each_file, is_compressed};

/// Largest accepted image file in bytes.
const MAX_IMAGE: u64 = 1 << 31;
/// Largest accepted `.cls` or `.json` file in bytes.
const MAX_TEXT: u64 = 1 << 24;

/// Images of tar shards in the layout of WebDataset.
pub(in crate::images) struct WebDataset {
    /// The path that was opened.
    root: PathBuf,
    shards: Vec<PathBuf>,
    samples: Vec<Sample>,
    /// The keys of all samples, one after the other.
    keys: String,
    /// The shard that was read last, with its index.
    reader: Option<(usize, ShardReader)>,
}

/// The files of a sample.
struct Sample {
    shard: u32,
    /// End of the key in [`WebDataset::keys`]; it begins at the end of the previous one.
    key_end: usize,
    image: Span,
    class: Span,
    json: Span,
}

/// A value in a JSON file that names a class or a client.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Integer(i64),
    Text(String),
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        match name {
            Name::Integer(number) => number.to_string(),
            Name::Text(text) => text,
        }
    }
}

/// The used fields of a JSON file.
#[derive(Default, Deserialize)]
struct Fields {
    label: Option<Name>,
    cls: Option<Name>,
    client: Option<Name>,
}

impl WebDataset {
    /// Opens a `.tar` file, or the `.tar` files of a folder, sorted by path, and reads the headers
    /// in them. With a `split`, the files of a folder are those whose names begin with it and a
    /// character that is neither letter nor digit, and those in a subfolder of that name.
    ///
    /// # Errors
    /// [`ImagesError`] if there is no such file; if a shard is compressed, damaged or truncated, or
    /// has links; or if a sample has not exactly one image, or two files of one kind.
    pub(in crate::images) fn open(path: &Path, split: Option<&str>) -> Result<Self, ImagesError> {
        let shards = list(
            path,
            split,
            |character| !character.is_alphanumeric(),
            |name| ends_with(name, ".tar") || is_compressed(name),
            "shards in files named *.tar",
        )?;
        let mut dataset = Self {
            root: path.to_owned(),
            shards: Vec::new(),
            samples: Vec::new(),
            keys: String::new(),
            reader: None,
        };
        for shard in shards {
            dataset.index(&shard)?;
            dataset.shards.push(shard);
        }
        Ok(dataset)
    }

    /// Adds the samples of a shard.
    fn index(&mut self, shard: &Path) -> Result<(), ImagesError> {
        let first = self.samples.len();
        let mut places = Places::default();
        for_each_file(shard, |key, ending, span| {
            self.add(shard, (key, ending), span, &mut places)
        })?;
        self.verify_images(shard, first)
    }

    /// Adds a file to the sample with its key.
    fn add(
        &mut self,
        shard: &Path,
        (key, ending): (&str, &str),
        span: Span,
        places: &mut Places,
    ) -> Result<(), ImagesError> {
        if is_image(ending) && span.len > MAX_IMAGE {
            let key = shown_text(key);
            return Err(fault(
                shard,
                format!("the image of the sample `{key}` has more than {MAX_IMAGE} bytes"),
            ));
        }
        let index = self.sample(key, places);
        let Some(sample) = self.samples.get_mut(index) else {
            return Ok(());
        };
        let (place, what) = if is_image(ending) {
            (&mut sample.image, "images")
        } else if ending.eq_ignore_ascii_case("cls") {
            (&mut sample.class, "files .cls")
        } else if ending.eq_ignore_ascii_case("json") {
            (&mut sample.json, "files .json")
        } else {
            return Ok(());
        };
        if !place.is_missing() {
            let key = shown_text(key);
            return Err(fault(
                shard,
                format!(
                    "the sample `{key}` has two {what}: expected one of each kind under each key, \
                     and keys that occur once"
                ),
            ));
        }
        *place = span;
        Ok(())
    }

    /// Returns the index of the sample with this key in the current shard, a new one if need be.
    fn sample(&mut self, key: &str, places: &mut Places) -> usize {
        // The files of a sample usually follow each other.
        if let Some(last) = self.samples.len().checked_sub(1)
            && last >= places.first(last)
            && self.key_of(last) == key
        {
            return last;
        }
        let mut hash = places.state.hash_one(key);
        loop {
            match places.indices.entry(hash) {
                Slot::Occupied(slot) => {
                    let index = *slot.get() as usize;
                    if self.key_of(index) == key {
                        return index;
                    }
                    // Another key with the same hash.
                    hash = hash.wrapping_add(1);
                }
                Slot::Vacant(slot) => {
                    let index = self.samples.len();
                    slot.insert(index as u32);
                    self.keys.push_str(key);
                    self.samples.push(Sample {
                        shard: self.shards.len() as u32,
                        key_end: self.keys.len(),
                        image: Span::default(),
                        class: Span::default(),
                        json: Span::default(),
                    });
                    return index;
                }
            }
        }
    }

    fn key_of(&self, index: usize) -> &str {
        let end = |index: usize| self.samples.get(index).map(|sample| sample.key_end);
        let start = index.checked_sub(1).and_then(end).unwrap_or(0);
        self.keys
            .get(start..end(index).unwrap_or(start))
            .unwrap_or_default()
    }

    /// Refuses samples without an image among those from `first` on.
    fn verify_images(&self, shard: &Path, first: usize) -> Result<(), ImagesError> {
        for (index, sample) in self.samples.iter().enumerate().skip(first) {
            if sample.image.is_missing() {
                let key = shown_text(self.key_of(index));
                let endings = EXTENSIONS.join(", ");
                return Err(fault(
                    shard,
                    format!(
                        "the sample `{key}` has no image: expected a file with this key and one \
                         of the endings {endings}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Reads a file of the sample `index`.
    fn bytes(&mut self, index: usize, span: fn(&Sample) -> Span) -> Result<Vec<u8>, ImagesError> {
        let sample = self.samples.get(index);
        let sample = sample.ok_or_else(|| fault(&self.root, format!("no image {index}")))?;
        let (shard, span) = (sample.shard as usize, span(sample));
        let mut reader = match self.reader.take() {
            Some((open, reader)) if open == shard => reader,
            _ => ShardReader::open(self.shards.get(shard).unwrap_or(&self.root))?,
        };
        let bytes = reader.read(span)?;
        self.reader = Some((shard, reader));
        Ok(bytes)
    }

    /// Reads the JSON file of the sample `index`; the fields are empty if there is none.
    fn fields(&mut self, index: usize) -> Result<Fields, ImagesError> {
        if self
            .samples
            .get(index)
            .is_none_or(|sample| sample.json.is_missing())
        {
            return Ok(Fields::default());
        }
        self.refuse_long_text(index, |sample| sample.json)?;
        let bytes = self.bytes(index, |sample| sample.json)?;
        // The message of the parser may repeat values of the file.
        serde_json::from_slice(&bytes).map_err(|error| {
            self.sample_fault(
                index,
                &format!(
                    "its .json is not usable (line {}, column {}): expected an object, and a text \
                     or an integer in `label`, `cls` and `client`",
                    error.line(),
                    error.column()
                ),
            )
        })
    }

    /// Reads the `.cls` file of the sample `index`, if there is one.
    fn class(&mut self, index: usize) -> Result<Option<String>, ImagesError> {
        if self
            .samples
            .get(index)
            .is_none_or(|sample| sample.class.is_missing())
        {
            return Ok(None);
        }
        self.refuse_long_text(index, |sample| sample.class)?;
        let bytes = self.bytes(index, |sample| sample.class)?;
        let text = str::from_utf8(&bytes).unwrap_or_default().trim();
        if text.is_empty() {
            return Err(self.sample_fault(
                index,
                "its .cls is empty or not UTF-8: expected the name or the number of its class",
            ));
        }
        Ok(Some(text.to_owned()))
    }

    fn refuse_long_text(&self, index: usize, span: fn(&Sample) -> Span) -> Result<(), ImagesError> {
        match self.samples.get(index).map(span) {
            Some(span) if span.len > MAX_TEXT => Err(self.sample_fault(
                index,
                &format!("its .cls or .json has more than {MAX_TEXT} bytes"),
            )),
            _ => Ok(()),
        }
    }

    fn sample_fault(&self, index: usize, message: &str) -> ImagesError {
        let shard = self.samples.get(index).map_or(0, |sample| sample.shard);
        let path = self.shards.get(shard as usize).unwrap_or(&self.root);
        let key = shown_text(self.key_of(index));
        fault(path, format!("the sample `{key}`: {message}"))
    }
}

impl Container for WebDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn name(&self, index: usize) -> String {
        let shard = self.samples.get(index).map_or(0, |sample| sample.shard);
        let path = self.shards.get(shard as usize).unwrap_or(&self.root);
        format!("{}: {}", shown(path), shown_text(self.key_of(index)))
    }

    /// The path of the shard within the folder, and the key: keys alone may repeat in other shards.
    fn key(&self, index: usize) -> Option<String> {
        let shard = self.shards.get(self.samples.get(index)?.shard as usize)?;
        let relative = shard.strip_prefix(&self.root).unwrap_or(shard);
        // A shard that was opened as a file is the only one.
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        let parts = if *shard == self.root {
            Vec::new()
        } else {
            parts
        };
        Some(format!("{}:{}", parts.join("/"), self.key_of(index)))
    }

    fn labels(&mut self, take: &mut dyn FnMut(Option<&str>)) -> Result<(), ImagesError> {
        let mut labeled = false;
        for index in 0..self.samples.len() {
            let label = match self.class(index)? {
                Some(label) => Some(label),
                None => {
                    let fields = self.fields(index)?;
                    fields.label.or(fields.cls).map(String::from)
                }
            };
            labeled |= label.is_some();
            take(label.as_deref());
        }
        if !labeled {
            return Err(fault(
                &self.root,
                "no sample has a label: expected a .cls file, or a .json file with `label` or \
                 `cls`, under the key of each image",
            ));
        }
        Ok(())
    }

    fn clients(&mut self) -> Result<Vec<String>, ImagesError> {
        let mut clients = Vec::with_capacity(self.samples.len());
        for index in 0..self.samples.len() {
            let client = self.fields(index)?.client.map(String::from);
            let client = client.filter(|client| !client.is_empty()).ok_or_else(|| {
                self.sample_fault(
                    index,
                    "its client is unknown: expected a .json file with `client` under its key",
                )
            })?;
            clients.push(client);
        }
        Ok(clients)
    }

    fn stored_len(&self, index: usize) -> u64 {
        self.samples.get(index).map_or(0, |sample| sample.image.len)
    }

    fn read(&mut self, indices: &[usize]) -> Result<Vec<Stored>, ImagesError> {
        indices
            .iter()
            .map(|index| Ok(Stored::Encoded(self.bytes(*index, |sample| sample.image)?)))
            .collect()
    }
}

/// Samples of the shard that is being read, by hashes of their keys: the keys themselves are in
/// memory already.
#[derive(Default)]
struct Places {
    state: RandomState,
    indices: HashMap<u64, u32>,
}

impl Places {
    /// Returns the first index of the shard's samples, of which `last` is the last; a larger index
    /// if it has none yet.
    fn first(&self, last: usize) -> usize {
        (last + 1).saturating_sub(self.indices.len())
    }
}

fn is_image(ending: &str) -> bool {
    let last = ending.rsplit('.').next().unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|known| last.eq_ignore_ascii_case(known))
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
