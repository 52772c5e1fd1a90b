//! The wall around everything derived from private images.

/// A value derived from private images: pixels, embeddings, votes, their fingerprint.
///
/// The type is the wall. It implements none of the traits through which a value slips into a log, a
/// file or a comparison, and its field is out of reach. Computation happens inside, through
/// `map` and its sisters, whose result is behind the wall again. Two doors lead out:
///
/// 1. [`release`](super::release), which adds calibrated noise and consumes a charge that is
///    already in the ledger;
/// 2. [`PrivateFolder`](super::PrivateFolder), whose files are never published, and, where the owner
///    asked for an evaluation, [`print_marked_private`](super::print_marked_private) on their own terminal.
///
/// Both are in [`crate::privacy`], the only module that can look inside. The closures given to
/// `map` run in this crate only (`pub(crate)`); whoever reviews the claim reads them by searching
/// for `map(`, `map_ref(` and `try_map(` on a `Sensitive`: none may write, log, or branch on what
/// it sees in a way visible outside.
///
/// # What the compiler refuses
///
/// Anything may be declared sensitive,
///
/// ```
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// # drop(votes);
/// ```
///
/// and is then neither printed for debugging,
///
/// ```compile_fail,E0277
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// println!("{votes:?}");
/// ```
///
/// nor displayed,
///
/// ```compile_fail,E0277
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// println!("{votes}");
/// ```
///
/// nor dereferenced,
///
/// ```compile_fail,E0614
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// let leaked: u64 = *votes;
/// ```
///
/// nor serialized,
///
/// ```compile_fail,E0277
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// let leaked = serde_json::to_string(&votes);
/// ```
///
/// nor copied,
///
/// ```compile_fail,E0599
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// let second = votes.clone();
/// ```
///
/// nor compared,
///
/// ```compile_fail,E0369
/// use dpsyn::privacy::Sensitive;
/// let leaked: bool = Sensitive::new(3_u64) == Sensitive::new(4_u64);
/// ```
///
/// nor opened by its field,
///
/// ```compile_fail,E0616
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// let leaked: u64 = votes.value;
/// ```
///
/// nor taken apart,
///
/// ```compile_fail,E0451
/// use dpsyn::privacy::Sensitive;
/// let Sensitive { value: leaked } = Sensitive::new(3_u64);
/// ```
///
/// nor computed with from outside of this crate.
///
/// ```compile_fail,E0624
/// use dpsyn::privacy::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// votes.map(|leaked| println!("{leaked}"));
/// ```
pub struct Sensitive<T> {
    value: T,
}

impl<T> Sensitive<T> {
    /// Puts a value behind the wall. There is no way back but the two doors.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { value }
    }

    /// Computes inside the wall, consuming the value.
    #[must_use]
    pub(crate) fn map<U>(self, compute: impl FnOnce(T) -> U) -> Sensitive<U> {
        Sensitive::new(compute(self.value))
    }

    /// Computes inside the wall.
    #[must_use]
    pub(crate) fn map_ref<U>(&self, compute: impl FnOnce(&T) -> U) -> Sensitive<U> {
        Sensitive::new(compute(&self.value))
    }

    /// Computes from two sensitive values inside the wall; what comes out is sensitive.
    #[must_use]
    pub(crate) fn zip<U, V>(
        self,
        other: Sensitive<U>,
        compute: impl FnOnce(T, U) -> V,
    ) -> Sensitive<V> {
        Sensitive::new(compute(self.value, other.value))
    }

    /// Takes another sensitive value into this one.
    pub(crate) fn extend_with<U>(&mut self, other: Sensitive<U>, add: impl FnOnce(&mut T, U)) {
        add(&mut self.value, other.value);
    }

    /// Computes something that may fail. The error crosses the wall: its text may be made of
    /// shapes, names and configuration (all declared public), never of values. A failed run
    /// publishes no further release.
    pub(crate) fn try_map_ref<U, E>(
        &self,
        compute: impl FnOnce(&T) -> Result<U, E>,
    ) -> Result<Sensitive<U>, E> {
        compute(&self.value).map(Sensitive::new)
    }

    /// As [`Sensitive::try_map_ref`], consuming the value.
    pub(crate) fn try_map<U, E>(
        self,
        compute: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<Sensitive<U>, E> {
        compute(self.value).map(Sensitive::new)
    }

    /// Takes another sensitive value into this one where that may fail; the error crosses the wall as in
    /// [`Sensitive::try_map_ref`].
    pub(crate) fn try_extend_with<U, E>(
        &mut self,
        other: Sensitive<U>,
        add: impl FnOnce(&mut T, U) -> Result<(), E>,
    ) -> Result<(), E> {
        add(&mut self.value, other.value)
    }

    /// The value, for the doors. Its only callers are in `mechanism.rs`, `private_folder.rs`,
    /// `evaluation.rs` and `fingerprint.rs`.
    pub(super) fn expose(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only if `$type` does *not* implement `$trait`: two blanket implementations would
    /// make the path ambiguous.
    macro_rules! assert_lacks {
        ($type:ty: $($trait:path),+) => {$(
            const _: fn() = || {
                struct Implements;
                trait Ambiguous<A> {
                    fn check() {}
                }
                impl<T: ?Sized> Ambiguous<()> for T {}
                impl<T: ?Sized + $trait> Ambiguous<Implements> for T {}
                <$type as Ambiguous<_>>::check();
            };
        )+};
    }

    assert_lacks!(Sensitive<u64>: std::fmt::Debug, std::fmt::Display, std::fmt::LowerHex);
    assert_lacks!(Sensitive<u64>: std::ops::Deref, AsRef<u64>, std::borrow::Borrow<u64>, Into<u64>);
    assert_lacks!(Sensitive<u64>: Clone, PartialEq, PartialOrd, std::hash::Hash, IntoIterator);
    assert_lacks!(Sensitive<u64>: serde::Serialize);

    #[test]
    fn results_stay_behind_the_wall() {
        let votes = Sensitive::new(vec![1u64, 2]);
        let sum: Sensitive<u64> = votes.map_ref(|v| v.iter().sum());
        assert_eq!(*sum.expose(), 3);
        let failed: Result<Sensitive<()>, &str> = votes.try_map_ref(|_| Err("shape"));
        assert!(failed.is_err_and(|e| e == "shape"));
        assert_eq!(*votes.map(|v| v.len()).expose(), 2);
    }
}
