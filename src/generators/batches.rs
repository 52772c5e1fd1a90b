//! How many images go through a network at once: as many as the device has room for.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Device;

use super::GeneratorError;
use crate::kernels::is_out_of_memory;

/// Images at once on a GPU where nothing is configured, before it is known what fits.
const ON_GPU: usize = 2048;
/// On a CPU, where more at once would not be faster.
const ON_CPU: usize = 100;

/// The size of a model's batches. It begins as configured, and is halved whenever the device has no room
/// for a batch. No image depends on it but for a GPU's rounding.
#[derive(Debug)]
pub struct Batches {
    /// What configures it, below `[model]`.
    key: &'static str,
    on_cpu: bool,
    size: AtomicUsize,
    notes: Mutex<Vec<String>>,
}

impl Batches {
    /// Batches of `configured` images, as `key` below `[model]` says, or of as many as `device` is likely to have room
    /// for.
    #[must_use]
    pub fn new(key: &'static str, configured: Option<usize>, device: &Device) -> Self {
        let default = if device.is_cpu() { ON_CPU } else { ON_GPU };
        Self {
            key,
            on_cpu: device.is_cpu(),
            size: AtomicUsize::new(configured.unwrap_or(default).max(1)),
            notes: Mutex::new(Vec::new()),
        }
    }

    /// Images at once, as far as is known.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// What there is to tell since the last time.
    #[must_use]
    pub fn drain_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls `work` with one range after the other until `0..total` is covered. Where it fails for want of memory, the
    /// same images are tried again in batches of half the size.
    ///
    /// # Errors
    /// Those of `work`; a single image that does not fit.
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

    /// Notes that `tried` images at once were too many.
    fn halve(&self, tried: usize) {
        let smaller = tried.div_ceil(2);
        self.size.store(smaller, Ordering::Relaxed);
        let note = format!(
            "the device has no room for {tried} images at once: trying {smaller} (model.{} = {smaller} begins there)",
            self.key
        );
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(note);
    }
}

impl fmt::Display for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, size) = (self.key, self.size());
        if self.on_cpu {
            write!(f, "{key}: {size} images at once")
        } else {
            write!(
                f,
                "{key}: {size} images at once on a device, fewer if they do not fit"
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

    /// A device with room for `room` images.
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
        let notes = batches.drain_warnings();
        assert_eq!(notes.len(), 2);
        assert!(notes[1].contains("no room for 35") && notes[1].contains("trying 18"));
        // It is remembered, and told once.
        assert_eq!(run(&batches, 40, 20).0, [18, 18, 4]);
        assert!(batches.drain_warnings().is_empty());
    }

    #[test]
    fn the_size_is_shown_with_its_key() {
        let batches = Batches::new("variation_batch_size", Some(10), &Device::Cpu);
        assert_eq!(
            batches.to_string(),
            "variation_batch_size: 10 images at once"
        );
        batches.halve(9);
        let notes = batches.drain_warnings();
        assert!(
            notes[0].contains("model.variation_batch_size = 5"),
            "{notes:?}"
        );
    }

    #[test]
    fn other_errors_and_a_single_image_that_does_not_fit_are_told() {
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
