//! A matrix of vectors, one a row.

use std::ops::Range;

/// Vectors of one dimension: `float32[count, dimension]`, row-major.
#[derive(Clone, PartialEq)]
pub struct Embeddings {
    data: Vec<f32>,
    dimension: usize,
}

impl Embeddings {
    /// Takes `data` as rows of `dimension` numbers; `None` when they do not divide evenly.
    #[must_use]
    pub fn new(data: Vec<f32>, dimension: usize) -> Option<Self> {
        (dimension > 0 && data.len().is_multiple_of(dimension)).then_some(Self { data, dimension })
    }

    /// No vectors, of this dimension (at least 1).
    #[must_use]
    pub fn empty(dimension: usize) -> Self {
        Self {
            data: Vec::new(),
            dimension: dimension.max(1),
        }
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() / self.dimension
    }

    /// Whether there is no vector.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Numbers in one vector.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// All numbers, `[count, dimension]`.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The numbers themselves, `[count, dimension]`.
    #[must_use]
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The vectors in `range`, cut to what exists.
    #[must_use]
    pub fn rows(&self, range: Range<usize>) -> &[f32] {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        &self.data[start * self.dimension..end * self.dimension]
    }

    /// The chosen vectors, in the order of `indices`; indices past the end are left out.
    #[must_use]
    pub fn gather(&self, indices: &[usize]) -> Self {
        let mut data = Vec::with_capacity(indices.len() * self.dimension);
        for &index in indices {
            data.extend_from_slice(self.rows(index..index.saturating_add(1)));
        }
        Self {
            data,
            dimension: self.dimension,
        }
    }
}
