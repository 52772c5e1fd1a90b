//! What was bought, on disk before the next call goes out: `.work/<iteration>/bought/`.
//!
//! An answer is stored as it came, then its images one by one, then the answer goes. A run that was killed in
//! between takes the images out of the answer when it is resumed. The folder goes with the iteration's other
//! unfinished work. It holds model output only, nothing private.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::ServiceError;
use crate::atomic;
use crate::images::{ImageBatch, decode, png};
use crate::privacy::sha256_hex;
use crate::streams::{Phase, RngKey};

/// The name of one image that is wanted: which place in which population, and made from what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ticket {
    pub(super) iteration: u32,
    name: String,
}

impl Ticket {
    /// `origin`: digest of everything that the image is made from.
    pub(super) fn new(stream: &RngKey, origin: &str) -> Self {
        let phase = match stream.phase {
            Phase::Condition => "condition",
            Phase::Random => "random",
            Phase::Lookahead => "lookahead",
            Phase::Select => "select",
            Phase::Vary => "vary",
            Phase::InitialVary => "initial",
            Phase::Downstream => "downstream",
            Phase::Evaluate => "evaluate",
        };
        let origin = origin.get(..16).unwrap_or(origin);
        Self {
            iteration: stream.iteration,
            name: format!("{phase}-{}-{}-{origin}", stream.repeat, stream.sample),
        }
    }
}

/// An answer whose images have not all been taken out.
pub(super) struct Pending {
    path: PathBuf,
    /// Whom its images are for, in their order.
    pub(super) tickets: Vec<Ticket>,
    /// The answer's body.
    pub(super) body: Vec<u8>,
}

/// The folder of everything bought.
pub(super) struct Spool {
    work: PathBuf,
}

const FOLDER: &str = "bought";

impl Spool {
    /// `work`: the run's folder of unfinished work, with one folder for each iteration.
    pub(super) fn new(work: PathBuf) -> Self {
        Self { work }
    }

    fn folder(&self, iteration: u32) -> PathBuf {
        self.work.join(iteration.to_string()).join(FOLDER)
    }

    fn path(&self, ticket: &Ticket) -> PathBuf {
        let folder = self.folder(ticket.iteration);
        folder.join(format!("{}.png", ticket.name))
    }

    /// Whether the image is there.
    pub(super) fn has(&self, ticket: &Ticket) -> bool {
        self.path(ticket).exists()
    }

    /// Stores an image.
    ///
    /// # Errors
    /// [`ServiceError::Io`], [`ServiceError::Image`].
    pub(super) fn write(&self, ticket: &Ticket, image: &ImageBatch) -> Result<(), ServiceError> {
        let bytes = png(image).map_err(|error| ServiceError::Image(error.to_string()))?;
        let path = self.path(ticket);
        self.make(ticket.iteration)?;
        atomic::write(&path, &bytes).map_err(ServiceError::io(&path))
    }

    /// Reads an image back: `[1, side, side, 3]`.
    ///
    /// # Errors
    /// [`ServiceError::Io`], or [`ServiceError::Image`] when the file is no such image.
    pub(super) fn read(&self, ticket: &Ticket, side: usize) -> Result<ImageBatch, ServiceError> {
        let path = self.path(ticket);
        let bytes = fs::read(&path).map_err(ServiceError::io(&path))?;
        let broken = |problem: String| {
            ServiceError::Image(format!(
                "{}: {problem}: remove it and --resume, which buys it again",
                path.display()
            ))
        };
        let image = decode(&bytes).map_err(|error| broken(error.to_string()))?;
        if (image.height, image.width) != (side, side) {
            return Err(broken(format!(
                "{}x{} where {side}x{side} was expected",
                image.width, image.height
            )));
        }
        ImageBatch::new(image.pixels, 1, side, side).map_err(|error| broken(error.to_string()))
    }

