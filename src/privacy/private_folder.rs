//! The only folder into which sensitive bytes can be written.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::PrivacyError;
use super::fingerprint::Fingerprint;
use super::sensitive::Sensitive;
use crate::atomic;

/// Prefix of files that are not finished yet.
const TEMPORARY: &str = ".tmp";

/// `private/` in a result folder: mode 0700, never published, the door out of [`Sensitive`] that
/// leads nowhere.
///
/// What lies here is as secret as the private images. It holds caches (private embeddings), the
/// private data's fingerprint, and files on their way to publication: a noisy histogram is written
/// here and renamed into place, so that a histogram drawn by a process that was killed half-way is
/// never outside and may be drawn again.
///
/// On systems other than Unix there is no mode to set; the folder then has the permissions that it
/// inherits.
pub struct PrivateFolder {
    path: PathBuf,
}

impl PrivateFolder {
    /// Opens the folder, making it if it is absent, and closes it to everybody but its owner.
    ///
    /// # Errors
    /// [`PrivacyError::PrivateFolder`] when the path is a symbolic link (which could lead to a
    /// place that others read) or no folder, or when the mode cannot be made 0700;
    /// [`PrivacyError::Io`] otherwise.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, PrivacyError> {
        let path = path.into();
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PrivacyError::io("create", &path)(error)),
        }
        close_to_others(&path)?;
        Ok(Self { path })
    }

    /// Where it is. For temporary files of things about to be published; see [`crate::atomic`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a sensitive value to the file `name`, whole or not at all, mode 0600.
    ///
    /// `encode` is a plain function, not a closure: it gets the value and the file and can carry
    /// nothing away.
    ///
    /// # Errors
    /// [`PrivacyError::Config`] when `name` is not a plain file name, [`PrivacyError::Io`] from the
    /// file system.
    pub fn write_sensitive<T>(
        &self,
        name: &str,
        value: &Sensitive<T>,
        encode: fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), PrivacyError> {
        let path = self.file(name)?;
        // Not `atomic::write`, which makes files readable by everybody: a file that is moved out of
        // the folder by hand should stay closed.
        let write = || -> io::Result<()> {
            let mut temporary = NamedTempFile::with_prefix_in(TEMPORARY, &self.path)?;
            {
                let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
                encode(value.expose(), &mut writer)?;
                writer.flush()?;
            }
            temporary.as_file().sync_all()?;
            temporary.persist(&path).map_err(|error| error.error)?;
            atomic::sync_folder(&self.path)
        };
        write().map_err(PrivacyError::io("write", &path))
    }

    /// Reads a file back behind the wall; `None` when there is no such file. (Whether there is one
    /// depends on what was done before, not on what the private images show.)
    ///
    /// # Errors
    /// [`PrivacyError::PrivateFile`] when `decode` fails: of its error only the kind is passed on,
    /// because the message might quote the content.
    pub fn read_back<T>(
        &self,
        name: &str,
        decode: fn(&mut dyn Read) -> io::Result<T>,
    ) -> Result<Option<Sensitive<T>>, PrivacyError> {
        let path = self.file(name)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PrivacyError::io("open", &path)(error)),
        };
        match decode(&mut BufReader::with_capacity(1 << 16, file)) {
            Ok(value) => Ok(Some(Sensitive::new(value))),
            Err(error) => Err(PrivacyError::PrivateFile {
                path,
                kind: error.kind(),
            }),
        }
    }

    /// A folder within this one, as closed as it; what a killed process left unfinished there is removed.
    /// Only for the process that works in this folder alone, as the holder of the ledger does.
    ///
    /// # Errors
    /// As [`PrivateFolder::create`], and [`PrivacyError::Config`] when `name` is not a plain name.
    pub fn inside(&self, name: &str) -> Result<Self, PrivacyError> {
        let folder = Self::create(self.file(name)?)?;
        folder.remove_leftovers()?;
        Ok(folder)
    }

    /// [`PrivateFolder::write_sensitive`] to a file whose name is `name` and the fingerprint of what the
    /// value was made of.
    ///
    /// # Errors
    /// As there.
    pub fn write_keyed<T>(
        &self,
        name: &str,
        key: &Sensitive<Fingerprint>,
        value: &Sensitive<T>,
        encode: fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), PrivacyError> {
        self.write_sensitive(&keyed(name, key), value, encode)
    }

    /// Reads back what [`PrivateFolder::write_keyed`] wrote for the same data. Whether there is something
    /// depends, as there, on what was done before with these data.
    ///
    /// # Errors
    /// As [`PrivateFolder::read_back`].
    pub fn read_keyed<T>(
        &self,
        name: &str,
        key: &Sensitive<Fingerprint>,
        decode: fn(&mut dyn Read) -> io::Result<T>,
    ) -> Result<Option<Sensitive<T>>, PrivacyError> {
        self.read_back(&keyed(name, key), decode)
    }

    /// Opens `log.txt` in this folder for appending, with mode 0600, and creates it if necessary.
    ///
    /// # Errors
    /// [`PrivacyError::Io`] from the file system.
    pub(crate) fn open_log(&self) -> Result<File, PrivacyError> {
        let path = self.file("log.txt")?;
        let mut options = fs::OpenOptions::new();
        options.create(true).read(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path).map_err(PrivacyError::io("open", &path))
    }

    /// Stores the fingerprint of the private data.
    pub(super) fn write_fingerprint(
        &self,
        name: &str,
        present: &Sensitive<Fingerprint>,
    ) -> Result<(), PrivacyError> {
        self.write_sensitive(name, present, |fingerprint, file| {
            file.write_all(&fingerprint.0)
        })
    }

    /// Whether the present private data are those whose fingerprint is stored under `name`; `None`
    /// when none is stored.
    ///
    /// This bool leaves the wall without noise. It may: it is `true` whatever the private images
    /// show, as long as the operator gives the same ones. `false` says that the *operator* changed
    /// the data between two commands, who knows that already; the command then stops, so it
    /// reaches nothing that is published. A difference between two neighbouring data sets never
    /// shows in it, because each run compares a data set with itself.
    ///
    /// # Errors
    /// As [`PrivateFolder::read_back`].
    pub fn fingerprint_matches(
        &self,
        name: &str,
        present: &Sensitive<Fingerprint>,
    ) -> Result<Option<bool>, PrivacyError> {
        let stored = self.read_back(name, |file| {
            let mut bytes = [0u8; 32];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        });
        let stored = stored.map_err(|error| match error {
            // Unlike a cache, it cannot be made again: the data of the present cannot vouch for those
            // of the past.
            PrivacyError::PrivateFile { path, kind } => PrivacyError::PrivateData {
                message: format!(
                    "{} is damaged ({kind}): put it back from a copy, or use another output folder",
                    path.display()
                ),
            },
            other => other,
        })?;
        Ok(stored.map(|stored| *stored.expose() == present.expose().0))
    }

    /// Removes what a killed process left unfinished, above all a noisy histogram that was drawn
    /// and never published. Only the holder of the ledger's lock may, hence not public.
    pub(super) fn remove_leftovers(&self) -> Result<(), PrivacyError> {
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                let unfinished = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
                if unfinished && entry.file_type()?.is_file() {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(PrivacyError::io("remove unfinished files from", &self.path))
    }

    fn file(&self, name: &str) -> Result<PathBuf, PrivacyError> {
        let mut components = Path::new(name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(file)), None)
                if file == name && !name.starts_with(TEMPORARY) =>
            {
                Ok(self.path.join(name))
            }
            _ => Err(PrivacyError::config(
                "private file",
                format!("`{name}` is not a plain file name"),
            )),
        }
    }
}

