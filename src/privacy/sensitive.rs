//! [`Sensitive`]: the type of every value that is derived from private images.

/// A value derived from private images: pixels, embeddings, votes, or their fingerprint.
///
/// The type implements none of the traits through which a value could enter a log, a file or a
/// comparison, and its field is inaccessible. Computation takes place through `map` and related
/// methods, whose result is `Sensitive` again. A value leaves the type in two ways only:
///
/// 1. through [`release`](super::release), which adds calibrated noise and consumes a charge that
///    is already in the ledger. (An audit, whose images are public, releases without a ledger:
///    [`Trial`](super::Trial).)
/// 2. into a [`PrivateFolder`](super::PrivateFolder), whose files are never published, and, if the
///    owner requested an evaluation, onto the owner's terminal
///    ([`print_marked_private`](super::print_marked_private)).
///
/// Both are implemented in [`crate::privacy`], the only module with access to the value. The
/// closures that are passed to `map` are code of this crate only (`pub(crate)`). A reviewer finds
/// them by searching for `map(`, `map_ref(`, `zip(`, `extend_with(` and their `try_` forms on a
/// `Sensitive`: no closure may write, log, or branch on the value with an effect outside.
///
/// # What the compiler refuses
///
/// Any value can be declared sensitive,
///
/// ```
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// # drop(votes);
/// ```
///
/// and can then neither be formatted for debugging,
///
/// ```compile_fail,E0277
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// println!("{votes:?}");
/// ```
///
/// nor be displayed,
///
/// ```compile_fail,E0277
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// println!("{votes}");
/// ```
///
/// nor be dereferenced,
///
/// ```compile_fail,E0614
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// let leaked: u64 = *votes;
/// ```
///
/// nor be serialized,
///
/// ```compile_fail,E0277
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// let leaked = serde_json::to_string(&votes);
/// ```
///
/// nor be cloned,
///
/// ```compile_fail,E0599
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(vec![3_u64, 0, 1]);
/// let second = votes.clone();
/// ```
///
/// nor be compared,
///
/// ```compile_fail,E0369
/// use dpsyn::Sensitive;
/// let leaked: bool = Sensitive::new(3_u64) == Sensitive::new(4_u64);
/// ```
///
/// nor be read through its field,
///
/// ```compile_fail,E0616
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// let leaked: u64 = votes.value;
/// ```
///
/// nor be destructured,
///
/// ```compile_fail,E0451
/// use dpsyn::Sensitive;
/// let Sensitive { value: leaked } = Sensitive::new(3_u64);
/// ```
///
/// nor be used in a computation outside of this crate.
///
/// ```compile_fail,E0624
/// use dpsyn::Sensitive;
/// let votes = Sensitive::new(3_u64);
/// votes.map(|leaked| println!("{leaked}"));
/// ```
pub struct Sensitive<T> {
    value: T,
}

impl<T> Sensitive<T> {
    /// Declares a value sensitive. It leaves the type only in the two ways listed above.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { value }
    }

    /// Applies `compute` to the value, which it consumes.
    #[must_use]
    pub(crate) fn map<U>(self, compute: impl FnOnce(T) -> U) -> Sensitive<U> {
        Sensitive::new(compute(self.value))
    }

    /// Applies `compute` to a reference to the value.
    #[must_use]
    pub(crate) fn map_ref<U>(&self, compute: impl FnOnce(&T) -> U) -> Sensitive<U> {
        Sensitive::new(compute(&self.value))
    }

    /// Applies `compute` to two sensitive values; the result is sensitive.
    #[must_use]
    pub(crate) fn zip<U, V>(
        self,
        other: Sensitive<U>,
        compute: impl FnOnce(T, U) -> V,
    ) -> Sensitive<V> {
        Sensitive::new(compute(self.value, other.value))
    }

    /// Adds another sensitive value to this one.
    pub(crate) fn extend_with<U>(&mut self, other: Sensitive<U>, add: impl FnOnce(&mut T, U)) {
        add(&mut self.value, other.value);
    }

    /// Applies a fallible `compute` to a reference to the value. The error is not sensitive: its
    /// text may contain shapes, names and configuration (all declared public), never values. After
    /// an error, the run publishes no further release.
    pub(crate) fn try_map_ref<U, E>(
        &self,
        compute: impl FnOnce(&T) -> Result<U, E>,
    ) -> Result<Sensitive<U>, E> {
        compute(&self.value).map(Sensitive::new)
    }

    /// Applies a fallible `compute` to the value, which it consumes; the error is as in
    /// [`Sensitive::try_map_ref`].
    pub(crate) fn try_map<U, E>(
        self,
        compute: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<Sensitive<U>, E> {
        compute(self.value).map(Sensitive::new)
    }

    /// Adds another sensitive value to this one with a fallible `add`; the error is as in
    /// [`Sensitive::try_map_ref`].
    pub(crate) fn try_extend_with<U, E>(
        &mut self,
        other: Sensitive<U>,
        add: impl FnOnce(&mut T, U) -> Result<(), E>,
    ) -> Result<(), E> {
        add(&mut self.value, other.value)
    }

    /// Returns the value. The only callers are in `mechanism.rs`, `private_folder.rs`,
    /// `evaluation.rs`, `overlap.rs` and `fingerprint.rs`.
    pub(super) fn expose(&self) -> &T {
        &self.value
    }
}

impl<T, U> Sensitive<(T, U)> {
    /// Returns the parts of a pair; each is sensitive.
    #[must_use]
    pub(crate) fn unzip(self) -> (Sensitive<T>, Sensitive<U>) {
        let (first, second) = self.value;
        (Sensitive::new(first), Sensitive::new(second))
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
    fn results_stay_sensitive() {
        let votes = Sensitive::new(vec![1u64, 2]);
        let sum: Sensitive<u64> = votes.map_ref(|v| v.iter().sum());
        assert_eq!(*sum.expose(), 3);
        let failed: Result<Sensitive<()>, &str> = votes.try_map_ref(|_| Err("shape"));
        assert!(failed.is_err_and(|e| e == "shape"));
        assert_eq!(*votes.map(|v| v.len()).expose(), 2);
    }
}
