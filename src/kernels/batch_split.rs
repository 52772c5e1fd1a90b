//! A batch taken apart, so that each thread runs the whole network on some of the images.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::cpu;

/// How many images a thread takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSplit {
    /// A few: what passes between the layers of a small network then stays in a core's own cache, and
    /// the weights of its small maps are read for more than one image.
    SmallChunks,
    /// As many as the others: each thread reads the weights once, which for a large network is more
    /// than the images are.
    PerThread,
}

/// How many images are a few. Measured with the quickstart's network: four take 7 % less time than one
/// each, eight no less.
const FEW: usize = 4;

/// Runs `network`, a chain of layers, on ranges of the images of `x` and joins what comes out along the
/// first dimension. What it makes of one image must depend on that image alone, as it does with all
/// layers here; then the parts change nothing but the time.
///
/// On the CPU the threads take the parts, and wait for each other only at the end instead of in every
/// layer. On other devices the batch stays whole.
///
/// # Errors
/// Those of `network`.
pub fn par_over_batch(
    x: &Tensor,
    share: BatchSplit,
    network: impl Fn(Range<usize>) -> Result<Tensor> + Send + Sync,
) -> Result<Tensor> {
    let n = x.dim(0)?;
    if !cpu::supports(x) {
        return network(0..n);
    }
    cpu::on_pool(|| {
        let threads = rayon::current_num_threads();
        let parts = match share {
            BatchSplit::SmallChunks => n.div_ceil(FEW).next_multiple_of(threads).min(n),
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

/// Runs `network`, a chain of layers on `device`, on one of the threads that the layers of a CPU share their work with. That
/// changes nothing but the time it takes. Work on any other device stays on this thread: a CUDA device does in order what
/// one thread asks for, and would neither wait for `network`'s arguments on another one nor here for its result.
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
                    for share in [BatchSplit::SmallChunks, BatchSplit::PerThread] {
                        let doubled = par_over_batch(&x, share, |range| {
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
