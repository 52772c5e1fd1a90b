//! Atomic writes: a file is written under a temporary name, synced and renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Writes `path` through `fill`. After a crash at any moment, the file is the old one, the new one
/// or absent, but never incomplete: the bytes are synced before the rename, and the folder after
/// it.
///
/// The temporary file is created in `scratch`, which must be on the same file system as `path`.
///
/// # Errors
/// Returns the error of `fill` or of the file system; the temporary file is then removed.
pub fn write_via<E: From<io::Error>>(
    scratch: &Path,
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<(), E>,
) -> Result<(), E> {
    write_and_rename(with_ordinary_mode().tempfile_in(scratch)?, path, fill)
}

/// Writes `path` like [`write_via`], readable by its owner only (mode 0600 on Unix). The temporary
/// file is next to the final one, and its name begins with `.tmp`.
///
/// # Errors
/// Returns the error of `fill` or of the file system.
pub(crate) fn write_owner_only(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    // The mode of temporary files is 0600 by default.
    let folder = path.parent().unwrap_or(Path::new("."));
    write_and_rename(
        Builder::new().prefix(".tmp").tempfile_in(folder)?,
        path,
        fill,
    )
}

fn write_and_rename<E: From<io::Error>>(
    mut temporary: NamedTempFile,
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<(), E>,
) -> Result<(), E> {
    {
        let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
        fill(&mut writer)?;
        writer.flush()?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))?;
    Ok(())
}

/// Writes `bytes` to `path` like [`write_via`], with the temporary file beside the final one.
///
/// # Errors
/// Returns the error of the file system.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    write_via(folder.unwrap_or(Path::new(".")), path, |file| {
        file.write_all(bytes)
    })
}

/// Renames a finished, synced file to its public place, and makes the rename durable in both
/// folders, which must be on one file system.
///
/// # Errors
/// Returns the error of the file system.
pub fn publish(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    for file in [to, from] {
        sync_folder(file.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Removes a file that may be absent.
///
/// # Errors
/// Returns the error of the file system, except that the file is absent.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the entries of a folder durable: new names and renames.
///
/// # Errors
/// Returns the error of the file system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    fs::metadata(folder)?;
    Ok(())
}

/// Makes all files below `folder` durable with one system call, because one call per file would
/// take minutes for a data set: syncs the file system of the folder on Linux, and all file systems
/// on other Unix systems.
///
/// # Errors
/// Returns the error of the file system.
pub fn sync_tree(folder: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(File::open(folder)?)?;
    #[cfg(all(unix, not(target_os = "linux")))]
    {
        // `sync` has no argument.
        let _ = folder;
        rustix::fs::sync();
    }
    #[cfg(not(unix))]
    for entry in fs::read_dir(folder)? {
        fs::OpenOptions::new()
            .write(true)
            .open(entry?.path())?
            .sync_all()?;
    }
    Ok(())
}

/// Creates temporary files with the mode of ordinary files, 0666 less the umask; the default of the
/// `tempfile` crate is 0600.
fn with_ordinary_mode() -> Builder<'static, 'static> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "modes exist on Unix only"))]
    let mut builder = Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}
