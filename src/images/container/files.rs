//! Finds the files of a container, and words the errors about them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::images::error::ImagesError;

/// Usual names of splits.
const SPLITS: [&str; 6] = ["dev", "test", "train", "val", "valid", "validation"];

/// Lists the files below `root` that `wanted` selects by their names, sorted by path. Folders are
/// read recursively, each once; hidden files and folders are passed over. If `root` is a file, it
/// is the only one.
///
/// With a `split`, the files are those in a folder of that name, and those whose names begin with
/// it, followed by a character that `separates` accepts.
///
/// # Errors
/// [`ImagesError::Read`] if a folder cannot be read, [`ImagesError::Duplicate`] if links lead to
/// one file twice, and [`ImagesError::Container`] if there is no such file.
pub(super) fn list(
    root: &Path,
    split: Option<&str>,
    separates: fn(char) -> bool,
    wanted: fn(&str) -> bool,
    expected: &str,
) -> Result<Vec<PathBuf>, ImagesError> {
    if !fs::metadata(root).map_err(read_error(root))?.is_dir() {
        refuse_split(root, split)?;
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![(root.to_owned(), split.is_none())];
    let mut visited = HashSet::new();
    while let Some((folder, of_split)) = folders.pop() {
        if !visited.insert(folder.canonicalize().map_err(read_error(&folder))?) {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(read_error(&folder))? {
            let path = entry.map_err(read_error(&folder))?.path();
            // A name that is not UTF-8 is not one of those that are looked for.
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            let begins = |split: &str| {
                let rest = name.strip_prefix(split);
                rest.is_some_and(|rest| rest.starts_with(separates))
            };
            // A link may lead to a folder or a file; one that leads nowhere is neither.
            match fs::metadata(&path) {
                Ok(kind) if kind.is_dir() => {
                    let of_split = of_split || Some(name) == split;
                    folders.push((path, of_split));
                }
                Ok(kind) if kind.is_file() && wanted(name) => {
                    if of_split || split.is_some_and(begins) {
                        found.push(path);
                    }
                }
                Ok(_) => {}
                Err(error) if wanted(name) => return Err(read_error(&path)(error)),
                Err(_) => {}
            }
        }
    }
    found.sort();
    if found.is_empty() {
        let of_split = split.map_or_else(String::new, |split| format!(" of the split `{split}`"));
        return Err(fault(
            root,
            format!("no files{of_split}: expected {expected}"),
        ));
    }
    refuse_duplicates(&found)?;
    if split.is_none() {
        refuse_several_splits(root, &found)?;
    }
    Ok(found)
}

/// Refuses files that are named after several splits: a data set whose test images take part by
/// mistake cannot be evaluated any more.
fn refuse_several_splits(root: &Path, files: &[PathBuf]) -> Result<(), ImagesError> {
    let split_of = |file: &PathBuf| {
        let path = file.strip_prefix(root).ok()?;
        let mut names = path.iter().filter_map(|name| name.to_str());
        names.find_map(|name| {
            let word = name.split(|c: char| !c.is_alphanumeric()).next()?;
            SPLITS.iter().find(|split| **split == word)
        })
    };
    let splits: BTreeSet<&str> = files.iter().filter_map(split_of).copied().collect();
    if splits.len() < 2 {
        return Ok(());
    }
    let splits: Vec<&str> = splits.into_iter().collect();
    let message = format!(
        "has files of several splits ({}): expected data.split, such as data.split = \"train\"",
        splits.join(", ")
    );
    Err(fault(root, message))
}

/// Refuses a split of a single file, which would have no effect.
pub(super) fn refuse_split(file: &Path, split: Option<&str>) -> Result<(), ImagesError> {
    match split {
        None => Ok(()),
        Some(split) => Err(fault(
            file,
            format!(
                "data.split = \"{split}\" chooses among the files of a folder, and this is a \
                 file: expected the folder as data.path, or no data.split"
            ),
        )),
    }
}

/// Refuses a file that links reach twice: each of its images would count twice.
pub(super) fn refuse_duplicates(files: &[PathBuf]) -> Result<(), ImagesError> {
    let mut seen = HashMap::with_capacity(files.len());
    for path in files {
        let real = path.canonicalize().map_err(read_error(path))?;
        if let Some(first) = seen.insert(real, path) {
            return Err(ImagesError::Duplicate {
                first: first.clone(),
                second: path.clone(),
            });
        }
    }
    Ok(())
}

/// An error about the content of a file: the fault, and what was expected.
pub(super) fn fault(path: &Path, message: impl Into<String>) -> ImagesError {
    ImagesError::Container {
        path: path.to_owned(),
        message: message.into(),
    }
}

/// Returns a function for `map_err` that names the file.
pub(super) fn read_error(path: &Path) -> impl Fn(io::Error) -> ImagesError {
    |cause| ImagesError::Read {
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path, split: Option<&str>) -> Result<Vec<String>, String> {
        let dash = |c: char| c == '-' || c == '.';
        let files = list(root, split, dash, |name| name.ends_with(".x"), "x files");
        let files = files.map_err(|error| error.to_string())?;
        let relative = files.iter().map(|file| {
            let path = file.strip_prefix(root).unwrap();
            path.to_str().unwrap().replace('\\', "/")
        });
        Ok(relative.collect())
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        root
    }

    #[test]
    fn a_split_is_a_folder_or_the_beginning_of_a_name() {
        let root = folder(&[
            "data/train-1.x",
            "data/train-0.x",
            "train.x",
            "data/test-0.x",
            "training-0.x",
            "train/deep/0.x",
            "train-0.y",
            ".cache/train-0.x",
            "__MACOSX/train-0.x",
        ]);
        assert_eq!(
            names(root.path(), Some("train")).unwrap(),
            [
                "data/train-0.x",
                "data/train-1.x",
                "train/deep/0.x",
                "train.x"
            ]
        );
        let error = names(root.path(), None).unwrap_err();
        assert!(error.contains("several splits (test, train)"), "{error}");
        let one = folder(&["data/train-1.x", "other.x", "contest/0.x"]);
        assert_eq!(names(one.path(), None).unwrap().len(), 3);
        let error = names(root.path(), Some("val")).unwrap_err();
        assert!(
            error.contains("`val`") && error.contains("x files"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_to_one_file_are_refused_and_loops_end() {
        let root = folder(&["a.x"]);
        std::os::unix::fs::symlink(root.path(), root.path().join("loop")).unwrap();
        assert_eq!(names(root.path(), None).unwrap(), ["a.x"]);
        std::os::unix::fs::symlink(root.path().join("a.x"), root.path().join("b.x")).unwrap();
        let error = names(root.path(), None).unwrap_err();
        assert!(error.contains("a.x") && error.contains("b.x"), "{error}");
    }
}
