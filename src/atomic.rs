//! Atomic writes: a file is written under a temporary name, synced and renamed; and the constant
//! timestamp of published files ([`set_time`]).

use std::fs::{self, File, FileTimes};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::{Builder, NamedTempFile};

/// The only timestamp of a published file or folder: 2000-01-01T00:00:00Z, in seconds since 1970.
///
/// The moment at which a file is written depends on how long private images take to be read,
/// embedded and compared, and a timestamp is copied with the file: `tar`, `cp -p`, `rsync -t` and
/// `zip` carry the time of modification. They carry neither the time of the last change of the
/// inode (ctime) nor its number, nor on Linux the time of creation; no program can set these, and
/// they are visible to readers of the result folder itself.
const PUBLISHED_TIME: u64 = 946_684_800;

/// Writes a file of a result folder outside of `private/` through `fill`. After a crash at any
/// moment, the file is the old one, the new one or absent, but never incomplete: the bytes are
/// synced before the rename, and the folder after it.
///
/// The temporary file is created in `scratch`, which must be on the same file system as `path`.
/// File and folders receive the constant time [`set_time`], the file before it has its final name.
///
/// # Errors
/// Returns the error of `fill` or of the file system; the temporary file is then removed.
pub fn write_via<E: From<io::Error>>(
    scratch: &Path,
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = with_ordinary_mode().tempfile_in(scratch)?;
    write_and_rename(temporary, path, fill, set_time)?;
    let folder = parent(path);
    set_time_of(folder)?;
    if scratch != folder {
        set_time_of(scratch)?;
    }
    Ok(())
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
    let temporary = Builder::new().prefix(".tmp").tempfile_in(parent(path))?;
    write_and_rename(temporary, path, fill, |_| Ok(()))
}

fn write_and_rename<E: From<io::Error>>(
    mut temporary: NamedTempFile,
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> Result<(), E>,
    complete: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), E> {
    {
        let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
        fill(&mut writer)?;
        writer.flush()?;
    }
    complete(temporary.as_file())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder(parent(path))?;
    Ok(())
}

/// Writes `bytes` to `path` like [`write_via`], with the temporary file beside the final one.
///
/// # Errors
/// Returns the error of the file system.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_via(parent(path), path, |file| file.write_all(bytes))
}

/// Writes `bytes` to a file that does not belong to a result folder, atomically like
/// [`write`](fn@write), and leaves its time as it is.
///
/// # Errors
/// Returns the error of the file system.
pub fn write_elsewhere(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_elsewhere_via(path, |file| file.write_all(bytes))
}

/// Writes a file like [`write_elsewhere`] through `fill`.
///
/// # Errors
/// Returns the error of `fill` or of the file system; the temporary file is then removed.
pub fn write_elsewhere_via(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = with_ordinary_mode().tempfile_in(parent(path))?;
    write_and_rename(temporary, path, fill, |_| Ok(()))
}

/// Sets the times of an open file of a result folder to the constant: modification and access, and
/// where the system permits it (Windows, macOS) creation. To be called after every write, before
/// the file is synced.
///
/// # Errors
/// Returns the error of the file system, above all if the file belongs to another user.
pub fn set_time(file: &File) -> io::Result<()> {
    let time = published_time();
    let times = FileTimes::new().set_accessed(time).set_modified(time);
    #[cfg(target_vendor = "apple")]
    let times = std::os::darwin::fs::FileTimesExt::set_created(times, time);
    #[cfg(windows)]
    let times = std::os::windows::fs::FileTimesExt::set_created(times, time);
    file.set_times(times).map_err(time_not_set)
}

/// Sets the times of a file or folder to the constant without reading it; a symbolic link is not
/// followed. To be called for a folder after a change of its entries.
///
/// # Errors
/// Returns the error of the file system.
pub fn set_time_of(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    #[cfg(unix)]
    {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
        let time = Timespec {
            tv_sec: PUBLISHED_TIME as _,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| time_not_set(error.into()))
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::OpenOptionsExt;
        const FILE_WRITE_ATTRIBUTES: u32 = 0x100;
        // Without the first flag a folder cannot be opened; the second does not follow a link.
        const BACKUP_SEMANTICS_AND_OPEN_REPARSE_POINT: u32 = 0x0220_0000;
        let mut options = fs::OpenOptions::new();
        options.access_mode(FILE_WRITE_ATTRIBUTES);
        options.custom_flags(BACKUP_SEMANTICS_AND_OPEN_REPARSE_POINT);
        set_time(&options.open(path)?)
    }
    #[cfg(not(any(unix, windows)))]
    set_time(&File::open(path)?)
}

