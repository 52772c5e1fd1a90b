//! The result folder and the names in it.
//!
//! ```text
//! config.toml            the resolved configuration
//! privacy.json           the privacy statement
//! ledger.jsonl           the charges, append-only
//! requests.jsonl         hosted models only: every request that was sent
//! log.txt
//! <iteration>/samples.npz, votes.npz, grid.png, top.png, bottom.png
//! metrics.csv            metrics against a reference that is declared public, if configured
//! private/               derived from private images: NOT for release
//! .work/                 unfinished work; removed when the run is complete
//! .evaluation.lock       empty: the process that holds its lock writes metrics here
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ArtifactsError;
use super::lock::MetricsLock;
use crate::privacy::PrivacyError;
use crate::{atomic, locking, logging};

/// The treatment of a result folder that already holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to touch it.
    Refuse,
    /// Continue the run.
    Resume,
    /// Move it aside and start a new run. It is kept because its releases have been charged.
    MoveAside,
}

/// A result folder.
#[derive(Debug, Clone)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Checks that [`RunDir::prepare`] will succeed, without touching anything. Returns true if the
    /// folder holds a run.
    ///
    /// # Errors
    /// [`ArtifactsError::NotEmpty`] or [`ArtifactsError::NoRun`] when it may not be touched, and
    /// [`ArtifactsError::InUse`] or [`ArtifactsError::Ledger`] when another process runs in it.
    pub fn examine(root: &Path, existing: Existing) -> Result<bool, ArtifactsError> {
        let occupied = match fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(ArtifactsError::io(root)(error)),
        };
        let folder = Self {
            root: root.to_owned(),
        };
        let is_run = folder.is_run();
        let path = || root.to_owned();
        match existing {
            _ if !occupied => Ok(false),
            Existing::Refuse => Err(ArtifactsError::NotEmpty { path: path() }),
            Existing::Resume | Existing::MoveAside if !is_run => {
                Err(ArtifactsError::NoRun { path: path() })
            }
            Existing::Resume | Existing::MoveAside => {
                folder.refuse_if_in_use(existing)?;
                Ok(true)
            }
        }
    }

    /// Creates the folder, or takes over an existing one as `existing` says.
    ///
    /// Returns the folder and, where one was moved aside, its new name. `check` examines the moved
    /// folder; if it fails, the folder gets its name back and nothing else is changed. Otherwise a
    /// next attempt would find an empty folder and would not know of the charges.
    ///
    /// # Errors
    /// As [`RunDir::examine`], the error of `check`, and [`ArtifactsError::Io`].
    pub fn prepare<E: From<ArtifactsError>>(
        root: &Path,
        existing: Existing,
        check: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(Self, Option<PathBuf>), E> {
        let folder = Self {
            root: root.to_owned(),
        };
        let mut moved = None;
        if Self::examine(root, existing)? && existing == Existing::MoveAside {
            let aside = move_aside(root)?;
            if let Err(error) = check(&aside) {
                fs::rename(&aside, root).map_err(ArtifactsError::io(&aside))?;
                return Err(error);
            }
            moved = Some(aside);
        }
        folder.make(&folder.work())?;
        // The names of new folders must survive a power loss, as the charges in them do.
        let parent = root.parent().unwrap_or(Path::new(""));
        for folder in [parent, root] {
            atomic::sync_folder(folder).map_err(ArtifactsError::io(folder))?;
        }
        Ok((folder, moved))
    }

    /// Refers to the folder of a finished run, to read it. Nothing is created or checked.
    #[must_use]
    pub fn of_finished(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Returns the path of the folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of `config.toml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Returns the path of `privacy.json`.
    #[must_use]
    pub fn statement(&self) -> PathBuf {
        self.root.join("privacy.json")
    }

    /// Returns the path of `ledger.jsonl`.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.jsonl")
    }

    /// Returns the path of `private/`.
    #[must_use]
    pub fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// Returns the path of `<iteration>/`.
    #[must_use]
    pub fn iteration(&self, iteration: u32) -> PathBuf {
        self.root.join(iteration.to_string())
    }

    /// Returns the numbers of the folders of iterations that exist, in order.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn iterations(&self) -> Result<Vec<u32>, ArtifactsError> {
        let io = ArtifactsError::io(&self.root);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(&io)? {
            let name = entry.map_err(&io)?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Returns the path of `<iteration>/samples.npz`.
    #[must_use]
    pub fn samples(&self, iteration: u32) -> PathBuf {
        self.iteration(iteration).join("samples.npz")
    }

    /// Returns the path of `<iteration>/votes.npz`: the votes for population `iteration − 1`,
    /// from which population `iteration` is derived.
    #[must_use]
    pub fn votes(&self, iteration: u32) -> PathBuf {
        self.iteration(iteration).join("votes.npz")
    }

    /// Returns the path of `.work/`.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join(".work")
    }

    /// Returns the path of `.work/<iteration>/<phase>`.
    #[must_use]
    pub fn phase(&self, iteration: u32, phase: &str) -> PathBuf {
        self.work().join(iteration.to_string()).join(phase)
    }

    /// Creates a folder of this run.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn make(&self, folder: &Path) -> Result<(), ArtifactsError> {
        fs::create_dir_all(folder)
            .and_then(|()| atomic::set_times_up_to(&self.root, folder))
            .map_err(ArtifactsError::io(folder))?;
        atomic::sync_folder(&self.root).map_err(ArtifactsError::io(&self.root))
    }

    /// Removes finished work.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn clear(&self, folder: &Path) -> Result<(), ArtifactsError> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ArtifactsError::io(folder)(error))
            }
            _ => folder
                .parent()
                .map_or(Ok(()), atomic::set_time_of)
                .map_err(ArtifactsError::io(folder)),
        }
    }

    /// Sets the times of all files and folders outside of `private/` to one constant, those that
    /// were only read included: see [`atomic::set_times_below`].
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn set_times(&self) -> Result<(), ArtifactsError> {
        atomic::set_times_below(&self.root, &self.private()).map_err(ArtifactsError::io(&self.root))
    }

    /// Calls [`RunDir::set_times`] if the folder `root` holds a run.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn set_times_of_run(root: &Path) -> Result<(), ArtifactsError> {
        let folder = Self {
            root: root.to_owned(),
        };
        if folder.is_run() {
            return folder.set_times();
        }
        Ok(())
    }

    /// Returns true if the folder holds a run.
    fn is_run(&self) -> bool {
        // `.work` is created first of all, so a run that was killed at its very start is
        // recognized, too.
        let marks = [self.config(), self.ledger(), self.work()];
        marks.iter().any(|path| path.exists())
    }

    /// Removes temporary files that a killed process left. Only for the process that holds the
    /// lock of the ledger.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn sweep(&self) -> Result<(), ArtifactsError> {
        // The temporary files of a `dpsyn eval` that writes metrics there are in use.
        let evaluated = MetricsLock::is_held(&self.root).map_err(ArtifactsError::io(&self.root))?;
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let io = ArtifactsError::io(&folder);
            for entry in fs::read_dir(&folder).map_err(&io)? {
                let entry = entry.map_err(&io)?;
                let name = entry.file_name();
                let kind = entry.file_type().map_err(&io)?;
                if kind.is_dir() && name.to_string_lossy().parse::<u32>().is_ok() {
                    folders.push(entry.path());
                } else if evaluated && folder == self.root {
                    continue;
                } else if kind.is_file() && name.as_encoded_bytes().starts_with(b".tmp") {
                    fs::remove_file(entry.path()).map_err(&io)?;
                }
            }
        }
        Ok(())
    }

    /// Fails if a process holds the lock of the ledger.
    fn refuse_if_in_use(&self, existing: Existing) -> Result<(), ArtifactsError> {
        let path = self.ledger();
        if !locking::is_locked(&path).map_err(ArtifactsError::io(&path))? {
            return Ok(());
        }
        Err(match existing {
            // As opening the ledger would report it.
            Existing::Resume => ArtifactsError::Ledger(PrivacyError::LedgerLocked { path }),
            Existing::Refuse | Existing::MoveAside => ArtifactsError::InUse {
                path: self.root.clone(),
            },
        })
    }

    /// Appends a line to `log.txt`, which is published: public facts only, and no times.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn log(&self, line: &str) -> Result<(), ArtifactsError> {
        let path = self.root.join("log.txt");
        logging::append_line(&path, line).map_err(ArtifactsError::io(&path))
    }
}

/// Names tried for a folder that is moved aside; thousands of earlier runs beside it are a mistake.
const MAX_MOVED: u32 = 10_000;

fn move_aside(root: &Path) -> Result<PathBuf, ArtifactsError> {
    let name = root.file_name().unwrap_or_default().to_owned();
    for number in 1..MAX_MOVED {
        let mut aside = name.clone();
        aside.push(format!(".old-{number}"));
        let aside = root.with_file_name(aside);
        if !aside.exists() {
            fs::rename(root, &aside).map_err(ArtifactsError::io(root))?;
            return Ok(aside);
        }
    }
    Err(ArtifactsError::TooManyMoved {
        path: root.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_code;

    fn prepare(
        root: &Path,
        existing: Existing,
    ) -> Result<(RunDir, Option<PathBuf>), ArtifactsError> {
        RunDir::prepare(root, existing, |_| Ok(()))
    }

    #[test]
    fn an_occupied_folder_is_only_touched_on_request() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("r");
        fs::create_dir(&root).unwrap();
        assert!(!RunDir::examine(&root, Existing::Refuse).unwrap());
        fs::write(root.join("photo.jpg"), "x").unwrap();
        for existing in [Existing::Refuse, Existing::Resume, Existing::MoveAside] {
            assert!(prepare(&root, existing).is_err(), "{existing:?}");
        }
        fs::write(root.join("config.toml"), "").unwrap();
        assert!(prepare(&root, Existing::Refuse).is_err());
        let (_, moved) = prepare(&root, Existing::Resume).unwrap();
        assert_eq!(moved, None);
        let (_, moved) = prepare(&root, Existing::MoveAside).unwrap();
        assert_eq!(moved, Some(top.path().join("r.old-1")));
        assert!(top.path().join("r.old-1/photo.jpg").exists());
        assert!(!root.join("photo.jpg").exists());
        // A run that was killed right after the folder was created is recognized.
        prepare(&root, Existing::Resume).unwrap();
    }

    #[test]
    fn only_temporary_files_are_swept() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("r");
        let (folder, _) = prepare(&root, Existing::Refuse).unwrap();
        fs::create_dir_all(root.join("3")).unwrap();
        for name in [".tmpA1", "3/.tmpB2", "3/grid.png", "log.txt"] {
            fs::write(root.join(name), "").unwrap();
        }
        folder.sweep().unwrap();
        assert!(!root.join(".tmpA1").exists() && !root.join("3/.tmpB2").exists());
        assert!(root.join("3/grid.png").exists() && root.join("log.txt").exists());
    }

    #[test]
    fn a_folder_in_use_is_not_moved() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("r");
        let (folder, _) = prepare(&root, Existing::Refuse).unwrap();
        let ledger = fs::File::create(folder.ledger()).unwrap();
        ledger.lock().unwrap();
        // Found before anything is read.
        for (existing, code) in [(Existing::Resume, 5), (Existing::MoveAside, 6)] {
            let refused = RunDir::examine(&root, existing).unwrap_err();
            assert_eq!(exit_code::ExitCode::exit_code(&refused), code);
            assert!(refused.to_string().contains("in use"), "{refused}");
        }
        let refused = prepare(&root, Existing::MoveAside);
        assert!(refused.unwrap_err().to_string().contains("in use"));
        drop(ledger);
        // What is found in the moved folder may have changed since the plan was made.
        let changed = |moved: &Path| {
            assert!(moved.join("ledger.jsonl").exists() && !root.exists());
            Err(ArtifactsError::Unplanned(7))
        };
        assert!(RunDir::prepare(&root, Existing::MoveAside, changed).is_err());
        assert!(folder.ledger().exists() && !top.path().join("r.old-1").exists());
        prepare(&root, Existing::MoveAside).unwrap();
        assert!(top.path().join("r.old-1").exists());
    }
}
