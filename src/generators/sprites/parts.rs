//! The parts that pictures are composed of.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use png::{ColorType, Transformations};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::config::Layer;
use crate::hex;
use crate::sections::InvalidKey;

/// Bytes of all decoded parts.
const MAX_BYTES: usize = 4 << 30;

/// One part: `uint8 [height, width, 4]` with red, green, blue and alpha.
pub(super) struct Part {
    /// Name of its file without the extension.
    pub(super) name: String,
    pixels: Vec<u8>,
}

/// The parts of one attribute.
pub(super) struct Attribute {
    pub(super) layer: Layer,
    /// Sorted by name.
    pub(super) parts: Vec<Part>,
}

/// All attributes, in the order in which they are drawn.
pub(super) struct Parts {
    pub(super) attributes: Vec<Attribute>,
    /// Height and width of every part.
    pub(super) size: (usize, usize),
    /// SHA-256 of the names and contents of all files, in hexadecimal.
    pub(super) digest: String,
}

/// A decoded file.
struct Picture {
    path: PathBuf,
    digest: String,
    size: (usize, usize),
    part: Part,
}

impl Parts {
    /// Reads the attributes of `layers`, or all folders in `folder`.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `parts` or `layers`: a folder or file that cannot be read, a file that
    /// is not a PNG file, parts of different sizes, an attribute without parts, or a weight for a
    /// part that does not exist.
    pub(super) fn read(folder: &Path, layers: Option<&[Layer]>) -> Result<Self, InvalidKey> {
        let layers = match layers {
            Some(layers) => layers.to_vec(),
            None => folders_in(folder)?.into_iter().map(Layer::named).collect(),
        };
        if layers.is_empty() {
            let message = format!(
                "{} has no folders: expected one for each attribute",
                folder.display()
            );
            return Err(InvalidKey::new("parts", message));
        }
        let (mut attributes, mut hasher) = (Vec::new(), Sha256::new());
        let mut first: Option<(PathBuf, (usize, usize))> = None;
        let mut bytes = 0;
        for layer in layers {
            let paths = pictures_in(&folder.join(&layer.name))?;
            let pictures = paths.par_iter().map(|path| read_picture(path));
            let pictures = pictures.collect::<Result<Vec<Picture>, InvalidKey>>()?;
            let mut parts = Vec::new();
            for picture in pictures {
                let (path, size) = first.get_or_insert((picture.path.clone(), picture.size));
                if *size != picture.size {
                    let message = format!(
                        "{} has {}x{} pixels, but {} has {}x{}: expected one size of all parts",
                        picture.path.display(),
                        picture.size.0,
                        picture.size.1,
                        path.display(),
                        size.0,
                        size.1
                    );
                    return Err(InvalidKey::new("parts", message));
                }
                let name = &picture.part.name;
                hasher.update(format!("{}/{name}\0{}\n", layer.name, picture.digest));
                bytes += picture.part.pixels.len();
                parts.push(picture.part);
            }
            if bytes > MAX_BYTES {
                let message = format!("takes more than {MAX_BYTES} bytes when decoded");
                return Err(InvalidKey::new("parts", message));
            }
            check_weights(&layer, &parts)?;
            attributes.push(Attribute { layer, parts });
        }
        Ok(Self {
            attributes,
            size: first.map_or((0, 0), |(_, size)| size),
            digest: hex::encode(&hasher.finalize()),
        })
    }

    /// Draws the chosen part of each attribute, `None` for none of it, over `background`; returns
    /// `uint8 [height, width, 3]`.
    pub(super) fn compose(&self, chosen: &[Option<usize>], background: [u8; 3]) -> Vec<u8> {
        let (height, width) = self.size;
        let mut canvas = background.repeat(height * width);
        for (attribute, chosen) in self.attributes.iter().zip(chosen) {
            let part = chosen.and_then(|index| attribute.parts.get(index));
            let pixels = part.map_or(&[][..], |part| part.pixels.as_slice());
            for (under, over) in canvas
                .as_chunks_mut::<3>()
                .0
                .iter_mut()
                .zip(pixels.as_chunks().0)
            {
                let [red, green, blue, alpha] = *over;
                let alpha = u32::from(alpha);
                for (under, over) in under.iter_mut().zip([red, green, blue]) {
                    let sum = u32::from(over) * alpha + u32::from(*under) * (255 - alpha);
                    *under = ((sum + 127) / 255) as u8;
                }
            }
        }
        canvas
    }
}

impl Attribute {
    /// Returns the index of the part with this name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        let found = self
            .parts
            .binary_search_by(|part| part.name.as_str().cmp(name));
        found.ok()
    }
}

/// Returns an error unless the weights are those of parts that exist, and leave one.
fn check_weights(layer: &Layer, parts: &[Part]) -> Result<(), InvalidKey> {
    let unknown = |name: &&String| !parts.iter().any(|part| part.name == **name);
    if let Some(name) = layer.weights.keys().find(unknown) {
        let known: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let message = format!(
            "has a weight for \"{name}\", which \"{}\" does not have: expected parts of {known:?}",
            layer.name
        );
        return Err(InvalidKey::new("layers", message));
    }
    let weight = |part: &Part| layer.weights.get(&part.name).copied().unwrap_or(1.0);
    if parts.iter().map(weight).sum::<f64>() > 0.0 {
        return Ok(());
    }
    let message = format!(
        "has weight 0 for all parts of \"{}\": expected one above 0",
        layer.name
    );
    Err(InvalidKey::new("layers", message))
}

