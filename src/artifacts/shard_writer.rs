//! ShardWriter one unit while the next one's images are made.
//!
//! Where a GPU makes them, the disk need not be waited for. Elsewhere a unit is on disk before the next one is begun,
//! which a hosted model's bookkeeping counts on.

use std::ops::Range;
use std::thread::{Scope, ScopedJoinHandle};

use super::shards::ShardStore;
use crate::images::ImageBatch;
use crate::pe::PeError;

/// Writes units, at most one at a time.
pub struct ShardWriter<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    units: &'scope ShardStore,
    apart: bool,
    /// On its way to the disk: so many images.
    pending: Option<ScopedJoinHandle<'scope, Result<usize, PeError>>>,
}

impl<'scope, 'env> ShardWriter<'scope, 'env> {
    /// Into `units`; on a thread of its own in `scope` if the images are made `apart`.
    pub fn new(scope: &'scope Scope<'scope, 'env>, units: &'scope ShardStore, apart: bool) -> Self {
        Self {
            scope,
            units,
            apart,
            pending: None,
        }
    }

    /// Writes `images`, or begins to; the result is how many images have come to lie on the disk since the last
    /// call.
    ///
    /// # Errors
    /// [`PeError::Io`], of this unit or the one before.
    pub fn write(&mut self, range: Range<usize>, images: ImageBatch) -> Result<usize, PeError> {
        let before = self.finish()?;
        let units = self.units;
        let write = move || {
            units.write(&range, images.data())?;
            Ok(range.len())
        };
        if self.apart {
            self.pending = Some(self.scope.spawn(write));
            Ok(before)
        } else {
            Ok(before + write()?)
        }
    }

    /// Waits for what is on its way; the result is how many images that were.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn finish(&mut self) -> Result<usize, PeError> {
        self.pending.take().map_or(Ok(0), |thread| {
            thread.join().unwrap_or_else(|_| {
                let message = "the thread that writes units has stopped";
                Err(PeError::State(message.to_owned()))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(count: usize, value: u8) -> ImageBatch {
        ImageBatch::new(vec![value; count * 3], count, 1, 1).unwrap()
    }

    #[test]
    fn every_unit_is_written_and_counted_once() {
        for apart in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let units = ShardStore::open(folder.path().to_owned(), "u8").unwrap();
            let mut done = 0;
            std::thread::scope(|scope| {
                let mut writing = ShardWriter::new(scope, &units, apart);
                for unit in 0..5 {
                    let range = 2 * unit..2 * unit + 2;
                    done += writing.write(range, images(2, unit as u8)).unwrap();
                    // At most the last one is on its way.
                    assert!(done == 2 * unit + if apart { 0 } else { 2 });
                }
                done += writing.finish().unwrap();
                assert_eq!(writing.finish().unwrap(), 0);
            });
            assert_eq!(done, 10);
            assert_eq!(units.finished(10).unwrap().len(), 5);
            assert_eq!(units.read(&(6..8), 6).unwrap(), [3; 6]);
        }
    }

    #[test]
    fn a_unit_that_could_not_be_written_is_told() {
        for apart in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let gone = folder.path().join("units");
            let units = ShardStore::open(gone.clone(), "u8").unwrap();
            std::fs::remove_dir(&gone).unwrap();
            std::thread::scope(|scope| {
                let mut writing = ShardWriter::new(scope, &units, apart);
                let first = writing.write(0..1, images(1, 0));
                let last = writing.finish();
                assert!(first.is_err() != last.is_err());
            });
        }
    }
}
