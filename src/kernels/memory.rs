//! Large blocks of memory, kept by the process for their next use.
//!
//! A network asks for the same few sizes at each evaluation, of megabytes each. The C library
//! returns such blocks to the system and asks for zeroed pages again: a tenth of a network's time.
//! [`KeepLarge`] hands a freed block to the next request of its size instead.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes from which a block is kept.
const LARGE: usize = 128 << 10;

/// A large block begins at a multiple of this, a cache line.
const ALIGN: usize = 64;

/// Most blocks that are kept.
const SLOTS: usize = 512;

/// The system's allocator, except that freed blocks from 128 KiB on are kept for requests of the
/// same size (in steps of an eighth). Live and kept blocks together never hold more than the live
/// ones did at their peak: the process is no larger than it has had to be.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: dpsyn::internals::kernels::KeepLarge =
/// dpsyn::internals::kernels::KeepLarge::new();
/// # assert_eq!(vec![0u8; 1 << 20].len(), 1 << 20);
/// ```
pub struct KeepLarge {
    kept: Mutex<Kept>,
}

struct Kept {
    /// Blocks that nobody uses, the one freed last at the end.
    blocks: [Block; SLOTS],
    count: usize,
    /// Bytes in `blocks`.
    bytes: usize,
    /// Bytes of large blocks in use, and their maximum so far.
    live: usize,
    peak: usize,
}

#[derive(Clone, Copy)]
struct Block {
    start: *mut u8,
    size: usize,
}

/// A block for a request.
enum Taken {
    /// Of unknown content.
    Kept(*mut u8),
    /// The pointer from the system allocator; null if the allocation failed.
    Fresh(*mut u8),
}

// SAFETY: a kept block belongs to nobody else; the pointer is only followed by the allocator.
unsafe impl Send for Block {}

/// The size that is really asked for, where a request is large: blocks of equal size are alike.
fn class(layout: Layout) -> Option<Layout> {
    if layout.size() < LARGE || layout.align() > ALIGN {
        return None;
    }
    let step = (layout.size().next_power_of_two() / 16).max(ALIGN);
    let size = layout.size().checked_next_multiple_of(step)?;
    Layout::from_size_align(size, ALIGN).ok()
}

