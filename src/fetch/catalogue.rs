//! The catalogue of items: sources, checksums and destinations.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::FetchError;
use crate::sections::InvalidKey;

/// Text of the built-in catalogue.
const BUILT_IN: &str = include_str!("catalogue.toml");

/// All items that can be fetched, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    items: Vec<Item>,
}

/// An item that can be fetched by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Name on the command line.
    pub name: String,
    /// One-line description.
    pub what: String,
    /// License, as its authors state it.
    pub license: String,
    /// Source and destination.
    pub content: Content,
}

/// Source and destination of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One file, installed unchanged.
    File(Remote),
    /// An archive that is converted to folders of images.
    Archive {
        /// Layout of the archive.
        layout: Layout,
        /// Source of the archive.
        remote: Remote,
        /// Largest accepted unpacked size in bytes.
        unpacked: u64,
        /// Folders that are created from it.
        folders: Vec<Folder>,
    },
    /// An archive that the user has to download.
    Manual {
        /// Page with the download.
        page: String,
        /// Path at which the user has to save it.
        to: PathBuf,
        /// Largest accepted unpacked size in bytes.
        unpacked: u64,
        /// Folders that are created from it.
        folders: Vec<Folder>,
    },
    /// Files of a repository of the hub.
    Hub(Hub),
}

/// Layout of an archive of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The binary version of CIFAR-10.
    Cifar10,
    /// Camelyon17 as the wilds package downloads it.
    Camelyon17,
}

/// A file at an HTTP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Address.
    pub url: String,
    /// Destination below the root.
    pub to: PathBuf,
    /// Exact length in bytes.
    pub size: Option<u64>,
    /// Approximate length in bytes.
    pub about: u64,
    /// SHA-256 in lower-case hexadecimal, if its authors publish one.
    pub sha256: Option<String>,
}

/// A folder of images.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// Destination below the root.
    pub path: PathBuf,
    /// Name of the split in the archive.
    pub split: String,
    /// Number of images.
    pub images: usize,
}

/// Files of a repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// `owner/name`.
    pub repo: String,
    /// Commit.
    pub revision: String,
    /// Alternative names per file; the first one that exists is used.
    pub files: Vec<Vec<String>>,
    /// Approximate total size in bytes.
    pub about: Option<u64>,
}

/// An item that provides a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueMatch<'c> {
    /// Item of the catalogue.
    pub item: &'c Item,
    /// Folder of the item at the path; `None` for a file.
    pub folder: Option<&'c Folder>,
    /// Root to which the destination is relative; empty for the current folder.
    pub root: PathBuf,
}

impl Catalogue {
    /// Parses the built-in catalogue.
    ///
    /// # Errors
    /// [`FetchError::Catalogue`]; a test checks that there is none.
    pub fn built_in() -> Result<Self, FetchError> {
        Self::parse("the built-in catalogue", BUILT_IN)
    }

    /// Parses a catalogue.
    ///
    /// # Errors
    /// [`FetchError::Catalogue`] with the item and the key.
    pub fn parse(place: &str, text: &str) -> Result<Self, FetchError> {
        let wrong = |message: String| FetchError::Catalogue {
            place: place.to_owned(),
            message,
        };
        let table: Table = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let mut items = Vec::new();
        let (mut names, mut places) = (HashSet::new(), HashSet::new());
        for entry in table.item {
            let name = entry.name.clone();
            let item = entry
                .check()
                .map_err(|error| wrong(format!("item `{name}`: {error}")))?;
            if !names.insert(name.clone()) {
                return Err(wrong(format!("item `{name}` is there twice")));
            }
            for path in item.places() {
                if !places.insert(path.to_owned()) {
                    let path = path.display();
                    return Err(wrong(format!(
                        "item `{name}`: {path} belongs to another item already"
                    )));
                }
            }
            items.push(item);
        }
        Ok(Self { items })
    }

    /// Returns all items.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Returns the item of this name.
    ///
    /// # Errors
    /// [`FetchError::Unknown`] with the known names.
    pub fn get(&self, name: &str) -> Result<&Item, FetchError> {
        let found = self.items.iter().find(|item| item.name == name);
        found.ok_or_else(|| FetchError::Unknown {
            name: name.to_owned(),
            known: self.items.iter().map(|item| item.name.clone()).collect(),
        })
    }

