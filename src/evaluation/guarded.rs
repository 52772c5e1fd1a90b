//! A value that is as private as the data that it was computed from.

use crate::privacy::Sensitive;

/// A value derived from a reference that is either private or declared public.
///
/// The functions mirror those of [`Sensitive`], whose rules for closures and errors hold here too.
/// A result is private as soon as one operand is; there is no way from `Private` to `Public`.
pub(crate) enum Guarded<T> {
    /// Derived from private data.
    Private(Sensitive<T>),
    /// Derived from public data alone.
    Public(T),
}

impl<T> Guarded<T> {
    /// Computes a value, consuming this one.
    #[must_use]
    pub(crate) fn map<U>(self, compute: impl FnOnce(T) -> U) -> Guarded<U> {
        match self {
            Self::Private(value) => Guarded::Private(value.map(compute)),
            Self::Public(value) => Guarded::Public(compute(value)),
        }
    }

    /// Computes a value.
    #[must_use]
    pub(crate) fn map_ref<U>(&self, compute: impl FnOnce(&T) -> U) -> Guarded<U> {
        match self {
            Self::Private(value) => Guarded::Private(value.map_ref(compute)),
            Self::Public(value) => Guarded::Public(compute(value)),
        }
    }

    /// Computes a value where that may fail, consuming this one.
    pub(crate) fn try_map<U, E>(
        self,
        compute: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<Guarded<U>, E> {
        match self {
            Self::Private(value) => value.try_map(compute).map(Guarded::Private),
            Self::Public(value) => compute(value).map(Guarded::Public),
        }
    }

    /// Computes a value where that may fail.
    pub(crate) fn try_map_ref<U, E>(
        &self,
        compute: impl FnOnce(&T) -> Result<U, E>,
    ) -> Result<Guarded<U>, E> {
        match self {
            Self::Private(value) => value.try_map_ref(compute).map(Guarded::Private),
            Self::Public(value) => compute(value).map(Guarded::Public),
        }
    }

    /// Changes the value in place.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut T)) {
        match self {
            Self::Private(value) => {
                value.extend_with(Sensitive::new(()), |value, ()| change(value));
            }
            Self::Public(value) => change(value),
        }
    }

    /// Changes the value in place where that may fail.
    pub(crate) fn try_update<E>(
        &mut self,
        change: impl FnOnce(&mut T) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Private(value) => {
                value.try_extend_with(Sensitive::new(()), |value, ()| change(value))
            }
            Self::Public(value) => change(value),
        }
    }

    /// Pairs two values: the pair is private if one of them is.
    #[must_use]
    pub(crate) fn zip<U>(self, other: Guarded<U>) -> Guarded<(T, U)> {
        match (self, other) {
            (Self::Public(a), Guarded::Public(b)) => Guarded::Public((a, b)),
            (a, b) => {
                let pair = a.into_sensitive().zip(b.into_sensitive(), |a, b| (a, b));
                Guarded::Private(pair)
            }
        }
    }

    /// Makes the value private.
    #[must_use]
    pub(crate) fn into_sensitive(self) -> Sensitive<T> {
        match self {
            Self::Private(value) => value,
            Self::Public(value) => Sensitive::new(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(value: u32) -> Guarded<u32> {
        Guarded::Private(Sensitive::new(value))
    }

    #[test]
    fn results_are_private_if_an_operand_is() {
        for (pair, public) in [
            (private(1).zip(private(2)), false),
            (private(1).zip(Guarded::Public(2)), false),
            (Guarded::Public(1).zip(private(2)), false),
            (Guarded::Public(1).zip(Guarded::Public(2)), true),
        ] {
            let sum = pair.map(|(a, b)| a + b);
            assert_eq!(matches!(sum, Guarded::Public(3)), public);
            assert_eq!(matches!(sum, Guarded::Private(_)), !public);
        }
    }

    #[test]
    fn computations_keep_the_side() {
        for mut value in [private(3), Guarded::Public(3)] {
            let public = matches!(value, Guarded::Public(_));
            value.update(|value| *value += 2);
            let decrement = |value: &mut u32| {
                *value -= 1;
                Ok::<_, ()>(())
            };
            value.try_update(decrement).unwrap();
            let next = value.try_map_ref(|value| Ok::<_, ()>(value + 1)).unwrap();
            let next = next.try_map(|value| Ok::<_, ()>(value + 1)).unwrap();
            assert_eq!(matches!(next.map_ref(|v| *v), Guarded::Public(6)), public);
            assert!(next.try_map(|_| Err::<(), _>("shape")).is_err());
        }
    }
}
