//! Switch of the tests that disables the operators of this project on the current thread.

use std::cell::Cell;

thread_local! {
    static COMPOSING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` as on a device without operators of this project: layers that are made and run within
/// are composed of candle's operators.
pub(crate) fn composed<R>(f: impl FnOnce() -> R) -> R {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            COMPOSING.set(self.0);
        }
    }
    let _restored = Restored(COMPOSING.replace(true));
    f()
}

/// Returns true within [`composed`].
pub(super) fn composing() -> bool {
    COMPOSING.get()
}
