//! Splits a batch so that each thread runs the whole network on its share.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::cpu;

/// Number of images that a thread takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSplit {
    /// A few: the activations of a small network then stay in a core's own cache, and the weights
    /// of its small maps are read once for several images.
    SmallChunks,
    /// An equal share of the batch: each thread reads the weights once, which in a large network
    /// are larger than the activations.
    PerThread,
}

/// Images of a small chunk. Measured with the quickstart's network: chunks of four take 7 % less
/// time than single images; eight are no faster.
const SMALL_CHUNK: usize = 4;

/// Runs `network`, a chain of layers, on ranges of the images of `x` and concatenates the results
/// along the first dimension. The result of an image must depend on that image alone, as in all
/// layers here; then the split changes the time only.
///
/// On the CPU the threads share the ranges, and synchronize once at the end instead of in every
/// layer. On other devices the batch is not split.
///
/// # Errors
/// Errors of `network`.
pub fn par_over_batch(
    x: &Tensor,
    split: BatchSplit,
    network: impl Fn(Range<usize>) -> Result<Tensor> + Send + Sync,
) -> Result<Tensor> {
    let n = x.dim(0)?;
    if !cpu::supports(x) {
        return network(0..n);
    }
    cpu::on_pool(|| {
        let threads = rayon::current_num_threads();
        let parts = match split {
            BatchSplit::SmallChunks => n.div_ceil(SMALL_CHUNK).next_multiple_of(threads).min(n),
            BatchSplit::PerThread => n.min(threads),
        };
        if parts < 2 {
            return network(0..n);
        }
        let range = |part: usize| part * n / parts..(part + 1) * n / parts;
        let done: Vec<Tensor> = (0..parts)
            .into_par_iter()
            .with_max_len(1)
            .map(|part| network(range(part)))
            .collect::<Result<_>>()?;
        Tensor::cat(&done, 0)
    })
}

/// Runs `network`, a chain of layers on `device`; on the CPU on a thread of the pool, so that its
/// layers start their tasks directly. That changes the time only.
///
/// Work on any other device stays on this thread: candle gives each thread a CUDA stream of its
/// own, and another thread would not wait for the arguments of `network`, nor this one for its
/// result.
pub fn on_pool<R: Send>(device: &Device, network: impl FnOnce() -> R + Send) -> R {
    if device.is_cpu() {
        cpu::on_pool(network)
    } else {
        network()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, uniform};

    #[test]
    fn parts_come_back_in_order() {
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                for n in [1, 2, 7] {
                    let x = uniform(&[n, 3, 2, 2], 5);
                    for split in [BatchSplit::SmallChunks, BatchSplit::PerThread] {
                        let doubled = par_over_batch(&x, split, |range| {
                            x.narrow(0, range.start, range.len())? * 2.0
                        });
                        assert_close(&doubled.unwrap(), &(&x * 2.0).unwrap(), 0.0);
                    }
                }
            });
        }
    }

    #[test]
    fn an_error_in_a_part_is_returned() {
        let x = uniform(&[4, 1, 1, 1], 6);
        let result = par_over_batch(&x, BatchSplit::SmallChunks, |range| {
            x.narrow(0, range.end, 1)
        });
        assert!(result.is_err());
    }
}
