//! Memory that operators need while they run, reused from one to the next.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

use super::element::Element;

/// Most buffers that are kept: a few for each thread of a large machine.
const MOST: usize = 256;

/// Numbers for an operator to overwrite, all of them: the memory as it is found. Zeroing it first would
/// be a twentieth of a network's time.
pub(super) fn uninit_output<E: Element>(len: usize) -> Vec<E> {
    let mut numbers = Vec::<E>::with_capacity(len);
    let start = numbers.as_mut_ptr();
    // SAFETY: the assembly is empty, but may for all the compiler knows write to what `start` points to,
    // so that from here on the memory holds some definite bits, and any bits are an `Element`, which is
    // what that trait promises. The capacity is at least `len`.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags));
        numbers.set_len(len);
    }
    // What an operator forgets to write shows in every test that looks at its result.
    if cfg!(test) {
        numbers.fill(E::of(f32::NAN));
    }
    numbers
}

/// A borrowed slice of numbers; what it holds at first is whatever was left there.
pub(super) struct Scratch<E: Element = f32> {
    buffer: Vec<E>,
    len: usize,
}

impl<E: Element> Scratch<E> {
    /// A buffer of `len` numbers, an idle one if there is one.
    pub fn new(len: usize) -> Self {
        let mut idle = E::idle().lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest: it grows the least.
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
            // Not `resize`: nothing needs to be copied.
            buffer = uninit_output(len);
        }
        Self { buffer, len }
    }
}

impl<E: Element> Drop for Scratch<E> {
    fn drop(&mut self) {
        let mut idle = E::idle().lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST {
            idle.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl<E: Element> Deref for Scratch<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl<E: Element> DerefMut for Scratch<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        self.buffer.get_mut(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_length_that_was_asked_for() {
        for len in [0, 5, 1000, 3] {
            let mut scratch = Scratch::<f32>::new(len);
            assert_eq!(scratch.len(), len);
            scratch.fill(1.0);
        }
    }
}
