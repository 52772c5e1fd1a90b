//! The division of requests among the members of a mixture.

use crate::generators::{Operation, Variation};
use crate::schedule::Schedule;
use crate::streams::{Phase, RngKey};

/// The value of `variations` for the member that made the parent.
pub(super) const PARENT: &str = "parent";

/// The shares of random images, and the member that varies each population.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Shares of the random images, of sum 1.
    shares: Vec<f64>,
    /// Members that can vary an image of another one.
    vary_pixels: Vec<bool>,
    /// The member that varies all images, or `None` for the parent's.
    variations: Schedule<Option<usize>>,
}

impl Rule {
    /// Creates a rule. `shares`: those of the random images, of a sum above 0; `vary_pixels`: the
    /// members that can vary an image of another one; `variations`: the member that varies all
    /// images, or `None` for the parent's.
    pub(super) fn new(
        shares: Vec<f64>,
        vary_pixels: Vec<bool>,
        variations: Schedule<Option<usize>>,
    ) -> Self {
        let sum: f64 = shares.iter().sum();
        Self {
            shares: shares.iter().map(|share| share / sum).collect(),
            vary_pixels,
            variations,
        }
    }

    /// Returns the member that makes a random image, chosen by the key of the image.
    pub(super) fn random(&self, key: RngKey) -> usize {
        choose(&self.shares, key)
    }

    /// Returns the member that varies an image of `maker`; `None` if no member made it, or none is
    /// known. `None` if no member can vary it.
    pub(super) fn vary(
        &self,
        maker: Option<usize>,
        variation: Variation,
        key: RngKey,
    ) -> Option<usize> {
        let population = variation.population as usize;
        if let Some(member) = self.variations.get(population).copied().flatten() {
            return Some(member);
        }
        if maker.is_some() {
            return maker;
        }
        let able = self.shares.iter().zip(&self.vary_pixels);
        let shares: Vec<f64> = able
            .clone()
            .map(|(share, able)| if *able { *share } else { 0.0 })
            .collect();
        match shares.iter().any(|share| *share > 0.0) {
            true => Some(choose(&shares, key)),
            // All shares of those that can are 0.
            false => able.into_iter().position(|(_, able)| *able),
        }
    }

    /// Returns true if the member may vary an image that another one made.
    pub(super) fn can_take_over(&self, member: usize) -> bool {
        self.vary_pixels.get(member).copied().unwrap_or(false)
    }

    /// Returns the expected share of each member in an operation: exact for a member that varies
    /// all images, and the share of the random images otherwise, because selection decides how many
    /// images of a member are varied.
    pub(super) fn shares(&self, operation: Operation) -> Vec<f64> {
        let Operation::Vary(variation) = operation else {
            return self.shares.clone();
        };
        let all = self.variations.values();
        let population = variation.population as usize;
        let last = match self.variations.len() {
            None => all.first().copied().flatten(),
            // The last population in which one member varied all images.
            Some(_) => {
                let until = all.iter().take(population + 1);
                until.rev().copied().flatten().next()
            }
        };
        match last {
            None => self.shares.clone(),
            Some(member) => {
                let indices = 0..self.shares.len();
                indices
                    .map(|at| f64::from(u8::from(at == member)))
                    .collect()
            }
        }
    }
}

/// Chooses an index in proportion to `shares`, whose sum is above 0. The stream differs from those
/// of the members, whose images must not depend on the choice.
fn choose(shares: &[f64], key: RngKey) -> usize {
    let key = RngKey {
        phase: Phase::Member,
        ..key
    };
    let sum: f64 = shares.iter().sum();
    let mut left = key.rng().uniform() * sum;
    let mut chosen = 0;
    for (index, share) in shares.iter().enumerate() {
        if *share > 0.0 {
            chosen = index;
            if left < *share {
                break;
            }
            left -= share;
        }
    }
    chosen
}