/// Lists the names of the folders in `folder`, sorted, without hidden ones.
fn folders_in(folder: &Path) -> Result<Vec<String>, InvalidKey> {
    let mut names = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// Lists the PNG files in `folder`, sorted by name.
fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>, InvalidKey> {
    let is_png = |path: &PathBuf| {
        let extension = path.extension().unwrap_or_default();
        extension.eq_ignore_ascii_case("png") && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries(folder)?.into_iter().filter(is_png).collect();
    if found.is_empty() {
        let message = format!(
            "{} has no PNG files: expected at least one",
            folder.display()
        );
        return Err(InvalidKey::new("parts", message));
    }
    found.sort_by_key(|path| stem(path));
    let mut pairs = found.iter().zip(found.iter().skip(1));
    if let Some((first, second)) = pairs.find(|(a, b)| stem(a) == stem(b)) {
        let message = format!(
            "{} and {} have the same name: expected names that differ before the extension",
            first.display(),
            second.display()
        );
        return Err(InvalidKey::new("parts", message));
    }
    Ok(found)
}

/// Lists the entries of a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, InvalidKey> {
    let unreadable = |error| {
        let message = format!("cannot read the folder {}: {error}", folder.display());
        InvalidKey::new("parts", message)
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn read_picture(path: &Path) -> Result<Picture, InvalidKey> {
    let invalid = |error: &dyn std::fmt::Display| {
        let message = format!("cannot read {} as PNG: {error}", path.display());
        InvalidKey::new("parts", message)
    };
    let bytes = fs::read(path).map_err(|error| invalid(&error))?;
    let digest = hex::encode(&Sha256::digest(&bytes));
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    // Palettes and 16 bits become 8 bits, and every picture has an alpha channel.
    decoder.set_transformations(Transformations::normalize_to_color8() | Transformations::ALPHA);
    let mut reader = decoder.read_info().map_err(|error| invalid(&error))?;
    let length = reader.output_buffer_size();
    let length = length.ok_or_else(|| invalid(&"it is too large"))?;
    let mut decoded = vec![0; length];
    let frame = reader
        .next_frame(&mut decoded)
        .map_err(|error| invalid(&error))?;
    decoded.truncate(frame.buffer_size());
    let pixels = match frame.color_type {
        ColorType::Rgba => decoded,
        ColorType::GrayscaleAlpha => {
            let pixels = decoded.as_chunks::<2>().0.iter();
            pixels
                .flat_map(|[gray, alpha]| [*gray, *gray, *gray, *alpha])
                .collect()
        }
        other => return Err(invalid(&format!("its colors are {other:?}"))),
    };
    Ok(Picture {
        path: path.to_owned(),
        digest,
        size: (frame.height as usize, frame.width as usize),
        part: Part {
            name: stem(path),
            pixels,
        },
    })
}

/// The parts of one attribute that a class may have, with their cumulative probabilities.
pub(super) struct Choice {
    probability: f64,
    /// Indices of parts and the sum of the weights up to each.
    parts: Vec<(usize, f64)>,
}

impl Choice {
    /// Restricts an attribute to `allowed` parts, if there is a restriction.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `key` if a part does not exist, or all allowed ones have weight 0.
    pub(super) fn new(
        attribute: &Attribute,
        allowed: Option<&[String]>,
        key: &str,
    ) -> Result<Self, InvalidKey> {
        let unknown = |name: &&String| attribute.position(name).is_none();
        if let Some(name) = allowed.unwrap_or_default().iter().find(unknown) {
            let known: Vec<&str> = attribute
                .parts
                .iter()
                .map(|part| part.name.as_str())
                .collect();
            let message = format!("has \"{name}\": expected parts of {known:?}");
            return Err(InvalidKey::new(key, message));
        }
        let (mut parts, mut sum) = (Vec::new(), 0.0);
        for (index, part) in attribute.parts.iter().enumerate() {
            let weight = attribute
                .layer
                .weights
                .get(&part.name)
                .copied()
                .unwrap_or(1.0);
            if weight > 0.0 && allowed.is_none_or(|allowed| allowed.contains(&part.name)) {
                sum += weight;
                parts.push((index, sum));
            }
        }
        if parts.is_empty() {
            let message = "has only parts of weight 0: expected one above 0";
            return Err(InvalidKey::new(key, message));
        }
        Ok(Self {
            probability: attribute.layer.probability,
            parts,
        })
    }

    /// Chooses a part from two uniform numbers in [0, 1); `None` for no part of this attribute.
    pub(super) fn choose(&self, presence: f64, which: f64) -> Option<usize> {
        if presence >= self.probability {
            return None;
        }
        let (_, sum) = self.parts.last()?;
        let at = which * sum;
        let found = self.parts.iter().find(|(_, until)| at < *until);
        found.or(self.parts.last()).map(|(index, _)| *index)
    }
}
