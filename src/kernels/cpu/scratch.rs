//! Output buffers and scratch memory of the operators; scratch memory is reused.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

use super::dtype::Number;

/// Upper bound of idle buffers per number type: a few for each thread of a large machine.
const MAX_IDLE: usize = 256;

/// Returns `len` numbers of unspecified value, all of which the operator must overwrite.
///
/// `vec![0.0; len]` instead costs a twentieth of a network's time.
pub(super) fn uninit_output<E: Number>(len: usize) -> Vec<E> {
    let mut numbers = Vec::<E>::with_capacity(len);
    let start = numbers.as_mut_ptr();
    // SAFETY: the assembly is empty, but as far as the compiler knows it may write to the memory at
    // `start`, so from here on that memory holds some definite bits. Every bit pattern is a value
    // of a `Number`, which that trait promises. The capacity is at least `len`.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags));
        numbers.set_len(len);
    }
    // A number that an operator forgets to write then fails every test that reads the result.
    if cfg!(test) {
        numbers.fill(E::narrow(f32::NAN));
    }
    numbers
}

/// A slice of numbers from the pool, of unspecified value at first.
pub(super) struct Scratch<E: Number = f32> {
    buffer: Vec<E>,
    len: usize,
}

impl<E: Number> Scratch<E> {
    /// Takes an idle buffer of at least `len` numbers, or allocates one.
    pub fn new(len: usize) -> Self {
        let mut idle = E::idle_buffers()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The smallest buffer that is large enough, else the largest, which is then replaced.
        let fits = |buffer: &Vec<E>| buffer.len() >= len;
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
            // Not `resize`, which would copy the old numbers.
            buffer = uninit_output(len);
        }
        Self { buffer, len }
    }
}

impl<E: Number> Drop for Scratch<E> {
    fn drop(&mut self) {
        let mut idle = E::idle_buffers()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl<E: Number> Deref for Scratch<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl<E: Number> DerefMut for Scratch<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        self.buffer.get_mut(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_requested_length() {
        for len in [0, 5, 1000, 3] {
            let mut scratch = Scratch::<f32>::new(len);
            assert_eq!(scratch.len(), len);
            scratch.fill(1.0);
        }
    }
}
