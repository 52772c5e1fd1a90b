//! Embeds the images of one round while the images of the next round are generated.
//!
//! This is faster if the embedder runs on a GPU, because the host then resamples images at the same
//! time. On a CPU, both steps would compete for the same cores.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use super::{Embedder, EmbedderError, Embeddings, embed_all};
use crate::images::ImageBatch;
use crate::kernels::is_out_of_memory;

/// An embedder that is given images and asked for the vectors later.
pub struct EmbedPipeline<'a> {
    embedder: &'a dyn Embedder,
    thread: Option<Thread>,
    given: Option<ImageBatch>,
}

struct Thread {
    images: Sender<ImageBatch>,
    vectors: Receiver<Embedded>,
}

/// The vectors, or why there are none and the images again.
type Embedded = Result<Embeddings, (EmbedderError, ImageBatch)>;

impl<'a> EmbedPipeline<'a> {
    /// With a thread of its own in `scope` if the embedder [overlaps host
    /// work](Embedder::overlaps_host_work).
    pub fn new<'scope>(embedder: &'a dyn Embedder, scope: &'scope Scope<'scope, '_>) -> Self
    where
        'a: 'scope,
    {
        let thread = embedder.overlaps_host_work().then(|| {
            let (images, jobs) = channel::<ImageBatch>();
            let (done, vectors) = channel();
            scope.spawn(move || {
                for batch in jobs {
                    let embedded = embed_all(embedder, &batch).map_err(|error| (error, batch));
                    if done.send(embedded).is_err() {
                        return;
                    }
                }
            });
            Thread { images, vectors }
        });
        Self {
            embedder,
            thread,
            given: None,
        }
    }

    /// Returns true if other work can run between giving and taking.
    pub fn is_apart(&self) -> bool {
        self.thread.is_some()
    }

    /// Gives images, once before each [`EmbedPipeline::take`].
    pub fn give(&mut self, images: ImageBatch) {
        match &self.thread {
            // That nobody takes them any more, `take` finds out.
            Some(thread) => drop(thread.images.send(images)),
            None => self.given = Some(images),
        }
    }

    /// The vectors of the images that were given. Where there was no room for them beside the
    /// images that were made meanwhile, they are embedded now.
    ///
    /// # Errors
    /// [`EmbedderError`], also when no images were given or the thread ended.
    pub fn take(&mut self) -> Result<Embeddings, EmbedderError> {
        match (&self.thread, self.given.take()) {
            (Some(thread), _) => match thread.vectors.recv() {
                Ok(Ok(embedded)) => Ok(embedded),
                Ok(Err((error, images))) if lacked_room(&error) => {
                    embed_all(self.embedder, &images)
                }
                Ok(Err((error, _))) => Err(error),
                Err(_) => Err(EmbedderError::Pipeline("its thread has ended")),
            },
            (None, Some(images)) => embed_all(self.embedder, &images),
            (None, None) => Err(EmbedderError::Pipeline("no images were given")),
        }
    }
}

fn lacked_room(error: &EmbedderError) -> bool {
    matches!(
        error,
        EmbedderError::Network(error) if is_out_of_memory(error)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// The first byte of each image; an image that begins with 255 is refused, and the first one
    /// with 254 has no room.
    struct First {
        apart: bool,
        full: AtomicBool,
    }

    impl First {
        fn new(apart: bool) -> Self {
            Self {
                apart,
                full: AtomicBool::new(true),
            }
        }
    }

    impl Embedder for First {
        fn dimension(&self) -> usize {
            1
        }

        fn batch_size(&self) -> usize {
            2
        }

        fn overlaps_host_work(&self) -> bool {
            self.apart
        }

        fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
            let first: Vec<f32> = images.iter().map(|image| f32::from(image[0])).collect();
            if first.contains(&255.0) {
                return Err(candle_core::Error::Msg("too bright".into()).into());
            }
            if first.contains(&254.0) && self.full.swap(false, Ordering::Relaxed) {
                let full = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
                return Err(candle_core::Error::Msg(full.into()).into());
            }
            Ok(Embeddings::new(first, 1).unwrap())
        }
    }

    fn images(values: &[u8]) -> ImageBatch {
        let data = values.iter().flat_map(|value| [*value; 3]).collect();
        ImageBatch::new(data, values.len(), 1, 1).unwrap()
    }

    #[test]
    fn vectors_come_in_the_order_of_the_images() {
        for apart in [false, true] {
            let first = First::new(apart);
            std::thread::scope(|scope| {
                let mut embedding = EmbedPipeline::new(&first, scope);
                assert_eq!(embedding.is_apart(), apart);
                for round in 0..20u8 {
                    embedding.give(images(&[round, round + 1, round + 2]));
                    let expected = [0, 1, 2].map(|more| f32::from(round + more));
                    assert_eq!(embedding.take().unwrap().data(), expected);
                }
                embedding.give(images(&[255]));
                let error = embedding.take().err().unwrap().to_string();
                assert!(error.contains("too bright"), "{error}");
                embedding.give(images(&[7]));
                assert_eq!(embedding.take().unwrap().data(), [7.0]);
            });
        }
    }

    #[test]
    fn what_had_no_room_beside_others_is_embedded_when_they_are_done() {
        let first = First::new(true);
        std::thread::scope(|scope| {
            let mut embedding = EmbedPipeline::new(&first, scope);
            embedding.give(images(&[254, 3]));
            assert_eq!(embedding.take().unwrap().data(), [254.0, 3.0]);
            assert!(!first.full.load(Ordering::Relaxed));
        });
    }
}
