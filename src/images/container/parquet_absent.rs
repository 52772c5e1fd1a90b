//! The container of Parquet files in a build without the feature `parquet`: it cannot be opened.

use std::convert::Infallible;
use std::path::Path;

use super::files::fault;
use super::{Container, Stored};
use crate::images::error::ImagesError;

/// Images in Parquet files, of which there are none in this build.
pub(in crate::images) struct ParquetImages(Infallible);

impl ParquetImages {
    /// Refuses to open Parquet files.
    ///
    /// # Errors
    /// [`ImagesError::Container`], always.
    pub(in crate::images) fn open(path: &Path, _split: Option<&str>) -> Result<Self, ImagesError> {
        Err(fault(
            path,
            "Parquet is not supported by this build: build it with the feature `parquet`",
        ))
    }
}

impl Container for ParquetImages {
    fn len(&self) -> usize {
        match self.0 {}
    }

    fn name(&self, _index: usize) -> String {
        match self.0 {}
    }

    fn labels(&mut self, _take: &mut dyn FnMut(Option<&str>)) -> Result<(), ImagesError> {
        match self.0 {}
    }

    fn clients(&mut self) -> Result<Vec<String>, ImagesError> {
        match self.0 {}
    }

    fn stored_len(&self, _index: usize) -> u64 {
        match self.0 {}
    }

    fn read(&mut self, _indices: &[usize]) -> Result<Vec<Stored>, ImagesError> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_feature() {
        let error = ParquetImages::open(Path::new("a.parquet"), None).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("feature `parquet`"), "{error}");
    }
}
