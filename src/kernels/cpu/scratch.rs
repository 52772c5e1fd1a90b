//! Memory that operators need while they run, reused from one to the next.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers that nobody uses.
static IDLE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Most buffers that are kept: a few for each thread of a large machine.
const MOST: usize = 256;

/// Numbers for an operator to overwrite, all of them: the memory as it is found. Zeroing it first would
/// be a twentieth of a network's time.
pub(super) fn results(len: usize) -> Vec<f32> {
    let mut numbers = Vec::<f32>::with_capacity(len);
    let start = numbers.as_mut_ptr();
    // SAFETY: the assembly is empty, but may for all the compiler knows write to what `start` points to,
    // so that from here on the memory holds some definite bits, and any bits are an `f32`. The capacity is
    // at least `len`.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags));
        numbers.set_len(len);
    }
    // What an operator forgets to write shows in every test that looks at its result.
    if cfg!(test) {
        numbers.fill(f32::NAN);
    }
    numbers
}

/// A borrowed slice of numbers; what it holds at first is whatever was left there.
pub(super) struct Scratch {
    buffer: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` numbers, an idle one if there is one.
    pub fn new(len: usize) -> Self {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest: it grows the least.
        let fits = |buffer: &Vec<f32>| buffer.len() >= len;
        let best = idle
            .iter()
            .enumerate()
            .min_by_key(|(_, buffer)| match fits(buffer) {
                true => (0, buffer.len()),
                false => (1, usize::MAX - buffer.len()),
            })
            .map(|(index, _)| index);
        let mut buffer = best.map_or_else(Vec::new, |index| idle.swap_remove(index));
        drop(idle);
        if buffer.len() < len {
            // Not `resize`: nothing needs to be copied.
            buffer = results(len);
        }
        Self { buffer, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST {
            idle.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.buffer.get_mut(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_length_that_was_asked_for() {
        for len in [0, 5, 1000, 3] {
            let mut scratch = Scratch::new(len);
            assert_eq!(scratch.len(), len);
            scratch.fill(1.0);
        }
    }
}
