//! A `VarBuilder` backend that records which tensors a model requests.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::var_builder::SimpleBackend;

use super::{CheckpointError, Misshapen, OpenFile};

/// Requests of a model so far.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub used: BTreeSet<String>,
    pub missing: Vec<String>,
    pub misshapen: Vec<Misshapen>,
    /// Error of the first tensor that could not be read.
    pub failure: Option<CheckpointError>,
}

pub(super) struct Tracked {
    pub source: Arc<OpenFile>,
    pub requests: Arc<Mutex<Requests>>,
}

impl Tracked {
    fn note(&self, note: impl FnOnce(&mut Requests)) {
        note(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl SimpleBackend for Tracked {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        match self.source.tensors.get(name) {
            Some(stored) if stored.shape == shape.dims() => {
                return self.get_unchecked(name, dtype, device);
            }
            Some(stored) => self.note(|requests| {
                requests.used.insert(name.to_owned());
                requests.misshapen.push(Misshapen {
                    name: name.to_owned(),
                    found: stored.shape.clone(),
                    expected: shape.dims().to_vec(),
                });
            }),
            None => self.note(|requests| requests.missing.push(name.to_owned())),
        }
        // Only so that building can go on to the next mismatch: see `Checkpoint::load`.
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(stored) = self.source.tensors.get(name) else {
            self.note(|requests| requests.missing.push(name.to_owned()));
            bail!("the checkpoint has no tensor {name}");
        };
        match self.source.read(stored) {
            Ok(tensor) => {
                self.note(|requests| {
                    requests.used.insert(name.to_owned());
                });
                tensor.to_dtype(dtype)?.to_device(device)
            }
            Err(error) => {
                let message = format!("tensor {name}: {error}");
                self.note(|requests| {
                    requests.failure.get_or_insert(error);
                });
                bail!("{message}")
            }
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.source.tensors.contains_key(name)
    }
}
