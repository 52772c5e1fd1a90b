//! The result folder and the names in it.
//!
//! ```text
//! config.toml            the resolved configuration
//! privacy.json           the privacy statement
//! ledger.jsonl           the charges, append-only
//! requests.jsonl         hosted models only: every request that was sent
//! log.txt
//! <iteration>/samples.npz, votes.npz, grid.png, top.png, bottom.png
//! metrics.csv            figures against a reference that was declared public, if any were asked for
//! private/               derived from private images: NOT for release
//! .work/                 unfinished work; gone when the run is complete
//! .evaluation.lock       empty: who holds it writes figures here
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::lock::MetricsLock;
use crate::pe::PeError;
use crate::{locking, logging};

/// What to do with a result folder that already has a run in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to touch it.
    Refuse,
    /// Go on with it.
    Resume,
    /// Move it aside and start anew. It is kept: what it released has been paid for.
    MoveAside,
}

/// A result folder.
#[derive(Debug, Clone)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Checks that [`RunDir::prepare`] will succeed, without touching anything.
    ///
    /// # Errors
    /// [`PeError::State`] when it holds something and may not be touched.
    pub fn examine(root: &Path, existing: Existing) -> Result<bool, PeError> {
        let occupied = match fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(PeError::io(root)(error)),
        };
        let folder = Self {
            root: root.to_owned(),
        };
        // `.work` comes first of all, so a run that was killed at its very start is known, too.
        let marks = [folder.config(), folder.ledger(), folder.work()];
        let ours = marks.iter().any(|path| path.exists());
        match existing {
            _ if !occupied => Ok(false),
            Existing::Refuse => Err(PeError::State(format!(
                "{} is not empty: --resume goes on with the run in it, --fresh moves it aside and starts anew",
                root.display()
            ))),
            Existing::Resume | Existing::MoveAside if !ours => Err(PeError::State(format!(
                "{} is not empty and holds no run (no config.toml): choose another folder",
                root.display()
            ))),
            Existing::Resume | Existing::MoveAside => Ok(true),
        }
    }

    /// Makes the folder, or takes over the one that is there as `existing` says.
    ///
    /// Returns the folder and, where one was moved aside, its new name.
    ///
    /// # Errors
    /// [`PeError::State`] when it holds something and may not be touched.
    pub fn prepare(root: &Path, existing: Existing) -> Result<(Self, Option<PathBuf>), PeError> {
        let folder = Self {
            root: root.to_owned(),
        };
        let mut moved = None;
        if Self::examine(root, existing)? && existing == Existing::MoveAside {
            folder.refuse_if_running()?;
            moved = Some(move_aside(root)?);
        }
        folder.make(&folder.work())?;
        // The names of new folders must outlive a power loss, as what is charged in them does.
        let parent = root.parent().unwrap_or(Path::new(""));
        for folder in [parent, root] {
            crate::atomic::sync_folder(folder).map_err(PeError::io(folder))?;
        }
        Ok((folder, moved))
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.toml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// `privacy.json`.
    #[must_use]
    pub fn statement(&self) -> PathBuf {
        self.root.join("privacy.json")
    }

    /// `ledger.jsonl`.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.jsonl")
    }

    /// `private/`.
    #[must_use]
    pub fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// `<iteration>/`.
    #[must_use]
    pub fn iteration(&self, iteration: u32) -> PathBuf {
        self.root.join(iteration.to_string())
    }

    /// `<iteration>/samples.npz`.
    #[must_use]
    pub fn samples(&self, iteration: u32) -> PathBuf {
        self.iteration(iteration).join("samples.npz")
    }

    /// `<iteration>/votes.npz`: the votes of population `iteration − 1`, which led to this one.
    #[must_use]
    pub fn votes(&self, iteration: u32) -> PathBuf {
        self.iteration(iteration).join("votes.npz")
    }

    /// `.work/`.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join(".work")
    }

    /// `.work/<iteration>/<phase>`.
    #[must_use]
    pub fn phase(&self, iteration: u32, phase: &str) -> PathBuf {
        self.work().join(iteration.to_string()).join(phase)
    }

    /// Makes a folder of this run.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn make(&self, folder: &Path) -> Result<(), PeError> {
        fs::create_dir_all(folder).map_err(PeError::io(folder))?;
        crate::atomic::sync_folder(&self.root).map_err(PeError::io(&self.root))
    }

    /// Removes finished work.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn clear(&self, folder: &Path) -> Result<(), PeError> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(PeError::io(folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes temporary files that a killed process left. Only for the process that holds the ledger.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn sweep(&self) -> Result<(), PeError> {
        // `dpsyn eval` may be writing figures there.
        let evaluated = MetricsLock::is_held(&self.root).map_err(PeError::io(&self.root))?;
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let io = PeError::io(&folder);
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

    /// A run that holds its ledger's lock is still going on.
    fn refuse_if_running(&self) -> Result<(), PeError> {
        let path = self.ledger();
        if locking::is_locked(&path).map_err(PeError::io(&path))? {
            return Err(PeError::State(format!(
                "{} belongs to a run that is going on",
                self.root.display()
            )));
        }
        Ok(())
    }

    /// Appends a line to `log.txt`, which is published: public facts only, and no times.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn log(&self, line: &str) -> Result<(), PeError> {
        let path = self.root.join("log.txt");
        logging::append_line(&path, line).map_err(PeError::io(&path))
    }
}