    /// Stores an answer as it came. Its images are for `tickets`, all of one iteration.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn keep(&self, tickets: &[Ticket], body: Vec<u8>) -> Result<Pending, ServiceError> {
        let iteration = tickets.first().map_or(0, |ticket| ticket.iteration);
        let names: Vec<&str> = tickets.iter().map(|ticket| ticket.name.as_str()).collect();
        let mut bytes = names.join(" ").into_bytes();
        let name = sha256_hex(&bytes);
        let path = self.folder(iteration).join(format!("{name}.answer"));
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        self.make(iteration)?;
        atomic::write(&path, &bytes).map_err(ServiceError::io(&path))?;
        Ok(Pending {
            path,
            tickets: tickets.to_vec(),
            body,
        })
    }

    /// The answer has given what it can.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn done(&self, pending: &Pending) -> Result<(), ServiceError> {
        fs::remove_file(&pending.path).map_err(ServiceError::io(&pending.path))
    }

    /// The answers that a killed process left, in the order of their files.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn pending(&self) -> Result<Vec<PathBuf>, ServiceError> {
        let mut found = Vec::new();
        for folder in entries(&self.work)? {
            for path in entries(&folder.join(FOLDER))? {
                if path
                    .extension()
                    .is_some_and(|extension| extension == "answer")
                {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Reads an answer that [`Spool::pending`] found.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn reopen(&self, path: &Path) -> Result<Pending, ServiceError> {
        let bytes = fs::read(path).map_err(ServiceError::io(path))?;
        let iteration = path
            .ancestors()
            .nth(2)
            .and_then(|folder| folder.file_name()?.to_str()?.parse().ok())
            .unwrap_or(0);
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (names, body) = bytes.split_at(end.unwrap_or(0));
        let names = String::from_utf8_lossy(names);
        Ok(Pending {
            path: path.to_owned(),
            tickets: names
                .split_whitespace()
                .map(|name| Ticket {
                    iteration,
                    name: name.to_owned(),
                })
                .collect(),
            body: body.get(1..).unwrap_or_default().to_vec(),
        })
    }

    fn make(&self, iteration: u32) -> Result<(), ServiceError> {
        let folder = self.folder(iteration);
        fs::create_dir_all(&folder).map_err(ServiceError::io(&folder))
    }
}

/// The paths in a folder; none if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ServiceError> {
    let io = ServiceError::io(folder);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(io(error)),
    };
    entries
        .map(|entry| Ok(entry.map_err(&io)?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(sample: u64) -> Ticket {
        let stream = RngKey {
            seed: 1,
            phase: Phase::Vary,
            iteration: 3,
            repeat: 0,
            sample,
        };
        Ticket::new(&stream, &sha256_hex(b"origin"))
    }

    #[test]
    fn images_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().to_owned());
        let image = ImageBatch::new((0..12).collect(), 1, 2, 2).unwrap();
        assert!(!spool.has(&ticket(0)));
        spool.write(&ticket(0), &image).unwrap();
        assert!(spool.has(&ticket(0)) && !spool.has(&ticket(1)));
        assert_eq!(spool.read(&ticket(0), 2).unwrap().data(), image.data());
        let error = spool.read(&ticket(0), 3).err().unwrap().to_string();
        assert!(error.contains("2x2 where 3x3"), "{error}");
        assert!(spool.read(&ticket(1), 2).is_err());
    }

    #[test]
    fn an_answer_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().to_owned());
        let tickets = [ticket(0), ticket(1)];
        spool.keep(&tickets, b"{\n}\n".to_vec()).unwrap();
        let paths = Spool::new(folder.path().to_owned()).pending().unwrap();
        assert_eq!(paths.len(), 1);
        let pending = spool.reopen(&paths[0]).unwrap();
        assert_eq!(pending.tickets, tickets);
        assert_eq!(pending.body, b"{\n}\n");
        spool.done(&pending).unwrap();
        assert!(spool.pending().unwrap().is_empty());
    }
}
