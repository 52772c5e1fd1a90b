//! Font files, and the outlines of the characters that a run draws.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use skrifa::Font;
use skrifa::font::Format;

use super::outline::{FontOutlines, Glyph};
use crate::hex;
use crate::sections::InvalidKey;

/// Extensions of font files, in lower case.
const EXTENSIONS: [&str; 4] = ["ttf", "otf", "ttc", "otc"];

/// Folders below one of `fonts` that are searched, in depth.
const MAX_DEPTH: usize = 16;

/// Bytes of a font file; the largest fonts of Chinese, Japanese and Korean have 30 MB.
const MAX_BYTES: u64 = 256 << 20;

/// A font with the characters that a run draws.
#[derive(Debug)]
pub(super) struct Face {
    /// Name of its file; of a collection, with the index of the font: `name.ttc#1`. Other files of
    /// the same name have a number: `name.ttf~2`.
    pub(super) name: String,
    /// Outlines by character; those that the font lacks are missing.
    pub(super) glyphs: BTreeMap<char, Glyph>,
}

/// All fonts of a run.
pub(super) struct Faces {
    /// Sorted by name.
    pub(super) faces: Vec<Face>,
    /// SHA-256 of the names and contents of the files, in hexadecimal.
    pub(super) digest: String,
    /// Messages about files that are no fonts.
    pub(super) warnings: Vec<String>,
}

/// Properties of outlines when they become polygons, in em.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flattening {
    /// Greatest distance of a curve from its polygon.
    pub(super) tolerance: f32,
    /// Greatest length of a segment.
    pub(super) longest: f32,
}

impl Faces {
    /// Reads the fonts of `sources`, which are files and folders that are searched at any depth,
    /// without files whose name contains one of `excluded`, in any case. Of files with the same
    /// content, one is read.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `fonts`: a source that does not exist, a file named there that is no
    /// font, or no font at all.
    pub(super) fn read(
        sources: &[PathBuf],
        excluded: &[String],
        characters: &BTreeSet<char>,
        flattening: Flattening,
    ) -> Result<Self, InvalidKey> {
        let mut files = Vec::new();
        for source in sources {
            let metadata = fs::metadata(source).map_err(|error| unreadable(source, &error))?;
            let found = match metadata.is_dir() {
                true => fonts_below(source, MAX_DEPTH)?,
                false => vec![source.clone()],
            };
            files.extend(found.into_iter().map(|path| (path, !metadata.is_dir())));
        }
        let excluded: Vec<String> = excluded.iter().map(|part| part.to_lowercase()).collect();
        files.retain(|(path, _)| {
            let name = name_of(path).to_lowercase();
            !excluded.iter().any(|part| name.contains(part.as_str()))
        });
        // Each file is read, digested and converted by one thread, and its bytes are freed.
        let read = files.into_par_iter().map(|(path, named)| {
            let file = read_file(&path, characters, flattening)?;
            match file.faces {
                None if named => {
                    let message = format!(
                        "has {}, which is not a font: expected a TrueType or OpenType file",
                        path.display()
                    );
                    Err(InvalidKey::new("fonts", message))
                }
                _ => Ok(file),
            }
        });
        let mut files = read.collect::<Result<Vec<FontFile>, InvalidKey>>()?;
        // Sorted by name and content, so that neither the order of folders nor their place matters.
        files.sort_by(|a, b| (&a.name, &a.digest).cmp(&(&b.name, &b.digest)));
        let mut seen = BTreeSet::new();
        files.retain(|file| seen.insert(file.digest.clone()));
        Self::combine(files)
    }

    fn combine(files: Vec<FontFile>) -> Result<Self, InvalidKey> {
        let (mut faces, mut broken) = (Vec::new(), Vec::new());
        let mut hasher = Sha256::new();
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        for file in files {
            let Some(fonts) = file.faces else {
                broken.push(file.path);
                continue;
            };
            hasher.update(format!("{}\0{}\n", file.name, file.digest));
            let count = names.entry(file.name.clone()).or_default();
            *count += 1;
            let suffix = match *count {
                1 => String::new(),
                count => format!("~{count}"),
            };
            for (index, glyphs) in fonts.into_iter().enumerate() {
                let index = match index {
                    0 => String::new(),
                    index => format!("#{index}"),
                };
                let name = format!("{}{suffix}{index}", file.name);
                faces.push(Face { name, glyphs });
            }
        }
        if faces.is_empty() {
            let message = "has no fonts: expected files with the extension ttf, otf, ttc or otc, \
                           or folders of them";
            return Err(InvalidKey::new("fonts", message));
        }
        faces.sort_by(|a, b| a.name.cmp(&b.name));
        let mut warnings = Vec::new();
        if let Some(first) = broken.first() {
            warnings.push(format!(
                "model.fonts: {} of the files are not fonts that can be read and are left out, \
                 such as {}",
                broken.len(),
                first.display()
            ));
        }
        Ok(Self {
            faces,
            digest: hex::encode(&hasher.finalize()),
            warnings,
        })
    }

    /// Returns the index of the face with this name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        let found = self
            .faces
            .binary_search_by(|face| face.name.as_str().cmp(name));
        found.ok()
    }
}

/// A file, and its fonts unless it cannot be read as one.
struct FontFile {
    path: PathBuf,
    name: String,
    digest: String,
    faces: Option<Vec<BTreeMap<char, Glyph>>>,
}

fn read_file(
    path: &Path,
    characters: &BTreeSet<char>,
    flattening: Flattening,
) -> Result<FontFile, InvalidKey> {
    let length = fs::metadata(path)
        .map_err(|error| unreadable(path, &error))?
        .len();
    if length > MAX_BYTES {
        let message = format!(
            "has {} of {length} bytes: expected at most {MAX_BYTES}",
            path.display()
        );
        return Err(InvalidKey::new("fonts", message));
    }
    let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
    Ok(FontFile {
        path: path.to_owned(),
        name: name_of(path),
        digest: hex::encode(&Sha256::digest(&bytes)),
        faces: faces_of(bytes, characters, flattening),
    })
}

/// Returns the glyphs of each font in a file; `None` if one cannot be read or has no outlines.
fn faces_of(
    bytes: Vec<u8>,
    characters: &BTreeSet<char>,
    flattening: Flattening,
) -> Option<Vec<BTreeMap<char, Glyph>>> {
    let Some(Format::Sfnt(count)) = Format::new(&bytes) else {
        return None;
    };
    let source = skrifa::font::Source::from(bytes);
    let face = |index| {
        let font = Font::new(source.clone(), index)?;
        let outlines = FontOutlines::new(&font, flattening.tolerance, flattening.longest)?;
        let glyphs = characters
            .iter()
            .filter_map(|character| Some((*character, outlines.glyph(*character)?)));
        Some(glyphs.collect())
    };
    (0..count).map(face).collect()
}

/// Lists the font files below a folder.
fn fonts_below(folder: &Path, depth: usize) -> Result<Vec<PathBuf>, InvalidKey> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        if path.is_dir() {
            // A link to a folder above would otherwise be followed for ever.
            if depth > 0 {
                found.extend(fonts_below(&path, depth - 1)?);
            }
            continue;
        }
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
            && path.is_file()
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn unreadable(path: &Path, error: &std::io::Error) -> InvalidKey {
    let message = format!("cannot read {}: {error}", path.display());
    InvalidKey::new("fonts", message)
}
