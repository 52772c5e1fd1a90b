//! Batch size of a network, adapted to the memory of the device.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Device;

use super::GeneratorError;
use crate::kernels::is_out_of_memory;

/// Initial batch size on a GPU without a configured one. It is halved until a batch fits.
const ON_GPU: usize = 2048;
/// Batch size on a CPU without a configured one; larger batches are not faster there.
const ON_CPU: usize = 100;

/// The batch size of a model. It begins as configured and is halved whenever the device has no
/// memory for a batch. Images do not depend on it, except for rounding on a GPU.
#[derive(Debug)]
pub struct Batches {
    /// The key of `[model]` that configures the size.
    key: &'static str,
    on_cpu: bool,
    size: AtomicUsize,
    warnings: Mutex<Vec<String>>,
}

impl Batches {
    /// Creates batches of `configured` images, the value of `key` in `[model]`, or of the default
    /// size for `device`.
    #[must_use]
    pub fn new(key: &'static str, configured: Option<usize>, device: &Device) -> Self {
        let default = if device.is_cpu() { ON_CPU } else { ON_GPU };
        Self {
            key,
            on_cpu: device.is_cpu(),
            size: AtomicUsize::new(configured.unwrap_or(default).max(1)),
            warnings: Mutex::new(Vec::new()),
        }
    }

    /// Returns the current batch size.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Returns the warnings since the last call.
    #[must_use]
    pub fn drain_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls `work` with consecutive ranges that cover `0..total`. If it runs out of device memory,
    /// the same images are processed again in batches of half the size.
    ///
    /// # Errors
    /// Those of `work`, including a lack of memory for a single image.
    pub fn cover(
        &self,
        total: usize,
        mut work: impl FnMut(Range<usize>) -> Result<(), GeneratorError>,
    ) -> Result<(), GeneratorError> {
        let mut start = 0;
        while start < total {
            let end = total.min(start.saturating_add(self.size()));
            match work(start..end) {
                Ok(()) => start = end,
                Err(GeneratorError::Network(error))
                    if end - start > 1 && is_out_of_memory(&error) =>
                {
                    self.halve(end - start);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Halves the batch size after a batch of `tried` images did not fit.
    fn halve(&self, tried: usize) {
        let smaller = tried.div_ceil(2);
        self.size.store(smaller, Ordering::Relaxed);
        let warning = format!(
            "out of device memory at batch size {tried}, retrying with {smaller}; \
             set model.{} = {smaller} to start there",
            self.key
        );
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(warning);
    }
}

impl fmt::Display for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, size) = (self.key, self.size());
        if self.on_cpu {
            write!(f, "{key}: {size} images per batch")
        } else {
            write!(
                f,
                "{key}: {size} images per batch and device, fewer if they do not fit"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> GeneratorError {
        candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into())
            .into()
    }

    /// Runs batches on a device with memory for `room` images.
    fn run(batches: &Batches, total: usize, room: usize) -> (Vec<usize>, Vec<Range<usize>>) {
        let (mut tried, mut done) = (Vec::new(), Vec::new());
        batches
            .cover(total, |range| {
                tried.push(range.len());
                if range.len() > room {
                    return Err(full());
                }
                done.push(range);
                Ok(())
            })
            .unwrap();
        (tried, done)
    }

    #[test]
    fn the_largest_batch_that_fits_is_found_by_halving() {
        let batches = Batches::new("batch_size", Some(100), &Device::Cpu);
        let (tried, done) = run(&batches, 70, 20);
        assert_eq!(tried, [70, 35, 18, 18, 18, 16]);
        let covered: Vec<usize> = done.into_iter().flatten().collect();
        assert_eq!(covered, (0..70).collect::<Vec<_>>());
        assert_eq!(batches.size(), 18);
        let warnings = batches.drain_warnings();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[1].contains("batch size 35, retrying with 18"));
        // The size is remembered, and each warning is returned once.
        assert_eq!(run(&batches, 40, 20).0, [18, 18, 4]);
        assert!(batches.drain_warnings().is_empty());
    }

    #[test]
    fn the_size_is_shown_with_its_key() {
        let batches = Batches::new("variation_batch_size", Some(10), &Device::Cpu);
        assert_eq!(
            batches.to_string(),
            "variation_batch_size: 10 images per batch"
        );
        batches.halve(9);
        let warnings = batches.drain_warnings();
        assert!(
            warnings[0].contains("model.variation_batch_size = 5"),
            "{warnings:?}"
        );
    }

    #[test]
    fn other_errors_and_a_single_image_that_does_not_fit_are_errors() {
        let batches = Batches::new("batch_size", None, &Device::Cpu);
        assert_eq!(batches.size(), ON_CPU);
        let error = batches.cover(4, |_| Err(full())).unwrap_err();
        assert!(error.to_string().contains("OUT_OF_MEMORY"), "{error}");
        assert_eq!(batches.size(), 1);
        let batches = Batches::new("batch_size", None, &Device::Cpu);
        let mut calls = 0;
        let other = batches.cover(4, |_| {
            calls += 1;
            Err(candle_core::Error::Msg("illegal address".into()).into())
        });
        assert!(other.is_err() && calls == 1 && batches.size() == ON_CPU);
    }
}
