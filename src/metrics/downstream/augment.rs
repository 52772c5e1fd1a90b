//! Augmentation of training images: random shifts and reflections.

use crate::streams::KeyedRng;

/// Range of the random changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Augment {
    /// Largest shift in pixels, in each direction; the free border becomes black.
    pub shift: usize,
    /// True if left and right are exchanged for half of the images.
    pub flip: bool,
}

impl Augment {
    /// Chooses a change and calls `put(to, from)` for every pixel of the result that comes from a
    /// pixel of the image, with their row-major indices.
    pub fn apply(
        self,
        (height, width): (usize, usize),
        rng: &mut KeyedRng,
        mut put: impl FnMut(usize, usize),
    ) {
        let range = 2 * self.shift as u64 + 1;
        // All three numbers are always used, so that one setting does not change the others.
        let (down, right) = (rng.below(range) as usize, rng.below(range) as usize);
        let flip = rng.below(2) == 1 && self.flip;
        for y in 0..height {
            let Some(from_y) = (y + down).checked_sub(self.shift).filter(|y| *y < height) else {
                continue;
            };
            for x in 0..width {
                let Some(from_x) = (x + right).checked_sub(self.shift).filter(|x| *x < width)
                else {
                    continue;
                };
                let from_x = if flip { width - 1 - from_x } else { from_x };
                put(y * width + x, from_y * width + from_x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, RngKey};

    fn results(augment: Augment) -> Vec<Vec<Option<usize>>> {
        (0..200)
            .map(|sample| {
                let key = RngKey {
                    seed: 1,
                    phase: Phase::Downstream,
                    iteration: 0,
                    repeat: 2,
                    sample,
                };
                let mut out = vec![None; 6];
                augment.apply((2, 3), &mut key.rng(), |to, from| out[to] = Some(from));
                out
            })
            .collect()
    }

    #[test]
    fn without_changes_an_image_is_kept() {
        let still = Augment {
            shift: 0,
            flip: false,
        };
        let expected: Vec<Option<usize>> = (0..6).map(Some).collect();
        assert!(results(still).iter().all(|found| *found == expected));
    }

    #[test]
    fn half_of_the_images_are_reflected() {
        let flips = results(Augment {
            shift: 0,
            flip: true,
        });
        let reflected = [2, 1, 0, 5, 4, 3].map(Some).to_vec();
        let count = flips.iter().filter(|found| **found == reflected).count();
        assert!((70..130).contains(&count), "{count}");
    }

    #[test]
    fn shifts_have_all_directions() {
        let mut found = results(Augment {
            shift: 1,
            flip: false,
        });
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 9);
        assert!(found.contains(&vec![None, None, None, None, Some(0), Some(1)]));
    }
}
