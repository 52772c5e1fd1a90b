//! Memory that operators need while they run, reused from one to the next.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;

use super::element::Element;

/// Most buffers that are kept: a few for each thread of a large machine.
const MOST: usize = 256;

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
            buffer = vec![E::of(0.0); len];
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
