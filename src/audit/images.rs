//! The images of an audit: public, made from a seed.
//!
//! Bins are made in clusters of k candidates that differ by noise of a few gray levels from a
//! common center, a random pattern of 4×4 blocks. A private image equal to a center then votes for
//! the k candidates of its cluster, and two clusters share no votes.

use crate::streams::{KeyedRng, Phase, RngKey};

/// Blocks of one color along each side of a center.
const BLOCKS: usize = 4;
/// The largest deviation of an image from the center of its cluster, in gray levels.
const DEVIATION: u64 = 2;
/// The stream of the coins; clusters have streams of their own numbers.
const COINS: u32 = u32::MAX;

/// A family of images in clusters.
#[derive(Debug, Clone, Copy)]
pub struct Clusters {
    /// Rows and columns of each image.
    pub size: usize,
    /// The seed of all images.
    pub seed: u64,
}

impl Clusters {
    /// Returns the center of a cluster, `[size, size, 3]`.
    #[must_use]
    pub fn center(self, cluster: usize) -> Vec<u8> {
        let mut rng = self.stream(0, cluster);
        let colors: Vec<u8> = (0..BLOCKS * BLOCKS * 3)
            .map(|_| rng.below(256) as u8)
            .collect();
        let mut pixels = Vec::with_capacity(self.size * self.size * 3);
        for y in 0..self.size {
            for x in 0..self.size {
                let block = (y * BLOCKS / self.size) * BLOCKS + x * BLOCKS / self.size;
                pixels.extend_from_slice(colors.get(block * 3..block * 3 + 3).unwrap_or_default());
            }
        }
        pixels
    }

    /// Returns the image `member` of a cluster, counted from 1.
    #[must_use]
    pub fn member(self, cluster: usize, member: u32) -> Vec<u8> {
        let mut rng = self.stream(member, cluster);
        let mut pixels = self.center(cluster);
        for level in &mut pixels {
            let change = rng.below(2 * DEVIATION + 1) as i16 - DEVIATION as i16;
            *level = (i16::from(*level) + change).clamp(0, 255) as u8;
        }
        pixels
    }

    /// Returns independent fair coins.
    #[must_use]
    pub fn coins(self, count: usize) -> Vec<bool> {
        let mut rng = self.stream(COINS, 0);
        (0..count).map(|_| rng.below(2) == 1).collect()
    }

    fn stream(self, repeat: u32, cluster: usize) -> KeyedRng {
        let key = RngKey {
            seed: self.seed,
            phase: Phase::Audit,
            iteration: 0,
            repeat,
            sample: cluster as u64,
        };
        key.rng()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_near_their_center_and_clusters_are_far_apart() {
        let clusters = Clusters { size: 8, seed: 0 };
        let distance = |a: &[u8], b: &[u8]| -> f64 {
            let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
            a.iter().zip(b).map(square).sum::<f64>().sqrt()
        };
        let centers: Vec<Vec<u8>> = (0..100).map(|c| clusters.center(c)).collect();
        for (cluster, center) in centers.iter().enumerate() {
            assert_eq!(center.len(), 8 * 8 * 3);
            assert!(distance(center, &clusters.member(cluster, 1)) <= 192f64.sqrt() * 2.0);
            for other in &centers[..cluster] {
                assert!(distance(center, other) > 300.0);
            }
        }
        assert_ne!(clusters.member(0, 1), clusters.member(0, 2));
        assert_ne!(
            centers[0],
            Clusters { size: 8, seed: 1 }.center(0),
            "the seed changes the images"
        );
    }

    /// 1,000 fair coins show between 400 and 600 heads, except with probability 3·10⁻¹⁰.
    #[test]
    fn coins_are_fair() {
        let coins = Clusters { size: 8, seed: 0 }.coins(1000);
        let heads = coins.iter().filter(|coin| **coin).count();
        assert!((400..=600).contains(&heads), "{heads}");
    }
}