/// A file's name. The fingerprint stays in the folder: the name is used for nothing else.
fn keyed(name: &str, key: &Sensitive<Fingerprint>) -> String {
    let mut name = format!("{name}-");
    for byte in key.expose().0 {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Refuses a symbolic link, then sets the mode 0700 through the open folder (so that the path
/// cannot be exchanged in between) and checks that the file system kept it.
#[cfg(unix)]
fn close_to_others(path: &Path) -> Result<(), PrivacyError> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let refuse = |message: String| PrivacyError::PrivateFolder {
        path: path.to_owned(),
        message,
    };
    let examine = PrivacyError::io("examine", path);
    let (itself, folder, target) = match (|| {
        let itself = fs::symlink_metadata(path)?;
        let folder = File::open(path)?;
        let target = folder.metadata()?;
        Ok((itself, folder, target))
    })() {
        Ok(found) => found,
        Err(error) => return Err(examine(error)),
    };
    if itself.file_type().is_symlink()
        || (itself.dev(), itself.ino()) != (target.dev(), target.ino())
    {
        return Err(refuse("is a symbolic link; expected a folder".to_owned()));
    }
    if !target.is_dir() {
        return Err(refuse("is not a folder".to_owned()));
    }
    if target.permissions().mode() & 0o777 != 0o700 {
        folder
            .set_permissions(fs::Permissions::from_mode(0o700))
            .map_err(PrivacyError::io("set the mode of", path))?;
    }
    let mode = folder
        .metadata()
        .map_err(PrivacyError::io("examine", path))?
        .permissions()
        .mode();
    if mode & 0o777 != 0o700 {
        return Err(refuse(format!(
            "has mode {:04o} and this file system does not let it be 0700",
            mode & 0o7777
        )));
    }
    Ok(())
}

#[cfg(not(unix))]
fn close_to_others(path: &Path) -> Result<(), PrivacyError> {
    let found = fs::symlink_metadata(path).map_err(PrivacyError::io("examine", path))?;
    if found.is_dir() {
        Ok(())
    } else {
        Err(PrivacyError::PrivateFolder {
            path: path.to_owned(),
            message: "is not a folder".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As an encoder of `Sensitive<Vec<f32>>`, it must take what is behind the wall.
    #[allow(clippy::ptr_arg)]
    fn encode(values: &Vec<f32>, file: &mut dyn Write) -> io::Result<()> {
        values
            .iter()
            .try_for_each(|value| file.write_all(&value.to_le_bytes()))
    }

    fn decode(file: &mut dyn Read) -> io::Result<Vec<f32>> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if bytes.len() % 4 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("secret {bytes:?}"),
            ));
        }
        let number = |chunk: &[u8]| f32::from_le_bytes(chunk.try_into().unwrap());
        Ok(bytes.chunks_exact(4).map(number).collect())
    }

    #[test]
    fn values_come_back_behind_the_wall() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        assert!(folder.read_back("e.bin", decode).unwrap().is_none());
        let value = Sensitive::new(vec![1.5f32, -2.0]);
        folder.write_sensitive("e.bin", &value, encode).unwrap();
        let back = folder.read_back("e.bin", decode).unwrap().unwrap();
        assert_eq!(back.expose(), &[1.5, -2.0]);
    }

    #[test]
    fn a_damaged_file_is_not_quoted() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        fs::write(folder.path().join("e.bin"), [7, 7, 7]).unwrap();
        let Err(error) = folder.read_back("e.bin", decode) else {
            panic!("three bytes are no f32");
        };
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn names_cannot_lead_outside() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        let value = Sensitive::new(vec![1.0f32]);
        for name in ["../e", "/e", "a/b", "", ".", "..", "e/", "./e", ".tmpe"] {
            let written = folder.write_sensitive(name, &value, encode);
            assert!(written.is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn fingerprints_tell_equal_from_different() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        let data = |bytes: &[u8]| Sensitive::new(Fingerprint::of([bytes]));
        assert_eq!(folder.fingerprint_matches("f", &data(b"a")).unwrap(), None);
        folder.write_fingerprint("f", &data(b"a")).unwrap();
        let matches = |bytes| folder.fingerprint_matches("f", &data(bytes)).unwrap();
        assert_eq!(matches(b"a"), Some(true));
        assert_eq!(matches(b"b"), Some(false));
    }

    #[test]
    fn keyed_values_are_those_of_their_data_in_a_folder_as_closed() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        assert!(folder.inside("../x").is_err());
        let inside = folder.inside("evaluation").unwrap();
        fs::write(inside.path().join(".tmpXYZ"), "half").unwrap();
        let inside = folder.inside("evaluation").unwrap();
        assert!(!inside.path().join(".tmpXYZ").exists());
        let data = |bytes: &[u8]| Sensitive::new(Fingerprint::of([bytes]));
        let value = Sensitive::new(vec![4.0f32]);
        inside
            .write_keyed("v", &data(b"a"), &value, encode)
            .unwrap();
        let read = |bytes| inside.read_keyed("v", &data(bytes), decode).unwrap();
        assert_eq!(read(b"a").unwrap().expose(), &[4.0]);
        assert!(read(b"b").is_none());
    }

    #[test]
    fn leftovers_go_and_files_stay() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        fs::write(folder.path().join(".tmpXYZ"), "drawn, never published").unwrap();
        fs::write(folder.path().join("kept"), "").unwrap();
        folder.remove_leftovers().unwrap();
        assert!(!folder.path().join(".tmpXYZ").exists());
        assert!(folder.path().join("kept").exists());
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_closed_to_others() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("private");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

        let folder = PrivateFolder::create(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        let value = Sensitive::new(vec![1.0f32]);
        folder.write_sensitive("e", &value, encode).unwrap();
        assert_eq!(mode(&path.join("e")), 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        PrivateFolder::create(&path).unwrap();
        assert_eq!(mode(&path), 0o700);

        let elsewhere = top.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&elsewhere, top.path().join("link")).unwrap();
        assert!(PrivateFolder::create(top.path().join("link")).is_err());
        assert_eq!(mode(&elsewhere), 0o755, "a refused link is not followed");

        fs::write(top.path().join("file"), "").unwrap();
        assert!(PrivateFolder::create(top.path().join("file")).is_err());
        assert!(PrivateFolder::create(top.path().join("absent/private")).is_err());
    }
}
