//! Estimate, from a released histogram, of how many samples have votes: few of them where the
//! generator does not draw what the private images show.

/// Effective share of samples with votes below which a population is said not to fit. Measured at
/// the last vote, ε = 1: pools and fonts that fit have 0.39 to 0.77 in every class, and a pool of
/// other objects has 0.02 and 0.19 in the classes that it lacks (configs/README.md).
const FEW: f64 = 0.25;

/// Returns the effective number of samples that have votes, (Σ n)² / Σ n² over the votes n of the
/// samples of a class, estimated from its noisy votes: the number of samples with equally many
/// votes that would have the same sum of squares. `noise` is the standard deviation of the noise in
/// votes, whose expected sum of squares is subtracted. Returns `None` where the noise covers the
/// sums.
pub(super) fn effective_samples(noisy: &[f64], noise: f64) -> Option<f64> {
    let count = noisy.len() as f64;
    let sum: f64 = noisy.iter().sum();
    let observed: f64 = noisy.iter().map(|votes| votes * votes).sum();
    let squares = observed - count * noise * noise;
    // Standard deviations of both estimates: that of the squares has a part of the noise alone and
    // one of its products with the votes.
    let of_sum = noise * count.sqrt();
    let of_squares = noise * (2.0 * count * noise * noise + 4.0 * squares.max(0.0)).sqrt();
    let is_certain = sum > 5.0 * of_sum && squares > 5.0 * of_squares && squares > 0.0;
    is_certain.then(|| (sum * sum / squares).min(count))
}

/// Returns the effective number if it is a small share of the samples.
pub(super) fn few_samples(noisy: &[f64], noise: f64) -> Option<f64> {
    effective_samples(noisy, noise).filter(|effective| *effective < FEW * noisy.len() as f64)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    /// Adds Gaussian noise to votes.
    fn noisy(votes: &[f64], noise: f64) -> Vec<f64> {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let mut draw = || -> f64 { StandardNormal.sample(&mut rng) };
        votes.iter().map(|votes| votes + noise * draw()).collect()
    }

    #[test]
    fn the_noise_is_subtracted() {
        // 20 of 200 samples have 150 votes each.
        let votes: Vec<f64> = (0..200).map(|i| if i < 20 { 150.0 } else { 0.0 }).collect();
        assert!((effective_samples(&votes, 0.0).unwrap() - 20.0).abs() < 1e-9);
        let estimate = effective_samples(&noisy(&votes, 8.34), 8.34).unwrap();
        // The deviation of the estimate is 8 %.
        assert!((estimate - 20.0).abs() < 4.0, "{estimate}");
        assert!(few_samples(&noisy(&votes, 8.34), 8.34).is_some());
        // All of them have 15: the sum of squares of the noise is a third of that of the votes.
        let even = noisy(&[15.0; 200], 8.34);
        let estimate = effective_samples(&even, 8.34).unwrap();
        assert!(estimate > 160.0, "{estimate}");
        assert_eq!(few_samples(&even, 8.34), None);
    }

    #[test]
    fn nothing_is_said_where_the_noise_covers_the_votes() {
        assert_eq!(effective_samples(&noisy(&[0.0; 200], 8.34), 8.34), None);
        assert_eq!(effective_samples(&noisy(&[1.0; 200], 8.34), 8.34), None);
        assert_eq!(effective_samples(&[], 8.34), None);
        assert_eq!(effective_samples(&[0.0; 5], 0.0), None);
    }
}
