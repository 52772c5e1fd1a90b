//! One number for the conditions of all members: c = c₀ + n₀·(c₁ + n₁·(c₂ + …)) for member i with
//! condition cᵢ of nᵢ. It gives a member that takes over an image of another one the class.

use crate::generators::{Condition, GeneratorError};
use crate::sections::InvalidKey;

/// The numbers of conditions of the members.
#[derive(Debug, Clone)]
pub(super) struct Conditions(Vec<u32>);

impl Conditions {
    /// Checks that all combinations have a number of 32 bits.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] naming `members`.
    pub(super) fn new(numbers: Vec<u32>) -> Result<Self, GeneratorError> {
        let product = numbers.iter().try_fold(1u32, |product, number| {
            product.checked_mul((*number).max(1))
        });
        if product.is_none() {
            let message = format!(
                "have {numbers:?} conditions, whose product exceeds {}: expected fewer labels or \
                 prompts",
                u32::MAX
            );
            return Err(InvalidKey::new("members", message).into());
        }
        Ok(Self(numbers))
    }

    /// Returns the number of combinations.
    pub(super) fn count(&self) -> u32 {
        self.0.iter().map(|number| (*number).max(1)).product()
    }

    /// Returns the number of a combination, one condition of each member.
    pub(super) fn join(&self, conditions: impl DoubleEndedIterator<Item = Condition>) -> Condition {
        let pairs = self.0.iter().rev().zip(conditions.rev());
        let joined = pairs.fold(0, |joined: u32, (number, condition)| {
            joined
                .saturating_mul((*number).max(1))
                .saturating_add(condition.0)
        });
        Condition(joined)
    }

    /// Returns the condition of a member in a combination.
    pub(super) fn of(&self, member: usize, joined: Condition) -> Condition {
        let mut rest = joined.0;
        for (index, number) in self.0.iter().enumerate() {
            let number = (*number).max(1);
            if index == member {
                return Condition(rest % number);
            }
            rest /= number;
        }
        Condition::UNCONDITIONAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_its_number() {
        let conditions = Conditions::new(vec![3, 1, 4]).unwrap();
        assert_eq!(conditions.count(), 12);
        let mut seen = [false; 12];
        for first in 0..3 {
            for last in 0..4 {
                let parts = [first, 0, last].map(Condition);
                let joined = conditions.join(parts.into_iter());
                for (member, part) in parts.into_iter().enumerate() {
                    assert_eq!(conditions.of(member, joined), part);
                }
                assert!(!std::mem::replace(&mut seen[joined.0 as usize], true));
            }
        }
        assert!(Conditions::new(vec![1 << 16, 1 << 15]).is_ok());
        let error = Conditions::new(vec![1 << 16, 1 << 16]).err().unwrap();
        assert!(
            error.to_string().contains("members: have [65536, 65536]"),
            "{error}"
        );
    }
}