    /// Finds the item that provides `path` below any root.
    #[must_use]
    pub fn find_by_path(&self, path: &Path) -> Option<CatalogueMatch<'_>> {
        self.items.iter().find_map(|item| {
            let maker = |folder, root| CatalogueMatch { item, folder, root };
            match &item.content {
                Content::File(remote) => root_of(path, &remote.to).map(|root| maker(None, root)),
                Content::Archive { folders, .. } | Content::Manual { folders, .. } => {
                    folders.iter().find_map(|folder| {
                        let root = root_of(path, &folder.path)?;
                        Some(maker(Some(folder), root))
                    })
                }
                Content::Hub(_) => None,
            }
        })
    }
}

impl Item {
    /// Returns all paths that the item owns.
    fn places(&self) -> Vec<&Path> {
        match &self.content {
            Content::File(remote) => vec![&remote.to],
            Content::Archive {
                remote: Remote { to, .. },
                folders,
                ..
            }
            | Content::Manual { to, folders, .. } => {
                let folders = folders.iter().map(|folder| folder.path.as_path());
                folders.chain([to.as_path()]).collect()
            }
            Content::Hub(_) => Vec::new(),
        }
    }

    /// Returns the approximate size of the download in bytes.
    #[must_use]
    pub fn about(&self) -> Option<u64> {
        match &self.content {
            Content::File(remote) | Content::Archive { remote, .. } => Some(remote.about),
            Content::Manual { .. } => None,
            Content::Hub(hub) => hub.about,
        }
    }

    /// Returns the folders that the item creates.
    #[must_use]
    pub fn folders(&self) -> &[Folder] {
        match &self.content {
            Content::Archive { folders, .. } | Content::Manual { folders, .. } => folders,
            Content::File(_) | Content::Hub(_) => &[],
        }
    }
}

/// Returns the part of `path` before `to`; `None` if `path` does not end with `to`.
fn root_of(path: &Path, to: &Path) -> Option<PathBuf> {
    let here = |part: &Component<'_>| !matches!(part, Component::CurDir);
    let mut root: Vec<Component<'_>> = path.components().filter(here).collect();
    for part in to.components().rev() {
        if root.pop() != Some(part) {
            return None;
        }
    }
    Some(root.iter().collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    item: Vec<Entry>,
}

/// An item as in the TOML file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    kind: String,
    what: String,
    // Catalogues of earlier versions have the British spelling.
    #[serde(alias = "licence")]
    license: String,
    url: Option<String>,
    to: Option<PathBuf>,
    size: Option<u64>,
    about: Option<u64>,
    sha256: Option<String>,
    unpacked: Option<u64>,
    #[serde(default)]
    makes: Vec<Folder>,
    repo: Option<String>,
    revision: Option<String>,
    #[serde(default)]
    files: Vec<Vec<String>>,
}

impl Entry {
    fn check(self) -> Result<Item, InvalidKey> {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        if !self.name.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !self.name.chars().all(letters)
        {
            let message = "expected small letters, digits, `-`, `.` and `_`";
            return Err(InvalidKey::new("name", message));
        }
        let allowed: &[&str] = match self.kind.as_str() {
            "file" => &["url", "to", "size", "about", "sha256"],
            "cifar10" | "camelyon17" => {
                &["url", "to", "size", "about", "sha256", "unpacked", "makes"]
            }
            "cats" => &["url", "to", "unpacked", "makes"],
            "hub" => &["repo", "revision", "files", "about"],
            other => {
                let message =
                    format!("`{other}` is none of file, hub, cifar10, camelyon17 and cats");
                return Err(InvalidKey::new("kind", message));
            }
        };
        for (key, given) in [
            ("url", self.url.is_some()),
            ("to", self.to.is_some()),
            ("size", self.size.is_some()),
            ("about", self.about.is_some()),
            ("sha256", self.sha256.is_some()),
            ("unpacked", self.unpacked.is_some()),
            ("makes", !self.makes.is_empty()),
            ("repo", self.repo.is_some()),
            ("revision", self.revision.is_some()),
            ("files", !self.files.is_empty()),
        ] {
            let optional = matches!(key, "size" | "about" | "sha256");
            match (allowed.contains(&key), given) {
                (false, true) => {
                    return Err(InvalidKey::new(
                        key,
                        format!("does not go with kind {}", self.kind),
                    ));
                }
                (true, false) if !optional => return Err(InvalidKey::new(key, "missing")),
                _ => {}
            }
        }
        let content = match self.kind.as_str() {
            "file" => Content::File(self.remote()?),
            "cifar10" => self.archive(Layout::Cifar10, &["train", "test"])?,
            "camelyon17" => {
                self.archive(Layout::Camelyon17, &["train", "id_val", "val", "test"])?
            }
            "cats" => Content::Manual {
                page: self.address()?,
                to: self.destination()?,
                unpacked: self.unpacked.unwrap_or_default(),
                folders: self.folders(None)?,
            },
            _ => Content::Hub(self.hub()?),
        };
        Ok(Item {
            name: self.name,
            what: self.what,
            license: self.license,
            content,
        })
    }

