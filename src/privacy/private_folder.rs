//! [`PrivateFolder`]: the only folder that receives sensitive bytes.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use super::error::PrivacyError;
use super::fingerprint::Fingerprint;
use super::sensitive::Sensitive;
use crate::{atomic, hex};

/// The prefix of unfinished files, which is that of [`atomic::write_owner_only`].
const TEMPORARY: &str = ".tmp";

/// The folder `private/` in a result folder: mode 0700, never published.
///
/// Its content is as secret as the private images. It holds caches (private embeddings), the
/// fingerprint of the private data, the key of the noise, a copy of the ledger, the log with times,
/// and files before their publication: a noisy histogram is written here, recorded in the ledger,
/// and renamed to its final path.
///
/// Systems other than Unix have no such mode; the folder then has its inherited permissions.
pub struct PrivateFolder {
    path: PathBuf,
}

impl PrivateFolder {
    /// Opens the folder, or creates it, and restricts its access to its owner.
    ///
    /// # Errors
    /// Returns [`PrivacyError::PrivateFolder`] if the path is a symbolic link (whose target other
    /// users might read) or not a folder, or if its mode cannot be set to 0700; otherwise
    /// [`PrivacyError::Io`].
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

    /// Returns the path, for temporary files that precede a publication; see [`crate::atomic`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the place of the noisy histogram of an iteration before its publication.
    pub(crate) fn drawn_votes(&self, iteration: u32) -> PathBuf {
        self.path.join(format!("votes-{iteration}.npz"))
    }

    /// Writes a sensitive value to the file `name`, atomically and with mode 0600.
    ///
    /// `encode` is a plain function and not a closure, so it cannot store the value elsewhere.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Config`] if `name` is not a plain file name, and
    /// [`PrivacyError::Io`] from the file system.
    pub fn write_sensitive<T>(
        &self,
        name: &str,
        value: &Sensitive<T>,
        encode: fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), PrivacyError> {
        let path = self.file(name)?;
        // Mode 0600, so that the file stays closed if it is moved out of the folder by hand.
        atomic::write_owner_only(&path, |file| encode(value.expose(), file))
            .map_err(PrivacyError::io("write", &path))
    }

    /// Reads a sensitive value back; `None` if there is no such file. (The existence of the file
    /// depends on earlier commands, and not on the content of the private images.)
    ///
    /// # Errors
    /// Returns [`PrivacyError::PrivateFile`] if `decode` fails. It contains only the kind of that
    /// error, because the message might quote the content.
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

    /// Opens a folder inside of this one, with the same mode, and deletes unfinished files of a
    /// killed process from it. Only for a process that works in this folder alone, such as the
    /// holder of the ledger.
    ///
    /// # Errors
    /// As [`PrivateFolder::create`], and [`PrivacyError::Config`] if `name` is not a plain name.
    pub fn inside(&self, name: &str) -> Result<Self, PrivacyError> {
        let folder = Self::create(self.file(name)?)?;
        folder.remove_leftovers()?;
        Ok(folder)
    }

    /// Writes a sensitive value like [`PrivateFolder::write_sensitive`], to a file whose name is
    /// `name` followed by the fingerprint of the data from which the value was computed.
    ///
    /// # Errors
    /// As [`PrivateFolder::write_sensitive`].
    pub fn write_keyed<T>(
        &self,
        name: &str,
        key: &Sensitive<Fingerprint>,
        value: &Sensitive<T>,
        encode: fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), PrivacyError> {
        let written = self.write_sensitive(&keyed(name, key), value, encode);
        written.map_err(|error| self.without_key(error, name))
    }

    /// Reads a value back that [`PrivateFolder::write_keyed`] wrote for the same data; `None` if
    /// there is no such file.
    ///
    /// # Errors
    /// As [`PrivateFolder::read_back`].
    pub fn read_keyed<T>(
        &self,
        name: &str,
        key: &Sensitive<Fingerprint>,
        decode: fn(&mut dyn Read) -> io::Result<T>,
    ) -> Result<Option<Sensitive<T>>, PrivacyError> {
        let read = self.read_back(&keyed(name, key), decode);
        read.map_err(|error| self.without_key(error, name))
    }

