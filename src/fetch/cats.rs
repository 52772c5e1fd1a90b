//! Converts the archive of the paper's cats, which the user downloads, to folders of photos.
//!
//! The vendor's `.zip` has the folders `cookie` and `doudou`. Photos keep their names, as in the
//! reference implementation.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rayon::prelude::*;
use zip::ZipArchive;

use super::archive::ArchiveError;
use super::error::FetchError;
use super::staged_dir::TargetDir;
use crate::images::{DecodeOptions, EXTENSIONS, decode};
use crate::net::{single_line, truncate};
use crate::progress::{Progress, Unit};

/// Largest accepted photo in bytes.
const MAX_PHOTO: u64 = 1 << 27;
/// Largest accepted number of entries.
const MAX_ENTRIES: usize = 100_000;
/// Longest accepted name of a photo in bytes.
const MAX_NAME: usize = 120;
/// Photos that are decoded in parallel.
const AT_ONCE: usize = 16;

/// Writes the photos of `archive` into the folders; each is decoded once to verify that it is an
/// image.
///
/// # Errors
/// [`ArchiveError`].
pub(super) fn unpack(
    archive: &Path,
    limit: u64,
    wanted: &[TargetDir],
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    let file = File::open(archive).map_err(FetchError::io(archive))?;
    let mut zip = ZipArchive::new(file).map_err(|error| {
        ArchiveError::Invalid(format!(
            "is not a readable zip archive, or is truncated: {error}"
        ))
    })?;
    if zip.len() > MAX_ENTRIES {
        return Err(ArchiveError::Invalid(format!("has {} entries", zip.len())));
    }
    let size = std::fs::metadata(archive)
        .map_err(FetchError::io(archive))?
        .len();
    progress.begin(
        &format!("unpacking {}", super::download::file_name(archive)),
        Some(size),
        Unit::Bytes,
    );
    let (mut packed, mut left) = (0, limit);
    let mut names = HashSet::new();
    let mut waiting = Vec::new();
    for index in 0..zip.len() {
        let damaged = |error: &dyn Display| {
            ArchiveError::Invalid(format!("entry {index} is damaged: {error}"))
        };
        let entry = zip.by_index(index).map_err(|error| damaged(&error))?;
        packed += entry.compressed_size();
        progress.advance(packed);
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(|error| damaged(&error))?.into_owned();
        let shown = truncate(single_line(&name));
        if entry.is_symlink() || entry.enclosed_name().is_none() {
            let message = format!("`{shown}` is a link or leads out of it");
            return Err(ArchiveError::Invalid(message));
        }
        let Some((wanted, name)) = photo(&name, wanted) else {
            continue;
        };
        // On some file systems the two would be one file.
        if !names.insert((wanted.split.as_str(), name.to_ascii_lowercase())) {
            return Err(ArchiveError::Invalid(format!("holds {shown} twice")));
        }
        let most = left.min(MAX_PHOTO);
        let mut bytes = Vec::new();
        entry
            .take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(&error))?;
        let length = bytes.len() as u64;
        left = left
            .checked_sub(length)
            .filter(|_| length <= most)
            .ok_or_else(|| ArchiveError::Invalid(format!("{shown} has more than {most} bytes")))?;
        waiting.push((wanted, name.to_owned(), bytes));
        if waiting.len() == AT_ONCE {
            write(&mut waiting)?;
        }
    }
    write(&mut waiting)?;
    progress.end();
    enough(wanted)
}

/// Refuses an archive with fewer photos than expected.
fn enough(wanted: &[TargetDir]) -> Result<(), ArchiveError> {
    for wanted in wanted {
        let (found, expected) = (wanted.folder.len(), wanted.images);
        if found < expected {
            let split = &wanted.split;
            return Err(ArchiveError::Invalid(format!(
                "has {found} photos in `{split}`, expected {expected}"
            )));
        }
    }
    Ok(())
}

/// Returns the target folder of an entry and the name of its file.
fn photo<'w, 'n>(entry: &'n str, wanted: &'w [TargetDir]) -> Option<(&'w TargetDir, &'n str)> {
    let mut parts = entry.rsplit('/');
    let name = parts.next()?;
    let folder = parts.next()?;
    let wanted = wanted.iter().find(|wanted| wanted.split == folder)?;
    let (stem, extension) = name.rsplit_once('.')?;
    let known = EXTENSIONS
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known));
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ' | '(' | ')');
    let sound = known
        && !stem.is_empty()
        && !name.starts_with(['.', ' '])
        && name.len() <= MAX_NAME
        && name.chars().all(plain);
    sound.then_some((wanted, name))
}

