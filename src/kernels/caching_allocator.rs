//! The global allocator of the program: a cache of large freed blocks over the system's allocator.
//!
//! A network allocates the same few sizes of megabytes at each evaluation. The C library returns
//! such blocks to the system and gets zeroed pages again, which takes a tenth of a network's time.
//! [`CachingAllocator`] gives a freed block to the next request of its size instead.
//!
//! mimalloc was measured and is not used: with it Inception takes 23 % and the 270M UNet 27 % more
//! CPU time, because it returns pages to the system and faults them in again (`benches/README.md`,
//! "The allocator").

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smallest size, in bytes, of a block that is cached: glibc's default `M_MMAP_THRESHOLD`, from
/// which on it maps each block separately.
const LARGE: usize = 128 << 10;

/// Alignment of a large block: a cache line.
const ALIGN: usize = 64;

/// Maximum number of cached blocks.
const SLOTS: usize = 512;

/// The system's allocator, except that freed blocks of 128 KiB or more are cached for requests of
/// the same size (rounded up by at most an eighth). Live plus cached blocks never exceed the peak
/// of live blocks, so caching does not increase the peak memory of the process.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: dpsyn::internals::kernels::CachingAllocator =
/// dpsyn::internals::kernels::CachingAllocator::new();
/// # assert_eq!(vec![0u8; 1 << 20].len(), 1 << 20);
/// ```
pub struct CachingAllocator {
    cache: Mutex<Cache>,
}

