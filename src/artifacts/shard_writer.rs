//! Writes one shard while the images of the next one are generated.
//!
//! If a GPU generates the images, the CPU writes the previous shard at the same time. Otherwise a
//! shard is on disk before the next one begins, which the journal of a hosted model relies on.

use std::ops::Range;
use std::thread::{Scope, ScopedJoinHandle};

use super::ArtifactsError;
use super::shards::ShardStore;
use crate::generators::Generated;

/// Writes shards, at most one at a time.
pub struct ShardWriter<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shards: &'scope ShardStore,
    in_background: bool,
    /// The write in progress; its result is the number of images.
    pending: Option<ScopedJoinHandle<'scope, Result<usize, ArtifactsError>>>,
}

impl<'scope, 'env> ShardWriter<'scope, 'env> {
    /// Creates a writer into `shards`. It writes on a thread of `scope` if `in_background`.
    pub fn new(
        scope: &'scope Scope<'scope, 'env>,
        shards: &'scope ShardStore,
        in_background: bool,
    ) -> Self {
        Self {
            scope,
            shards,
            in_background,
            pending: None,
        }
    }

    /// Writes images, or begins to. Returns the number of images that reached the disk since the
    /// last call.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`], of this shard or the previous one.
    pub fn write(
        &mut self,
        range: Range<usize>,
        generated: Generated,
    ) -> Result<usize, ArtifactsError> {
        let before = self.finish()?;
        let shards = self.shards;
        let write = move || {
            shards.write_images(&range, &generated)?;
            Ok(range.len())
        };
        if self.in_background {
            self.pending = Some(self.scope.spawn(write));
            Ok(before)
        } else {
            Ok(before + write()?)
        }
    }

    /// Waits for the write in progress. Returns its number of images, 0 where there is none.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn finish(&mut self) -> Result<usize, ArtifactsError> {
        self.pending.take().map_or(Ok(0), |thread| {
            thread.join().unwrap_or_else(|_| {
                Err(ArtifactsError::WriterEnded {
                    path: self.shards.folder().to_owned(),
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ImageBatch;

    fn images(count: usize, value: u8) -> Generated {
        let images = ImageBatch::new(vec![value; count * 3], count, 1, 1);
        images.unwrap().into()
    }

    #[test]
    fn every_shard_is_written_and_counted_once() {
        for in_background in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let shards = ShardStore::open(folder.path().to_owned(), "u8").unwrap();
            let mut done = 0;
            std::thread::scope(|scope| {
                let mut writer = ShardWriter::new(scope, &shards, in_background);
                for shard in 0..5 {
                    let range = 2 * shard..2 * shard + 2;
                    done += writer.write(range, images(2, shard as u8)).unwrap();
                    // At most the last one is not on disk yet.
                    assert!(done == 2 * shard + if in_background { 0 } else { 2 });
                }
                done += writer.finish().unwrap();
                assert_eq!(writer.finish().unwrap(), 0);
            });
            assert_eq!(done, 10);
            assert_eq!(shards.finished(10).unwrap().len(), 5);
            assert_eq!(shards.read(&(6..8), 6).unwrap(), [3; 6]);
        }
    }

    #[test]
    fn a_failed_write_is_reported() {
        for in_background in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let gone = folder.path().join("shards");
            let shards = ShardStore::open(gone.clone(), "u8").unwrap();
            std::fs::remove_dir(&gone).unwrap();
            std::thread::scope(|scope| {
                let mut writer = ShardWriter::new(scope, &shards, in_background);
                let first = writer.write(0..1, images(1, 0));
                let last = writer.finish();
                assert!(first.is_err() != last.is_err());
            });
        }
    }
}