fn write(waiting: &mut Vec<(&TargetDir, String, Vec<u8>)>) -> Result<(), ArchiveError> {
    waiting.par_drain(..).try_for_each(|(wanted, name, bytes)| {
        decode(&bytes, &DecodeOptions::default())
            .map_err(|error| ArchiveError::Invalid(format!("{}/{name}: {error}", wanted.split)))?;
        Ok(wanted.folder.write(&name, &bytes)?)
    })
}

#[cfg(test)]
mod tests {
    use super::super::staged_dir::StagedDir;
    use super::*;
    use crate::images::{ImageBatch, png};
    use crate::progress::Silent;
    use proptest::prelude::*;
    use std::io::{Cursor, Write};
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn picture(grey: u8) -> Vec<u8> {
        png(&ImageBatch::new(vec![grey; 12], 1, 2, 2).unwrap()).unwrap()
    }

    fn packed(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn unpacked(bytes: &[u8], images: usize, limit: u64) -> Result<Vec<Vec<String>>, String> {
        let root = tempfile::tempdir().unwrap();
        let archive = root.path().join("cats.zip");
        std::fs::write(&archive, bytes).unwrap();
        let wanted: Vec<TargetDir> = ["cookie", "doudou"]
            .iter()
            .map(|split| TargetDir {
                split: (*split).to_owned(),
                images,
                folder: StagedDir::begin(&root.path().join(split)).unwrap(),
            })
            .collect();
        unpack(&archive, limit, &wanted, &Silent)
            .map_err(|problem| problem.about(&archive).to_string())?;
        let finish = |wanted: TargetDir| {
            let folder = root.path().join(&wanted.split);
            wanted.folder.finish("cats", "sum").ok().unwrap();
            super::super::record::names(&folder).unwrap()
        };
        Ok(wanted.into_iter().map(finish).collect())
    }

    #[test]
    fn photos_keep_their_names() {
        let bytes = packed(&[
            ("cookie/IMG_1.png", picture(1)),
            ("cookie/a b (2).PNG", picture(2)),
            ("cookie/notes.txt", b"no photo".to_vec()),
            ("cookie/.DS_Store.png", b"no photo".to_vec()),
            ("archive/doudou/IMG_1.png", picture(3)),
            ("doudou/x.png", picture(4)),
            ("other/y.png", b"not looked at".to_vec()),
        ]);
        let names = unpacked(&bytes, 2, 1 << 20).unwrap();
        assert_eq!(names[0], ["IMG_1.png", "a b (2).PNG"]);
        assert_eq!(names[1], ["IMG_1.png", "x.png"]);
    }

    #[test]
    fn odd_archives_are_refused() {
        let good = [("cookie/a.png", picture(1)), ("doudou/b.png", picture(2))];
        let fails = |bytes: &[u8], limit: u64, expected: &str| {
            let text = unpacked(bytes, 1, limit).unwrap_err();
            assert!(text.contains(expected), "{expected}: {text}");
        };
        let whole = packed(&good);
        assert!(unpacked(&whole, 1, 1 << 20).is_ok());
        fails(&whole[..whole.len() - 30], 1 << 20, "truncated");
        fails(&whole, 20, "more than");
        fails(&packed(&good[..1]), 1 << 20, "0 photos in `doudou`");
        let with = |name: &'static str, bytes: Vec<u8>| {
            let mut all = good.to_vec();
            all.push((name, bytes));
            packed(&all)
        };
        fails(&with("../cookie/c.png", picture(1)), 1 << 20, "leads out");
        fails(&with("x/cookie/A.png", picture(1)), 1 << 20, "twice");
        fails(
            &with("cookie/c.png", b"no image".to_vec()),
            1 << 20,
            "cookie/c.png",
        );
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer
            .add_symlink("cookie/l.png", "/etc/passwd", SimpleFileOptions::default())
            .unwrap();
        fails(&writer.finish().unwrap().into_inner(), 1 << 20, "is a link");
        let bomb = with("cookie/c.png", vec![0; 1 << 22]);
        assert!(bomb.len() < 1 << 16);
        fails(&bomb, 1 << 20, "more than");
    }

    proptest! {
        #[test]
        fn no_entry_leads_out(entry in "[a-zA-Z0-9./\\\\ ]{0,20}") {
            let root = tempfile::tempdir().unwrap();
            let wanted = ["a", ".."].map(|split| TargetDir {
                split: split.to_owned(),
                images: 1,
                folder: StagedDir::begin(&root.path().join("t")).unwrap(),
            });
            if let Some((_, name)) = photo(&entry, &wanted) {
                let mut parts = Path::new(name).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }
    }
}