/// The cached blocks, and totals over all large blocks.
struct Cache {
    /// Free blocks, the one freed last at the end.
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

/// The block that answers a request.
enum Obtained {
    /// A cached block, of unspecified content.
    Cached(*mut u8),
    /// A block of the system, null if it has none.
    Fresh(*mut u8),
}

// SAFETY: a cached block has no other owner; only the allocator dereferences the pointer.
unsafe impl Send for Block {}

/// Returns the rounded layout of a large request, or `None` for a small one. Blocks of equal
/// rounded layout are interchangeable.
fn size_class(layout: Layout) -> Option<Layout> {
    if layout.size() < LARGE || layout.align() > ALIGN {
        return None;
    }
    let step = (layout.size().next_power_of_two() / 16).max(ALIGN);
    let size = layout.size().checked_next_multiple_of(step)?;
    Layout::from_size_align(size, ALIGN).ok()
}

impl CachingAllocator {
    /// Returns an allocator with an empty cache.
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
            cache: Mutex::new(Cache {
                blocks: [nothing; SLOTS],
                count: 0,
                bytes: 0,
                live: 0,
                peak: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a block of a class's layout, which counts as live: a cached one, else one of
    /// `allocate`.
    fn take(&self, class: Layout, allocate: impl FnOnce() -> *mut u8) -> Obtained {
        let size = class.size();
        let mut cache = self.lock();
        let before = cache.peak;
        cache.live = cache.live.saturating_add(size);
        cache.peak = cache.peak.max(cache.live);
        let count = cache.count;
        let blocks = cache.blocks.get_mut(..count).unwrap_or_default();
        // The block that was freed last is the most likely to be in the CPU's cache.
        let found = blocks.iter().rposition(|block| block.size == size);
        if let Some(index) = found {
            let block = blocks[index];
            blocks.copy_within(index + 1.., index);
            cache.count -= 1;
            cache.bytes -= size;
            return Obtained::Cached(block.start);
        }
        loop {
            let evicted = cache.shrink();
            drop(cache);
            if evicted.iter().all(Option::is_none) {
                break;
            }
            release(evicted);
            cache = self.lock();
        }
        let start = allocate();
        if start.is_null() {
            // The request failed, so it does not count. The peak of another thread may be reset
            // with it; then fewer blocks are cached.
            let mut cache = self.lock();
            cache.live = cache.live.saturating_sub(size);
            cache.peak = before.max(cache.live);
        }
        Obtained::Fresh(start)
    }

    /// Caches a freed block, or returns it to the system if the cache is full.
    fn give(&self, block: Block) {
        let mut cache = self.lock();
        cache.live = cache.live.saturating_sub(block.size);
        let count = cache.count;
        if let Some(slot) = cache.blocks.get_mut(count) {
            *slot = block;
            cache.count += 1;
            cache.bytes += block.size;
        } else {
            drop(cache);
            release([Some(block), None, None, None]);
        }
    }
}

impl Cache {
    /// Removes the blocks that were freed longest ago while live plus cached bytes exceed the peak,
    /// a few at a time.
    fn shrink(&mut self) -> [Option<Block>; 4] {
        let mut evicted = [None; 4];
        for place in &mut evicted {
            if self.live + self.bytes <= self.peak || self.count == 0 {
                break;
            }
            let oldest = self.blocks[0];
            self.blocks.copy_within(1..self.count, 0);
            self.count -= 1;
            self.bytes -= oldest.size;
            *place = Some(oldest);
        }
        evicted
    }
}

/// Returns blocks to the system.
fn release(blocks: [Option<Block>; 4]) {
    for block in blocks.into_iter().flatten() {
        if let Ok(layout) = Layout::from_size_align(block.size, ALIGN) {
            // SAFETY: every block came from `System` with its class's layout, which is this one,
            // and has just left the list, so it has no other owner.
            unsafe { System.dealloc(block.start, layout) };
        }
    }
}

// SAFETY: a request without a size class goes to `System` unchanged, and so does its deallocation,
// because the class depends on the layout alone. Any other request is answered with a block that
// `System` returned for the class's layout, which is at least as large and as aligned. Between
// `give` and `take` such a block is in the list exactly once, so it has at most one owner. Nothing
// here allocates large blocks or unwinds: the indices are below `count`, which is at most `SLOTS`.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match size_class(layout) {
            // SAFETY: the caller's promise for `layout`, whose size is not zero, nor the class's.
            None => unsafe { System.alloc(layout) },
            // SAFETY: as above.
            Some(class) => match self.take(class, || unsafe { System.alloc(class) }) {
                Obtained::Cached(block) | Obtained::Fresh(block) => block,
            },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match size_class(layout) {
            // SAFETY: as in `alloc`.
            None => unsafe { System.alloc_zeroed(layout) },
            // SAFETY: as above. Pages fresh from the system are zero already.
            Some(class) => match self.take(class, || unsafe { System.alloc_zeroed(class) }) {
                Obtained::Cached(block) => {
                    // SAFETY: the block is at least this long, and ours.
                    unsafe { block.write_bytes(0, layout.size()) };
                    block
                }
                Obtained::Fresh(block) => block,
            },
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        match size_class(layout) {
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
        match (size_class(layout), size_class(wanted)) {
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
    fn a_freed_block_answers_the_next_request_of_its_size() {
        let memory = CachingAllocator::new();
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
        let cache = memory.cache.lock().unwrap();
        assert_eq!((cache.live, cache.bytes), (0, cache.peak));
    }

    #[test]
    fn cached_blocks_are_evicted_for_a_large_one() {
        let memory = CachingAllocator::new();
        let (size, count) = (1 << 20, 60);
        // SAFETY: as above.
        unsafe {
            let blocks: Vec<_> = (0..count).map(|_| memory.alloc(layout(size))).collect();
            for block in blocks {
                memory.dealloc(block, layout(size));
            }
            let large = memory.alloc(layout(count * size / 2));
            let (live, bytes, peak) = {
                let cache = memory.cache.lock().unwrap();
                (cache.live, cache.bytes, cache.peak)
            };
            assert_eq!(peak, count * size);
            assert!(live + bytes <= peak, "{live} live and {bytes} cached");
            memory.dealloc(large, layout(count * size / 2));
        }
    }

    #[test]
    fn a_request_that_fails_does_not_count() {
        let memory = CachingAllocator::new();
        let impossible = layout(isize::MAX as usize / 2);
        // SAFETY: as above; no block was returned, so none is freed.
        unsafe {
            for _ in 0..9 {
                assert!(memory.alloc(impossible).is_null());
                assert!(memory.alloc_zeroed(impossible).is_null());
            }
        }
        let cache = memory.cache.lock().unwrap();
        assert_eq!((cache.live, cache.peak), (0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_never_overlap_and_never_exceed_the_peak(
            steps in proptest::collection::vec(
                (any::<bool>(), 1usize..(4 << 20), 0usize..20),
                1..60,
            ),
        ) {
            let memory = CachingAllocator::new();
            let mut live: Vec<(*mut u8, usize)> = Vec::new();
            for (index, (grow, size, pick)) in steps.into_iter().enumerate() {
                let mark = index as u8;
                // SAFETY: as above; the ends of each block hold the number of the step that wrote
                // them.
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
                let mut ends: Vec<(usize, usize)> = live
                    .iter()
                    .map(|(start, size)| (*start as usize, *start as usize + size))
                    .collect();
                ends.sort_unstable();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                let cache = memory.cache.lock().unwrap();
                let cached: usize = cache.blocks[..cache.count].iter().map(|b| b.size).sum();
                prop_assert_eq!(cached, cache.bytes);
                prop_assert!(cache.live + cache.bytes <= cache.peak);
            }
            for (start, size) in live {
                // SAFETY: as above.
                unsafe { memory.dealloc(start, layout(size)) };
            }
            let cache = memory.cache.lock().unwrap();
            prop_assert_eq!(cache.live, 0);
        }
    }
}
