//! Lists the image files of a folder with their classes.
//!
//! Order and class are those of `dpsda/dataset.py`: the entries of each folder, files and folders
//! alike, are sorted by the bytes of their names, and a folder stands for its contents; the class
//! of a file is its name up to the first `_`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::decode::EXTENSIONS;
use super::error::ImagesError;

/// Contents of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The image files, in order.
    pub files: Vec<PathBuf>,
    /// Number of ignored entries: other files, hidden files and folders, links to folders that were
    /// already read.
    pub ignored: usize,
}

/// Lists the images below `root`. Links are followed, but each folder is read once, so that links
/// cannot form a loop.
///
/// # Errors
/// [`ImagesError::Read`] if a folder cannot be read, and [`ImagesError::Duplicate`] if links lead
/// to one file twice: one image would vote twice, which the sensitivity does not allow.
pub fn list(root: &Path) -> Result<Listing, ImagesError> {
    let mut scan = DirScan::default();
    scan.folder(root)?;
    if scan.links {
        refuse_duplicates(&scan.listing.files)?;
    }
    Ok(scan.listing)
}

#[derive(Default)]
struct DirScan {
    listing: Listing,
    /// Real paths of the folders that were read.
    visited: HashSet<PathBuf>,
    /// True if a link was followed.
    links: bool,
}

impl DirScan {
    fn folder(&mut self, folder: &Path) -> Result<(), ImagesError> {
        let failed = |source| read_error(folder, source);
        if !self.visited.insert(folder.canonicalize().map_err(failed)?) {
            self.listing.ignored += 1;
            return Ok(());
        }
        let mut entries = fs::read_dir(folder)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .map_err(failed)?;
        entries.sort_by(|a, b| {
            let name = |entry: &fs::DirEntry| entry.file_name().into_encoded_bytes();
            name(a).cmp(&name(b))
        });
        for entry in entries {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.listing.ignored += 1;
                continue;
            }
            let failed = |source| read_error(&path, source);
            let mut kind = entry.file_type().map_err(failed)?;
            if kind.is_symlink() {
                self.links = true;
                kind = fs::metadata(&path).map_err(failed)?.file_type();
            }
            if kind.is_dir() {
                self.folder(&path)?;
            } else if kind.is_file() && is_image(&path) {
                self.listing.files.push(path);
            } else {
                self.listing.ignored += 1;
            }
        }
        Ok(())
    }
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn refuse_duplicates(files: &[PathBuf]) -> Result<(), ImagesError> {
    let mut seen = HashMap::with_capacity(files.len());
    for path in files {
        let real = path
            .canonicalize()
            .map_err(|source| read_error(path, source))?;
        if let Some(first) = seen.insert(real, path) {
            return Err(ImagesError::Duplicate {
                first: first.clone(),
                second: path.clone(),
            });
        }
    }
    Ok(())
}

/// Returns the class in a file's name: the part before the first `_`.
///
/// # Errors
/// [`ImagesError::Class`] if there is no `_`, nothing before it, or the name is not UTF-8.
pub fn class_of(path: &Path) -> Result<&str, ImagesError> {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split_once('_'))
        .map(|(class, _)| class)
        .filter(|class| !class.is_empty())
        .ok_or_else(|| ImagesError::Class {
            path: path.to_owned(),
        })
}

fn read_error(path: &Path, source: io::Error) -> ImagesError {
    ImagesError::Read {
        path: path.to_owned(),
        cause: source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        root
    }

    fn names(root: &Path, listing: &Listing) -> Vec<String> {
        let relative = |path: &PathBuf| {
            let path = path.strip_prefix(root).unwrap();
            path.to_str().unwrap().replace('\\', "/")
        };
        listing.files.iter().map(relative).collect()
    }

    #[test]
    fn nested_folders_stand_in_the_place_of_their_name() {
        let root = folder(&[
            "b_1.png",
            "a/z_1.JPG",
            "a/a/y_2.gif",
            "B_2.jpeg",
            "c.txt",
            ".hidden_1.png",
            "a.png",
            "a0/x_9.png",
            ".git/q_1.png",
            "noextension",
        ]);
        let listing = list(root.path()).unwrap();
        assert_eq!(
            names(root.path(), &listing),
            [
                "B_2.jpeg",
                "a/a/y_2.gif",
                "a/z_1.JPG",
                "a.png",
                "a0/x_9.png",
                "b_1.png"
            ]
        );
        assert_eq!(listing.ignored, 4);
    }

    #[test]
    fn the_class_ends_at_the_first_underscore() {
        assert_eq!(class_of(Path::new("x/a b_c_1.png")).unwrap(), "a b");
        for bad in ["x_y/plain.png", "_1.png", "plain.png"] {
            assert!(class_of(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = list(Path::new("no/such/folder")).unwrap_err().to_string();
        assert!(error.contains("no/such/folder"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_never_loop() {
        use std::os::unix::fs::symlink;
        let outside = folder(&["a_1.png"]);
        let root = folder(&["b_1.png"]);
        symlink(outside.path().join("a_1.png"), root.path().join("a_2.png")).unwrap();
        symlink(root.path(), root.path().join("loop")).unwrap();
        let listing = list(root.path()).unwrap();
        assert_eq!(names(root.path(), &listing), ["a_2.png", "b_1.png"]);
        assert_eq!(listing.ignored, 1);
    }

    #[cfg(unix)]
    #[test]
    fn one_file_under_two_names_is_refused() {
        let root = folder(&["a_1.png"]);
        let (first, second) = (root.path().join("a_1.png"), root.path().join("a_2.png"));
        std::os::unix::fs::symlink(&first, &second).unwrap();
        let error = list(root.path()).unwrap_err().to_string();
        assert!(
            error.contains("a_1.png") && error.contains("a_2.png"),
            "{error}"
        );
    }
}