fn move_aside(root: &Path) -> Result<PathBuf, PeError> {
    let name = root.file_name().unwrap_or_default().to_owned();
    for number in 1..10_000 {
        let mut aside = name.clone();
        aside.push(format!(".old-{number}"));
        let aside = root.with_file_name(aside);
        if !aside.exists() {
            fs::rename(root, &aside).map_err(PeError::io(root))?;
            return Ok(aside);
        }
    }
    Err(PeError::State(format!(
        "{}: too many earlier runs beside it",
        root.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_folder_is_only_touched_on_request() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("r");
        fs::create_dir(&root).unwrap();
        assert!(!RunDir::examine(&root, Existing::Refuse).unwrap());
        fs::write(root.join("photo.jpg"), "x").unwrap();
        for existing in [Existing::Refuse, Existing::Resume, Existing::MoveAside] {
            assert!(RunDir::prepare(&root, existing).is_err(), "{existing:?}");
        }
        fs::write(root.join("config.toml"), "").unwrap();
        assert!(RunDir::prepare(&root, Existing::Refuse).is_err());
        let (_, moved) = RunDir::prepare(&root, Existing::Resume).unwrap();
        assert_eq!(moved, None);
        let (_, moved) = RunDir::prepare(&root, Existing::MoveAside).unwrap();
        assert_eq!(moved, Some(top.path().join("r.old-1")));
        assert!(top.path().join("r.old-1/photo.jpg").exists());
        assert!(!root.join("photo.jpg").exists());
        // Killed right after it was made: still ours.
        RunDir::prepare(&root, Existing::Resume).unwrap();
    }

    #[test]
    fn sweeping_takes_temporary_files_only() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("r");
        let (folder, _) = RunDir::prepare(&root, Existing::Refuse).unwrap();
        fs::create_dir_all(root.join("3")).unwrap();
        for name in [".tmpA1", "3/.tmpB2", "3/grid.png", "log.txt"] {
            fs::write(root.join(name), "").unwrap();
        }
        folder.sweep().unwrap();
        assert!(!root.join(".tmpA1").exists() && !root.join("3/.tmpB2").exists());
        assert!(root.join("3/grid.png").exists() && root.join("log.txt").exists());
    }

    #[test]
    fn a_running_run_is_not_moved() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("r");
        let (folder, _) = RunDir::prepare(&root, Existing::Refuse).unwrap();
        let ledger = fs::File::create(folder.ledger()).unwrap();
        ledger.lock().unwrap();
        let refused = RunDir::prepare(&root, Existing::MoveAside);
        assert!(refused.unwrap_err().to_string().contains("going on"));
        drop(ledger);
        RunDir::prepare(&root, Existing::MoveAside).unwrap();
    }
}
