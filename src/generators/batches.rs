//! How many images go through a network at once: as many as the device has room for.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Device;

use super::GeneratorError;

/// Images at once on a GPU where nothing is configured, before it is known what fits.
const ON_GPU: usize = 2048;
/// On a CPU, where more at once would not be faster.
const ON_CPU: usize = 100;

/// The size of a model's batches. It begins as configured, and is halved whenever the device has no room
/// for a batch. No image depends on it but for a GPU's rounding.
#[derive(Debug)]
pub struct Batches {
    size: AtomicUsize,
    notes: Mutex<Vec<String>>,
}

impl Batches {
    /// Batches of `configured` images, or of as many as `device` is likely to have room for.
    #[must_use]
    pub fn new(configured: Option<usize>, device: &Device) -> Self {
        let default = if device.is_cpu() { ON_CPU } else { ON_GPU };
        Self {
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
    pub fn notes(&self) -> Vec<String> {
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
            "the device has no room for {tried} images at once: trying {smaller} (model.batch_size = {smaller} \
             begins there)"
        );
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(note);
    }
}

/// Whether a device had no memory left, by what its libraries say of it.
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string().to_lowercase();
    [
        // CUDA, cuBLAS, cuDNN, Metal.
        "out_of_memory",
        "out of memory",
        "alloc_failed",
        "allocation_failed",
        "insufficient memory",
    ]
    .iter()
    .any(|words| text.contains(words))
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
        let batches = Batches::new(Some(100), &Device::Cpu);
        let (tried, done) = run(&batches, 70, 20);
        assert_eq!(tried, [70, 35, 18, 18, 18, 16]);
        let covered: Vec<usize> = done.into_iter().flatten().collect();
        assert_eq!(covered, (0..70).collect::<Vec<_>>());
        assert_eq!(batches.size(), 18);
        let notes = batches.notes();
        assert_eq!(notes.len(), 2);
        assert!(notes[1].contains("no room for 35") && notes[1].contains("trying 18"));
        // It is remembered, and told once.
        assert_eq!(run(&batches, 40, 20).0, [18, 18, 4]);
        assert!(batches.notes().is_empty());
    }

    #[test]
    fn other_errors_and_a_single_image_that_does_not_fit_are_told() {
        let batches = Batches::new(None, &Device::Cpu);
        assert_eq!(batches.size(), ON_CPU);
        let error = batches.cover(4, |_| Err(full())).unwrap_err();
        assert!(error.to_string().contains("OUT_OF_MEMORY"), "{error}");
        assert_eq!(batches.size(), 1);
        let batches = Batches::new(None, &Device::Cpu);
        let mut calls = 0;
        let other = batches.cover(4, |_| {
            calls += 1;
            Err(candle_core::Error::Msg("illegal address".into()).into())
        });
        assert!(other.is_err() && calls == 1 && batches.size() == ON_CPU);
    }
}