/// Sets the times of `folder` and of the folders above it up to `top`, which contains it. To be
/// called after folders were created.
///
/// # Errors
/// Returns the error of the file system.
pub fn set_times_up_to(top: &Path, folder: &Path) -> io::Result<()> {
    let inside = |path: &&Path| path.starts_with(top);
    folder
        .ancestors()
        .take_while(inside)
        .try_for_each(set_time_of)
}

/// Sets the times of everything in a result folder to the constant, except for what is inside of
/// its folder `private`: files that were read (their time of access), and whatever a killed process
/// left between a write and this call. Only differing times are written. The content of symbolic
/// links is not touched, and a file that vanishes meanwhile is no error.
///
/// # Errors
/// Returns the error of the file system.
pub fn set_times_below(root: &Path, private: &Path) -> io::Result<()> {
    let mut folders = vec![root.to_owned()];
    // A folder is treated after it was read, because reading sets its time of access.
    let mut read = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let Some(metadata) = present(fs::symlink_metadata(&path))? else {
                continue;
            };
            if metadata.is_dir() && path != private {
                folders.push(path);
            } else if !has_published_time(&metadata) {
                present(set_time_of(&path))?;
            }
        }
        read.push(folder);
    }
    for folder in read {
        present(set_time_of(&folder))?;
    }
    Ok(())
}

/// Returns `None` for a path that does not exist.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn has_published_time(metadata: &fs::Metadata) -> bool {
    let is = |time: io::Result<SystemTime>| time.is_ok_and(|time| time == published_time());
    is(metadata.modified()) && is(metadata.accessed())
}

fn published_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(PUBLISHED_TIME)
}

/// Adds the reason and the remedy to the error of a call; its kind stays.
fn time_not_set(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            format!(
                "cannot set the timestamp, which must not tell when private images were read: \
                 expected a folder and files that belong to the user of this process ({error})"
            ),
        ),
        _ => error,
    }
}

/// Returns the folder of a path; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Renames a finished, synced file that has the constant time (see [`set_time`]), to its public
/// place, and makes the rename durable in both folders, which must be on one file system.
///
/// # Errors
/// Returns the error of the file system.
pub fn publish(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    for file in [to, from] {
        set_time_of(parent(file))?;
        sync_folder(parent(file))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn has_time(path: &Path) -> bool {
        has_published_time(&fs::symlink_metadata(path).unwrap())
    }

    #[test]
    fn a_published_file_and_its_folder_have_the_constant_time() {
        let top = tempfile::tempdir().unwrap();
        let (folder, scratch) = (top.path().join("0"), top.path().join("scratch"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&scratch).unwrap();
        let path = folder.join("samples.npz");
        let fill = |file: &mut BufWriter<&mut File>| {
            // The times are not set before the last byte is written.
            file.write_all(b"pixels")
        };
        write_via(&scratch, &path, fill).unwrap();
        assert!(has_time(&path) && has_time(&folder) && has_time(&scratch));
        assert!(!has_time(top.path()));
        write(&path, b"again").unwrap();
        assert!(has_time(&path) && has_time(&folder));
        write_elsewhere(&path, b"a download").unwrap();
        assert!(!has_time(&path) && !has_time(&folder));
        write_owner_only(&path, |file| file.write_all(b"private")).unwrap();
        assert!(!has_time(&path));
    }

    #[test]
    fn a_tree_has_the_time_but_for_the_content_of_the_private_folder() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("out");
        for folder in ["0", ".work/1/vary", "private/evaluation"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let public = ["log.txt", "0/grid.png", ".work/1/vary/0-3.u8"];
        let private = ["private/log.txt", "private/evaluation/figures"];
        for name in public.iter().chain(&private) {
            fs::write(root.join(name), "x").unwrap();
        }
        #[cfg(unix)]
        {
            fs::write(top.path().join("elsewhere"), "x").unwrap();
            std::os::unix::fs::symlink("../elsewhere", root.join("link")).unwrap();
        }
        set_times_below(&root, &root.join("private")).unwrap();
        let folders = ["", "0", ".work", ".work/1", ".work/1/vary", "private"];
        for name in public.iter().chain(&folders) {
            assert!(has_time(&root.join(name)), "{name}");
        }
        for name in private {
            assert!(!has_time(&root.join(name)), "{name}");
        }
        #[cfg(unix)]
        assert!(!has_time(&top.path().join("elsewhere")) && has_time(&root.join("link")));
    }

    #[test]
    fn created_folders_have_the_time_up_to_the_result_folder() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("out");
        let folder = root.join(".work/1");
        fs::create_dir_all(&folder).unwrap();
        set_times_up_to(&root, &folder).unwrap();
        assert!(has_time(&folder) && has_time(&root.join(".work")) && has_time(&root));
        assert!(!has_time(top.path()));
    }
}