    fn archive(&self, layout: Layout, splits: &[&str]) -> Result<Content, InvalidKey> {
        Ok(Content::Archive {
            layout,
            remote: self.remote()?,
            unpacked: self.unpacked.unwrap_or_default(),
            folders: self.folders(Some(splits))?,
        })
    }

    fn remote(&self) -> Result<Remote, InvalidKey> {
        let Some(about) = self.size.or(self.about) else {
            return Err(InvalidKey::new("size", "missing: expected this or `about`"));
        };
        if let Some(digest) = &self.sha256
            && !(digest.len() == 64
                && digest
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        {
            let message = "expected 64 hexadecimal digits, small letters";
            return Err(InvalidKey::new("sha256", message));
        }
        Ok(Remote {
            url: self.address()?,
            to: self.destination()?,
            size: self.size,
            about,
            sha256: self.sha256.clone(),
        })
    }

    fn address(&self) -> Result<String, InvalidKey> {
        let url = self.url.clone().unwrap_or_default();
        super::mirrors::check_address(&url).map_err(|message| InvalidKey::new("url", message))?;
        Ok(url)
    }

    fn destination(&self) -> Result<PathBuf, InvalidKey> {
        let to = self.to.clone().unwrap_or_default();
        below(&to).map_err(|message| InvalidKey::new("to", message))?;
        Ok(to)
    }

    fn folders(&self, splits: Option<&[&str]>) -> Result<Vec<Folder>, InvalidKey> {
        let mut seen = HashSet::new();
        for folder in &self.makes {
            below(&folder.path).map_err(|message| InvalidKey::new("makes.path", message))?;
            let split = folder.split.as_str();
            if splits.is_some_and(|known| !known.contains(&split)) || !seen.insert(split) {
                let message = format!("`{split}` is not a split of the archive, or is there twice");
                return Err(InvalidKey::new("makes.split", message));
            }
            if folder.images == 0 {
                return Err(InvalidKey::new("makes.images", "is 0"));
            }
        }
        Ok(self.makes.clone())
    }

    fn hub(&self) -> Result<Hub, InvalidKey> {
        let revision = self.revision.clone().unwrap_or_default();
        if revision.len() != 40 || !revision.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = "expected a commit of 40 digits: tags and branches can move";
            return Err(InvalidKey::new("revision", message));
        }
        let plain = |name: &String| below(Path::new(name)).is_ok();
        if !self
            .files
            .iter()
            .all(|names| !names.is_empty() && names.iter().all(plain))
        {
            let message = "expected lists of names inside the repository";
            return Err(InvalidKey::new("files", message));
        }
        Ok(Hub {
            repo: self.repo.clone().unwrap_or_default(),
            revision,
            files: self.files.clone(),
            about: self.about,
        })
    }
}

