//! Opens a checkpoint and builds a model from it.
//!
//! The reader of `.pt` files is written here, because `candle_core::pickle` reads only the zip
//! format (neither files from before PyTorch 1.6 nor TorchScript archives), skips tensors that it
//! does not understand with a line on stderr, and does not check strides and storages for overlaps
//! and bounds.

mod error;
mod pickle;
mod safetensors;
mod stored;
mod torch;
mod tracked;

pub use error::{CheckpointError, Mismatch, Misshapen};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use stored::StoredTensor;
use tracked::{Requests, Tracked};

/// Description of a tensor in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Type of the stored elements.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
}

/// An open checkpoint. Only the table of tensors is in memory; no code in the file is executed.
#[derive(Debug)]
pub struct Checkpoint(Arc<OpenFile>);

/// The file and the positions of its tensors.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: Mutex<File>,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Checkpoint {
    /// Opens a checkpoint: a state dict saved by `torch.save`, at the top level or under the key
    /// `state_dict`, in the zip format or the one before PyTorch 1.6; a TorchScript archive, of
    /// which only the tensors are read; or a `.safetensors` file. The format is detected by the
    /// content.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], or [`CheckpointError::Format`] if the file is none of these, is
    /// damaged, or has objects that no checkpoint needs, such as calls of other Python functions.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let io = |source| CheckpointError::Io {
            path: path.to_owned(),
            cause: source,
        };
        let mut file = File::open(path).map_err(io)?;
        let tensors = read_table(&mut file).map_err(|error| match error {
            TableError::Io(source) => io(source),
            TableError::Format(message) => CheckpointError::Format {
                path: path.to_owned(),
                message,
            },
        })?;
        Ok(Self(Arc::new(OpenFile {
            path: path.to_owned(),
            file: Mutex::new(file),
            tensors,
        })))
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns all tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo> + '_ {
        self.0.tensors.iter().map(|(name, stored)| TensorInfo {
            name: name.clone(),
            dtype: stored.dtype,
            shape: stored.shape.clone(),
        })
    }

    /// Reads a tensor in its stored type, contiguous; `None` if there is none of this name.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, CheckpointError> {
        let Some(stored) = self.0.tensors.get(name) else {
            return Ok(None);
        };
        self.0.read(stored).map(Some)
    }

    /// Builds a model: `build` gets a `VarBuilder` that reads tensors of the file as `dtype` on
    /// `device`.
    ///
    /// Tensors whose name matches a pattern in `ignore` may be unused; a pattern is a name, or has
    /// one `*` at its beginning or end.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`], with all tensors that are missing, have other shapes or are
    /// unused; [`CheckpointError::Build`] if `build` fails for another reason;
    /// [`CheckpointError::Io`].
    pub fn load<M>(
        &self,
        dtype: DType,
        device: &Device,
        ignore: &[&str],
        build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<M>,
    ) -> Result<M, CheckpointError> {
        let requests = Arc::new(Mutex::new(Requests::default()));
        let backend = Tracked {
            source: Arc::clone(&self.0),
            requests: Arc::clone(&requests),
        };
        // A missing tensor is recorded and replaced by zeros, so that one error lists all of them.
        // A model with such a tensor is never returned.
        let built = build(VarBuilder::from_backend(
            Box::new(backend),
            dtype,
            device.clone(),
        ));
        let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = requests.failure.take() {
            return Err(error);
        }
        // After a failed build, unused tensors carry no information.
        let unused = match &built {
            Ok(_) => self.unused(&requests, ignore),
            Err(_) => Vec::new(),
        };
        let mismatch = Mismatch {
            missing: std::mem::take(&mut requests.missing),
            misshapen: std::mem::take(&mut requests.misshapen),
            unused,
        };
        if !mismatch.is_empty() {
            return Err(CheckpointError::Mismatch {
                path: self.0.path.clone(),
                mismatch: Box::new(mismatch),
            });
        }
        built.map_err(|source| CheckpointError::Build {
            path: self.0.path.clone(),
            cause: source,
        })
    }

    fn unused(&self, requests: &Requests, ignore: &[&str]) -> Vec<String> {
        let names = self.0.tensors.keys();
        names
            .filter(|name| !requests.used.contains(*name))
            .filter(|name| !ignore.iter().any(|pattern| matches(pattern, name)))
            .cloned()
            .collect()
    }
}

impl OpenFile {
    fn read(&self, stored: &StoredTensor) -> Result<Tensor, CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: self.path.clone(),
            cause: source,
        };
        let (start, len) = stored.span();
        let mut bytes = vec![0; len];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start)).map_err(io)?;
            file.read_exact(&mut bytes).map_err(io)?;
        }
        stored
            .gather(bytes)
            .map_err(|source| CheckpointError::Build {
                path: self.path.clone(),
                cause: source,
            })
    }
}

/// Error of reading a table of tensors, without the name of the file.
#[derive(Debug)]
enum TableError {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for TableError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The file exists, so its end contradicts its own header.
            io::ErrorKind::UnexpectedEof => Self::Format("it ends too early".to_owned()),
            _ => Self::Io(error),
        }
    }
}

impl From<String> for TableError {
    fn from(message: String) -> Self {
        Self::Format(message)
    }
}

impl From<&str> for TableError {
    fn from(message: &str) -> Self {
        Self::Format(message.to_owned())
    }
}

type Table = BTreeMap<String, StoredTensor>;

fn read_table(file: &mut File) -> Result<Table, TableError> {
    let mut magic = [0; 16];
    let len = read_up_to(file, &mut magic)?;
    let magic = magic.get(..len).unwrap_or_default();
    if magic.starts_with(b"PK\x03\x04") {
        torch::read_zip(file)
    } else if torch::is_legacy(magic) {
        torch::read_legacy(file)
    } else if magic.get(8) == Some(&b'{') {
        safetensors::read(file)
    } else {
        Err(TableError::Format(
            "it begins neither like a file of torch.save nor like a safetensors file".to_owned(),
        ))
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..)
        && !rest.is_empty()
    {
        match file.read(rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn matches(pattern: &str, name: &str) -> bool {
    if let Some(prefix) = pattern.strip_suffix('*') {
        name.starts_with(prefix)
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        name.ends_with(suffix)
    } else {
        pattern == name
    }
}

#[cfg(test)]
mod tests;