impl KeepLarge {
    /// An allocator that has kept nothing yet.
    #[expect(
        clippy::new_without_default,
        reason = "a static needs a const function, which `default` is not"
    )]
    pub const fn new() -> Self {
        let nothing = Block {
            start: ptr::null_mut(),
            size: 0,
        };
        Self {
            kept: Mutex::new(Kept {
                blocks: [nothing; SLOTS],
                count: 0,
                bytes: 0,
                live: 0,
                peak: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of a class's layout, which counts as live: a kept one, else whatever `allocate`
    /// gets.
    fn take(&self, class: Layout, allocate: impl FnOnce() -> *mut u8) -> Taken {
        let size = class.size();
        let mut kept = self.lock();
        let before = kept.peak;
        kept.live = kept.live.saturating_add(size);
        kept.peak = kept.peak.max(kept.live);
        let count = kept.count;
        let blocks = kept.blocks.get_mut(..count).unwrap_or_default();
        // What was freed last is the most likely to be in the cache.
        let found = blocks.iter().rposition(|block| block.size == size);
        if let Some(index) = found {
            let block = blocks[index];
            blocks.copy_within(index + 1.., index);
            kept.count -= 1;
            kept.bytes -= size;
            return Taken::Kept(block.start);
        }
        loop {
            let outgrown = kept.shrink();
            drop(kept);
            if outgrown.iter().all(Option::is_none) {
                break;
            }
            release(outgrown);
            kept = self.lock();
        }
        let start = allocate();
        if start.is_null() {
            // Nothing was had, so nothing counts. Another thread's peak may be lost with it: then
            // less is kept.
            let mut kept = self.lock();
            kept.live = kept.live.saturating_sub(size);
            kept.peak = before.max(kept.live);
        }
        Taken::Fresh(start)
    }

    /// Keeps a block that is no longer used, or returns it to the system.
    fn give(&self, block: Block) {
        let mut kept = self.lock();
        kept.live = kept.live.saturating_sub(block.size);
        let count = kept.count;
        if let Some(slot) = kept.blocks.get_mut(count) {
            *slot = block;
            kept.count += 1;
            kept.bytes += block.size;
        } else {
            drop(kept);
            release([Some(block), None, None, None]);
        }
    }
}

impl Kept {
    /// Takes out what was freed longest ago, as long as there is more than the process needed at
    /// its peak; a few at a time.
    fn shrink(&mut self) -> [Option<Block>; 4] {
        let mut outgrown = [None; 4];
        for place in &mut outgrown {
            if self.live + self.bytes <= self.peak || self.count == 0 {
                break;
            }
            let oldest = self.blocks[0];
            self.blocks.copy_within(1..self.count, 0);
            self.count -= 1;
            self.bytes -= oldest.size;
            *place = Some(oldest);
        }
        outgrown
    }
}

/// Returns blocks to the system.
fn release(blocks: [Option<Block>; 4]) {
    for block in blocks.into_iter().flatten() {
        if let Ok(layout) = Layout::from_size_align(block.size, ALIGN) {
            // SAFETY: every block came from `System` with its class's layout, which is this one,
            // and has just left the list: nobody else has it.
            unsafe { System.dealloc(block.start, layout) };
        }
    }
}

// SAFETY: a request that `class` does not change goes to `System` as it is, when it is freed, too,
// for `class` depends on the layout alone. Any other is answered with a block that `System` gave
// for the class's layout, which is at least as large and as aligned; between `give` and `take` such
// a block is in the list once, and so has one owner at most. Nothing here allocates large blocks or
// unwinds: the indices lie below `count`, which is at most `SLOTS`.
unsafe impl GlobalAlloc for KeepLarge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            // SAFETY: the caller's promise for `layout`, whose size is not zero, nor the class's.
            None => unsafe { System.alloc(layout) },
            // SAFETY: as above.
            Some(class) => match self.take(class, || unsafe { System.alloc(class) }) {
                Taken::Kept(block) | Taken::Fresh(block) => block,
            },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            // SAFETY: as in `alloc`.
            None => unsafe { System.alloc_zeroed(layout) },
            // SAFETY: as above. Pages fresh from the system are zero already.
            Some(class) => match self.take(class, || unsafe { System.alloc_zeroed(class) }) {
                Taken::Kept(block) => {
                    // SAFETY: the block is at least this long, and ours.
                    unsafe { block.write_bytes(0, layout.size()) };
                    block
                }
                Taken::Fresh(block) => block,
            },
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        match class(layout) {
            // SAFETY: it came from `System` with this layout.
            None => unsafe { System.dealloc(start, layout) },
            Some(class) => self.give(Block {
                start,
                size: class.size(),
            }),
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        match (class(layout), class(wanted)) {
            // SAFETY: it came from `System` with this layout, and goes back there with the new one.
            (None, None) => unsafe { System.realloc(start, layout, size) },
            (Some(old), Some(new)) if old == new => start,
            _ => {
                // SAFETY: `size` is not zero by the caller's promise; both blocks are at least as
                // long as what is copied; the old one came from here with `layout`.
                unsafe {
                    let to = self.alloc(wanted);
                    if !to.is_null() {
                        ptr::copy_nonoverlapping(start, to, size.min(layout.size()));
                        self.dealloc(start, layout);
                    }
                    to
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 4).unwrap()
    }

    #[test]
    fn a_freed_block_serves_the_next_request_of_its_size() {
        let memory = KeepLarge::new();
        let size = 1 << 20;
        // SAFETY: blocks are freed once, with their own layouts, and used in between only.
        unsafe {
            let first = memory.alloc(layout(size));
            first.write_bytes(7, size);
            memory.dealloc(first, layout(size));
            let again = memory.alloc_zeroed(layout(size - 100));
            assert_eq!(again, first);
            assert!((0..size - 100).all(|i| *again.add(i) == 0));
            let other = memory.alloc(layout(2 * size));
            assert_ne!(other, first);
            memory.dealloc(again, layout(size - 100));
            memory.dealloc(other, layout(2 * size));
        }
        let kept = memory.kept.lock().unwrap();
        assert_eq!((kept.live, kept.bytes), (0, kept.peak));
    }

    #[test]
    fn many_kept_blocks_make_room_for_a_large_one() {
        let memory = KeepLarge::new();
        let (size, count) = (1 << 20, 60);
        // SAFETY: as above.
        unsafe {
            let blocks: Vec<_> = (0..count).map(|_| memory.alloc(layout(size))).collect();
            for block in blocks {
                memory.dealloc(block, layout(size));
            }
            let large = memory.alloc(layout(count * size / 2));
            let (live, bytes, peak) = {
                let kept = memory.kept.lock().unwrap();
                (kept.live, kept.bytes, kept.peak)
            };
            assert_eq!(peak, count * size);
            assert!(live + bytes <= peak, "{live} in use and {bytes} kept");
            memory.dealloc(large, layout(count * size / 2));
        }
    }

    #[test]
    fn a_request_that_fails_does_not_count() {
        let memory = KeepLarge::new();
        let impossible = layout(isize::MAX as usize / 2);
        // SAFETY: as above; nothing was had, so nothing is freed.
        unsafe {
            for _ in 0..9 {
                assert!(memory.alloc(impossible).is_null());
                assert!(memory.alloc_zeroed(impossible).is_null());
            }
        }
        let kept = memory.kept.lock().unwrap();
        assert_eq!((kept.live, kept.peak), (0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_never_overlap_and_never_exceed_the_peak(
            steps in proptest::collection::vec((any::<bool>(), 1usize..(4 << 20), 0usize..20), 1..60),
        ) {
            let memory = KeepLarge::new();
            let mut live: Vec<(*mut u8, usize)> = Vec::new();
            for (index, (grow, size, pick)) in steps.into_iter().enumerate() {
                let mark = index as u8;
                // SAFETY: as above; each block's ends carry the number of the step that wrote them.
                unsafe {
                    if live.is_empty() || pick > live.len() {
                        let start = memory.alloc(layout(size));
                        live.push((start, size));
                    } else {
                        let (start, old) = live.swap_remove(pick % live.len());
                        let kept = (*start, *start.add(old - 1));
                        if grow {
                            let to = memory.realloc(start, layout(old), size);
                            prop_assert_eq!(*to, kept.0);
                            if size == old {
                                prop_assert_eq!(*to.add(size - 1), kept.1);
                            }
                            live.push((to, size));
                        } else {
                            memory.dealloc(start, layout(old));
                            continue;
                        }
                    }
                    let (start, size) = live[live.len() - 1];
                    start.write_bytes(mark, size);
                }
                let mut ends: Vec<(usize, usize)> =
                    live.iter().map(|(start, size)| (*start as usize, *start as usize + size)).collect();
                ends.sort_unstable();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                let kept = memory.kept.lock().unwrap();
                prop_assert_eq!(kept.blocks[..kept.count].iter().map(|b| b.size).sum::<usize>(), kept.bytes);
                prop_assert!(kept.live + kept.bytes <= kept.peak);
            }
            for (start, size) in live {
                // SAFETY: as above.
                unsafe { memory.dealloc(start, layout(size)) };
            }
            let kept = memory.kept.lock().unwrap();
            prop_assert_eq!(kept.live, 0);
        }
    }
}