/// Refuses a path that leaves the root.
fn below(path: &Path) -> Result<(), String> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.file_name().is_none() || path.to_str().is_none() || !path.components().all(plain) {
        return Err(format!(
            "{} is no plain path below the root",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Catalogue, FetchError> {
        Catalogue::parse("test", text)
    }

    #[test]
    fn the_built_in_catalogue_has_everything_that_is_documented() {
        let catalogue = Catalogue::built_in().unwrap();
        let names: Vec<&str> = catalogue.items().iter().map(|i| i.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "cifar10",
                "camelyon17",
                "cats",
                "improved-diffusion-imagenet64",
                "inception",
                "clip-vit-b-32",
                "dinov2-small",
                "dinov2-base",
                "dinov2-large",
                "dinov2-giant",
                "dinov2-with-registers-small",
                "dinov2-with-registers-base",
                "dinov2-with-registers-large",
                "dinov2-with-registers-giant",
                "stable-diffusion-v1-4"
            ]
        );
        for item in catalogue.items() {
            if let Content::File(remote) | Content::Archive { remote, .. } = &item.content {
                // What nobody vouches for is at least not changed on the way.
                assert!(remote.url.starts_with("https://"), "{}", item.name);
            }
        }
    }

    #[test]
    fn paths_lead_back_to_their_items() {
        let catalogue = Catalogue::built_in().unwrap();
        let found = |path: &str| {
            let maker = catalogue.find_by_path(Path::new(path))?;
            let split = maker.folder.map(|folder| folder.split.as_str());
            let root = maker.root.to_str().unwrap().to_owned();
            Some((maker.item.name.as_str(), split, root))
        };
        let expected = |name, split, root: &str| Some((name, split, root.to_owned()));
        assert_eq!(
            found("data/cifar10_train"),
            expected("cifar10", Some("train"), "")
        );
        assert_eq!(
            found("./data//cifar10_test/"),
            expected("cifar10", Some("test"), "")
        );
        assert_eq!(
            found("/x/y/data/cookie"),
            expected("cats", Some("cookie"), "/x/y")
        );
        let weights = "weights/imagenet64_cond_270M_250K.pt";
        assert_eq!(
            found(weights),
            expected("improved-diffusion-imagenet64", None, "")
        );
        for other in [
            "cifar10_train",
            "mydata/cifar10_train",
            "data/cifar10_train/a",
            "data",
            "",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let good = "[[item]]\nname='a'\nkind='file'\nwhat='w'\nlicense='l'\nurl='https://h/f'\nto='weights/f'\nsize=3\n";
        assert!(parse(good).is_ok());
        let hub = "[[item]]\nname='h'\nkind='hub'\nwhat='w'\nlicense='l'\nrepo='o/n'\nrevision='0123456789012345678901234567890123456789'\nfiles=[['a/b']]\n";
        assert!(parse(hub).is_ok());
        for (text, expected) in [
            (good.replace("'weights/f'", "'../f'"), "to"),
            (good.replace("'weights/f'", "'/f'"), "to"),
            (good.replace("https://h/f", "ftp://h/f"), "url"),
            (good.replace("https://h/f", "https://me:secret@h/f"), "url"),
            (good.replace("size=3", "sha256='abc'\nsize=3"), "sha256"),
            (good.replace("size=3", ""), "size"),
            (good.replace("size=3", "size=-3"), "size"),
            (good.replace("'file'", "'zip'"), "kind"),
            (good.replace("'a'", "'A b'"), "name"),
            (format!("{good}unknown=1\n"), "unknown"),
            (format!("{good}repo='o/n'\n"), "repo"),
            (format!("{good}{good}"), "twice"),
            (
                format!("{good}{}", good.replace("'a'", "'b'")),
                "another item",
            ),
            (
                hub.replace("'0123456789012345678901234567890123456789'", "'main'"),
                "revision",
            ),
            (hub.replace("a/b", "../b"), "files"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(
                error.contains(expected) && !error.contains("secret"),
                "{expected}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_panics_or_leads_out(to in "[./a-z\\\\]{0,12}", url in "[ -~]{0,20}", size in any::<u64>()) {
            let quoted = |text: &str| toml::Value::from(text).to_string();
            let text = format!(
                "[[item]]\nname='a'\nkind='file'\nwhat='w'\nlicense='l'\nurl={}\nto={}\nsize={size}\n",
                quoted(&url), quoted(&to)
            );
            if let Ok(catalogue) = parse(&text) {
                let [item] = catalogue.items() else { panic!("one item") };
                let Content::File(remote) = &item.content else { panic!("a file") };
                prop_assert!(remote.to.components().all(|c| matches!(c, Component::Normal(_))));
            }
        }

        #[test]
        fn every_path_below_a_root_leads_back(root in "(/?[a-z]{1,3}){0,3}") {
            let catalogue = Catalogue::built_in().unwrap();
            for item in catalogue.items() {
                for folder in item.folders() {
                    let path = Path::new(&root).join(&folder.path);
                    let maker = catalogue.find_by_path(&path).unwrap();
                    prop_assert_eq!(maker.folder, Some(folder));
                    prop_assert_eq!(maker.root.join(&folder.path), path);
                }
            }
        }
    }
}