    /// Replaces the path of a keyed file in an error, which may be shown to anybody, by a pattern
    /// without the fingerprint.
    fn without_key(&self, error: PrivacyError, name: &str) -> PrivacyError {
        let path = self.path.join(format!("{name}-*"));
        match error {
            PrivacyError::Io { action, cause, .. } => PrivacyError::Io {
                action,
                path,
                cause,
            },
            PrivacyError::PrivateFile { kind, .. } => PrivacyError::PrivateFile { path, kind },
            other => other,
        }
    }

    /// Opens `log.txt` in this folder for appending, with mode 0600, and creates it if necessary.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Io`] from the file system.
    pub(crate) fn open_log(&self) -> Result<File, PrivacyError> {
        let path = self.file("log.txt")?;
        let mut options = fs::OpenOptions::new();
        options.create(true).read(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options
            .open(&path)
            .map_err(PrivacyError::io("open", &path))?;
        // A copied folder may have brought the file with a wider mode.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .map_err(PrivacyError::io("set the mode of", &path))?;
        Ok(file)
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

    /// Returns true if the present private data have the fingerprint that is stored under `name`;
    /// `None` if none is stored.
    ///
    /// This result is a plain `bool` without noise, which is permissible: it is `true` for every
    /// content of the private images as long as the operator provides the same ones. `false` says
    /// that the *operator* changed the data between two commands, a fact that the operator knows;
    /// the command then stops and publishes nothing. The result never depends on the difference
    /// between two neighboring data sets, because each run compares a data set with itself.
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
            // Unlike a cache, the fingerprint cannot be computed again: the present data say
            // nothing about the data at the start of the run.
            PrivacyError::PrivateFile { path, kind } => PrivacyError::PrivateData {
                message: format!(
                    "{} is damaged ({kind}): restore it from a copy, or use another output folder",
                    path.display()
                ),
            },
            other => other,
        })?;
        Ok(stored.map(|stored| *stored.expose() == present.expose().0))
    }

    /// Deletes unfinished files of a killed process, above all a noisy histogram that was sampled
    /// and never published. Not public, because only the holder of the ledger's lock may do this.
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

/// Returns the name of a file. It contains the fingerprint, so it is used inside the folder only.
fn keyed(name: &str, key: &Sensitive<Fingerprint>) -> String {
    format!("{name}-{}", hex::encode(&key.expose().0))
}

/// Refuses a symbolic link, then sets the mode 0700 through the open folder, so that the path
/// cannot be replaced in between, and checks that the file system stored the mode.
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
        return Err(refuse("is a symbolic link: expected a folder".to_owned()));
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
            "has mode {:04o}, and this file system does not store the mode 0700",
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

    // As an encoder of `Sensitive<Vec<f32>>`, it must take the sensitive type.
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
    fn values_are_sensitive_when_read_back() {
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
    fn keyed_values_belong_to_their_data_and_their_folder_has_mode_0700() {
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

    /// Errors are not private, and with all images but one, the fingerprint could be recomputed and
    /// compared.
    #[test]
    fn errors_name_no_fingerprint() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        let key = Sensitive::new(Fingerprint::of([b"images".as_slice()]));
        let value = Sensitive::new(vec![1.0f32]);
        folder.write_keyed("e", &key, &value, encode).unwrap();
        let path = folder.path().join(keyed("e", &key));
        fs::write(&path, b"short").unwrap();
        let damaged = folder.read_keyed("e", &key, |file| {
            let mut bytes = [0u8; 99];
            file.read_exact(&mut bytes)
        });
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("in the way")).unwrap();
        let unwritten = folder.write_keyed("e", &key, &value, encode);
        for error in [damaged.err().unwrap(), unwritten.unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("e-*"), "{text}");
            assert!(!text.contains(&hex::encode(&key.expose().0)), "{text}");
        }
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
