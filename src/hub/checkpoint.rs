//! Opening a checkpoint and building a model from it.

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
    /// Its name.
    pub name: String,
    /// Type of its elements as stored.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// An open checkpoint. Only the table of tensors has been read; nothing in the file is ever
/// executed.
#[derive(Debug)]
pub struct Checkpoint(Arc<OpenFile>);

/// The file and where its tensors lie.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: Mutex<File>,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Checkpoint {
    /// Opens a checkpoint: a state dict saved by `torch.save`, bare or under the key `state_dict`,
    /// in the zip format or in the one before PyTorch 1.6; a TorchScript archive, whose module's
    /// tensors are taken and whose code is not; or a `.safetensors` file. The content decides, not
    /// the extension.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], or [`CheckpointError::Format`] when the file is none of these, is
    /// damaged, or holds what a checkpoint does not need, such as calls of other Python functions.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let io = |source| CheckpointError::Io {
            path: path.to_owned(),
            source,
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

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo> + '_ {
        self.0.tensors.iter().map(|(name, stored)| TensorInfo {
            name: name.clone(),
            dtype: stored.dtype,
            shape: stored.shape.clone(),
        })
    }

    /// Reads one tensor as it is stored, contiguous; `None` when there is none of this name.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, CheckpointError> {
        let Some(stored) = self.0.tensors.get(name) else {
            return Ok(None);
        };
        self.0.read(stored).map(Some)
    }

    /// Builds a model: `build` gets a `VarBuilder` over the file that hands out tensors as `dtype`
    /// on `device`.
    ///
    /// Tensors whose name matches a pattern of `ignore` may stay unused; a pattern is a name, or
    /// has one `*` at its beginning or end.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] when `build` asked for tensors that are missing or have other
    /// shapes, or left some unused: all of them are listed. [`CheckpointError::Build`] when it
    /// failed otherwise, [`CheckpointError::Io`] when the file could not be read.
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
        // A missing tensor is recorded and replaced by zeros, so that one error can list all of
        // them; a model that got any never leaves this function.
        let built = build(VarBuilder::from_backend(
            Box::new(backend),
            dtype,
            device.clone(),
        ));
        let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = requests.failure.take() {
            return Err(error);
        }
        // Where building failed, what was not asked for says nothing.
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
            source,
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
            source,
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
                source,
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
            // The file was opened, so this is about what it claims to hold.
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
