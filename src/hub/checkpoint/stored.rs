//! Positions of tensors in a file, and their conversion to contiguous tensors.

use candle_core::{DType, Device, Result, Tensor};

/// Maximum number of dimensions of a tensor.
pub(super) const MAX_DIMENSIONS: usize = 8;

/// A strided view into a file. [`StoredTensor::new`] ensures that its bytes lie within its storage
/// and that no element is stored twice.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Strides in elements.
    strides: Vec<usize>,
    /// Position of the first element in bytes from the beginning of the file.
    start: u64,
    /// Bytes from the first element to the end of the last one.
    len: usize,
}

/// A range of bytes in a file that holds elements of one type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage {
    pub dtype: DType,
    /// Position in bytes from the beginning of the file.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl StoredTensor {
    /// Creates a view of `storage` that begins at element `offset`.
    ///
    /// # Errors
    /// A message if the view leaves the storage or its elements overlap.
    pub fn new(
        storage: Storage,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> std::result::Result<Self, String> {
        if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
            return Err(format!(
                "{} sizes and {} strides: expected as many of each, at most {MAX_DIMENSIONS}",
                shape.len(),
                strides.len()
            ));
        }
        let outside = || {
            format!(
                "shape {shape:?} with strides {strides:?} from element {offset} leaves its storage of {} bytes",
                storage.len
            )
        };
        let count = product(&shape).ok_or_else(outside)?;
        // Elements from the first to the last, both included.
        let extent = if count == 0 {
            0
        } else {
            let mut last = 0usize;
            for (size, stride) in shape.iter().zip(&strides) {
                let reach = stride.checked_mul(size - 1).ok_or_else(outside)?;
                last = last.checked_add(reach).ok_or_else(outside)?;
            }
            last.checked_add(1).ok_or_else(outside)?
        };
        if count > extent {
            return Err(format!(
                "shape {shape:?} with strides {strides:?} stores elements twice"
            ));
        }
        let size = storage.dtype.size_in_bytes();
        let skip = offset.checked_mul(size).ok_or_else(outside)?;
        let len = extent.checked_mul(size).ok_or_else(outside)?;
        let end = skip.checked_add(len).ok_or_else(outside)?;
        if end as u64 > storage.len {
            return Err(outside());
        }
        let start = storage.start.checked_add(skip as u64).ok_or_else(outside)?;
        Ok(Self {
            dtype: storage.dtype,
            shape,
            strides,
            start,
            len,
        })
    }

    /// Creates a row-major view that fills `storage`.
    pub fn contiguous(storage: Storage, shape: Vec<usize>) -> std::result::Result<Self, String> {
        let too_large = || format!("shape {shape:?} is too large");
        let strides = row_major(&shape).ok_or_else(too_large)?;
        let bytes = product(&shape)
            .and_then(|count| count.checked_mul(storage.dtype.size_in_bytes()))
            .ok_or_else(too_large)?;
        if bytes as u64 != storage.len {
            return Err(format!(
                "shape {shape:?} needs {bytes} bytes and has {}",
                storage.len
            ));
        }
        Self::new(storage, 0, shape, strides)
    }

    /// Returns the position and the number of its bytes.
    pub fn span(&self) -> (u64, usize) {
        (self.start, self.len)
    }

    /// Creates a contiguous tensor from the bytes of [`StoredTensor::span`].
    pub fn gather(&self, bytes: Vec<u8>) -> Result<Tensor> {
        let bytes = if row_major(&self.shape).as_ref() == Some(&self.strides) {
            bytes
        } else {
            self.reorder(&bytes)
        };
        // An empty tensor has no first element to look at.
        if bytes.is_empty() {
            return Tensor::zeros(self.shape.as_slice(), self.dtype, &Device::Cpu);
        }
        Tensor::from_raw_buffer(&bytes, self.dtype, &self.shape, &Device::Cpu)
    }

    /// Copies the elements in row-major order.
    fn reorder(&self, bytes: &[u8]) -> Vec<u8> {
        let size = self.dtype.size_in_bytes();
        let count = product(&self.shape).unwrap_or(0);
        let mut out = Vec::with_capacity(count * size);
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..count {
            let element: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            let at = element * size;
            out.extend_from_slice(bytes.get(at..at + size).unwrap_or_default());
            // Count up, the last dimension fastest.
            for (i, size) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *size {
                    break;
                }
                *i = 0;
            }
        }
        out
    }
}

fn product(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, size| n.checked_mul(*size))
}

fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1; shape.len()];
    let mut step = 1usize;
    for (stride, size) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.checked_mul(*size)?;
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWENTY_FLOATS: Storage = Storage {
        dtype: DType::F32,
        start: 100,
        len: 80,
    };

    #[test]
    fn views_stay_within_their_storage() {
        let view = |offset, shape: &[usize], strides: &[usize]| {
            StoredTensor::new(TWENTY_FLOATS, offset, shape.to_vec(), strides.to_vec())
        };
        assert_eq!(view(8, &[3, 4], &[4, 1]).map(|t| t.span()), Ok((132, 48)));
        assert_eq!(view(20, &[0, 4], &[4, 1]).map(|t| t.span()), Ok((180, 0)));
        assert_eq!(view(0, &[4, 5], &[1, 4]).map(|t| t.span()), Ok((100, 80)));
        for (offset, shape, strides) in [
            (9, &[3usize, 4][..], &[4usize, 1][..]),
            (21, &[0, 4], &[4, 1]),
            (usize::MAX, &[1], &[1]),
            (0, &[usize::MAX, 2], &[1, 1]),
            (0, &[2, 2], &[usize::MAX, 1]),
            (0, &[1; 9], &[1; 9]),
            (0, &[2], &[1, 1]),
        ] {
            assert!(view(offset, shape, strides).is_err(), "{offset} {shape:?}");
        }
        let expanded = view(0, &[1 << 40], &[0]).map(|t| t.span());
        assert!(expanded.is_err_and(|e| e.contains("stores elements twice")));
    }
}
