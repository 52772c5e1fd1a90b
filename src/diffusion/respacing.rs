//! Selection of the steps of the original process that a shorter process keeps.

use std::fmt;
use std::str::FromStr;

use super::DiffusionError;

/// A selection of steps of the original process (`space_timesteps` of `respace.py`).
///
/// Written as text, as the original's `timestep_respacing`:
///
/// | text | meaning |
/// |---|---|
/// | `""` | every step |
/// | `"100"` | 100 steps from the first to the last, evenly |
/// | `"10,20,30"` | three equal sections; 10 steps of the first (least noisy) one, ... |
/// | `"ddim25"` | every k-th step from the first, with the smallest k that gives exactly 25 |
/// | `"quad20"` | 20 steps from the first to the last, in proportion to the squares of 0 … 19 |
///
/// The last form is not part of the original; it follows Song et al. 2021 (arXiv 2010.02502,
/// appendix D.3). Its steps are closer near the image, where the noise changes fastest relative to
/// itself, which suits few steps of a second-order solver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Respacing {
    /// Every step.
    All,
    /// Equal sections with this many steps each; the least noisy section first.
    Sections(Vec<usize>),
    /// A constant integer stride that leaves exactly this many steps.
    Stride(usize),
    /// This many steps in proportion to the squares of 0, 1, 2, ….
    Quadratic(usize),
}

impl Respacing {
    /// Returns the steps kept of `steps`, ascending.
    ///
    /// # Errors
    /// [`DiffusionError::Section`], [`DiffusionError::Stride`] or
    /// [`DiffusionError::InferenceSteps`] if a process of `steps` steps has no such selection.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>, DiffusionError> {
        match self {
            Self::All => Ok((0..steps).collect()),
            Self::Sections(counts) => sections(steps, counts),
            Self::Stride(count) => stride(steps, *count),
            Self::Quadratic(count) => quadratic(steps, *count),
        }
    }
}

fn sections(steps: usize, counts: &[usize]) -> Result<Vec<usize>, DiffusionError> {
    // Without counts there are no sections, and a divisor of 1 changes nothing.
    let (shortest, longer) = (steps / counts.len().max(1), steps % counts.len().max(1));
    let mut kept = Vec::new();
    let mut start = 0;
    for (index, &count) in counts.iter().enumerate() {
        let size = shortest + usize::from(index < longer);
        if size < count {
            return Err(DiffusionError::Section {
                section: index + 1,
                size,
                count,
            });
        }
        let fraction = if count <= 1 {
            1.0
        } else {
            (size - 1) as f64 / (count - 1) as f64
        };
        // Added up instead of multiplied, and rounded half to even, as in the original: the last
        // bits decide which step is taken.
        let mut position = 0.0f64;
        for _ in 0..count {
            kept.push(start + position.round_ties_even() as usize);
            position += fraction;
        }
        start += size;
    }
    Ok(kept)
}

fn stride(steps: usize, count: usize) -> Result<Vec<usize>, DiffusionError> {
    let kept = |stride: usize| steps.div_ceil(stride);
    // The original does not try the stride `steps` either, which would keep the first step only.
    if let Some(stride) = (1..steps).find(|&stride| kept(stride) == count) {
        return Ok((0..steps).step_by(stride).collect());
    }
    let above = (1..steps).map(kept).filter(|&n| n > count).min();
    let below = (1..steps).map(kept).filter(|&n| n < count).max();
    let possible = match (below, above) {
        (Some(below), Some(above)) => format!("{below} or {above}"),
        (Some(only), None) | (None, Some(only)) => only.to_string(),
        (None, None) => "none".to_owned(),
    };
    Err(DiffusionError::Stride {
        count,
        steps,
        possible,
    })
}

fn quadratic(steps: usize, count: usize) -> Result<Vec<usize>, DiffusionError> {
    if count > steps {
        return Err(DiffusionError::InferenceSteps {
            steps: count,
            expected: format!("at most {steps}"),
        });
    }
    let last = steps.saturating_sub(1) as f64;
    let intervals = count.saturating_sub(1).max(1) as f64;
    let mut next = 0;
    let kept = (0..count).map(|index| {
        let share = index as f64 / intervals;
        let position = (share * share * last).round_ties_even() as usize;
        // Squares of small shares are closer than whole steps, so that some positions must move up.
        // This never moves the last one, because the distances between the squares grow.
        let step = position.max(next);
        next = step + 1;
        step
    });
    Ok(kept.collect())
}

impl FromStr for Respacing {
    type Err = DiffusionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `usize::from_str` alone would accept a sign.
        let number = |part: &str| {
            let part = part.trim();
            part.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| part.parse().ok())
                .flatten()
        };
        let parsed = if text.is_empty() {
            Some(Self::All)
        } else if let Some(count) = text.strip_prefix("ddim") {
            number(count).map(Self::Stride)
        } else if let Some(count) = text.strip_prefix("quad") {
            number(count).map(Self::Quadratic)
        } else {
            text.split(',')
                .map(number)
                .collect::<Option<_>>()
                .map(Self::Sections)
        };
        parsed.ok_or_else(|| DiffusionError::RespacingSyntax {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Respacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Stride(count) => write!(f, "ddim{count}"),
            Self::Quadratic(count) => write!(f, "quad{count}"),
            Self::Sections(counts) => {
                for (index, count) in counts.iter().enumerate() {
                    write!(f, "{}{count}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(text: &str, steps: usize) -> Result<Vec<usize>, DiffusionError> {
        text.parse::<Respacing>()?.timesteps(steps)
    }

    #[test]
    fn the_documented_forms() {
        assert_eq!(kept("", 5).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(kept("3", 9).unwrap(), [0, 4, 8]);
        // Strides of 2.5: 2.5 rounds to 2 and 7.5 to 8.
        assert_eq!(kept("5", 11).unwrap(), [0, 2, 5, 8, 10]);
        // 10 steps in 3 sections: 4, 3 and 3.
        assert_eq!(kept("2,1,3", 10).unwrap(), [0, 3, 4, 7, 8, 9]);
        assert_eq!(kept("0,2", 10).unwrap(), [5, 9]);
        assert_eq!(kept("ddim4", 10).unwrap(), [0, 3, 6, 9]);
        // 0, 1, 4, 9, 16 of 17 steps; 1/9 and 4/9 of 10 steps, the first moved up.
        assert_eq!(kept("quad5", 17).unwrap(), [0, 1, 4, 9, 16]);
        assert_eq!(kept("quad4", 5).unwrap(), [0, 1, 2, 4]);
        assert_eq!(kept("quad1", 5).unwrap(), [0]);
        assert_eq!(kept(" 3 , 3 ", 6).unwrap(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_cannot_be_is_explained() {
        for text in [
            "ddim",
            "ddim-3",
            "ddim 4x",
            "quad",
            "quad-3",
            "-5",
            "+5",
            "10,,20",
            "10,",
            ",",
            " ",
            "1e2",
            "99999999999999999999",
        ] {
            let error = kept(text, 1000).unwrap_err();
            assert!(
                matches!(error, DiffusionError::RespacingSyntax { .. }),
                "{text}: {error}"
            );
            assert!(
                error.to_string().contains(&format!("\"{text}\"")),
                "{error}"
            );
        }
        assert_eq!(
            kept("400,600", 1000).unwrap_err().to_string(),
            "cannot take 600 steps from section 2, which has 500"
        );
        assert_eq!(
            kept("ddim300", 1000).unwrap_err().to_string(),
            "no integer stride takes exactly 300 of 1000 steps; possible are 250 or 334"
        );
        assert_eq!(
            kept("quad11", 10).unwrap_err().to_string(),
            "cannot take 11 steps: expected at most 10"
        );
        assert!(matches!(
            kept("ddim1", 10),
            Err(DiffusionError::Stride { .. })
        ));
        assert!(matches!(
            kept("ddim0", 0),
            Err(DiffusionError::Stride { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_read_back(text in "(ddim|quad)?[0-9, +a-]{0,12}") {
            if let Ok(respacing) = text.parse::<Respacing>() {
                prop_assert_eq!(respacing.to_string().parse::<Respacing>(), Ok(respacing));
            }
        }

        #[test]
        fn sections_keep_the_requested_number(
            counts in prop::collection::vec(0usize..40, 1..6),
            steps in 1usize..5000,
        ) {
            let smallest = steps / counts.len();
            match Respacing::Sections(counts.clone()).timesteps(steps) {
                Ok(kept) => {
                    prop_assert_eq!(kept.len(), counts.iter().sum::<usize>());
                    prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
                    prop_assert!(kept.iter().all(|&step| step < steps));
                }
                Err(_) => prop_assert!(counts.iter().any(|&count| count > smallest)),
            }
        }

        #[test]
        fn one_section_keeps_both_ends(count in 2usize..500, extra in 0usize..5000) {
            let steps = count + extra;
            let kept = Respacing::Sections(vec![count]).timesteps(steps).unwrap();
            prop_assert_eq!((kept[0], kept[count - 1]), (0, steps - 1));
        }

        #[test]
        fn squares_keep_both_ends_and_the_requested_number(
            count in 2usize..500, extra in 0usize..5000,
        ) {
            let steps = count + extra;
            let kept = Respacing::Quadratic(count).timesteps(steps).unwrap();
            prop_assert_eq!(kept.len(), count);
            prop_assert_eq!((kept[0], kept[count - 1]), (0, steps - 1));
            prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            // At most a rounding error from the squares, except where these are too close.
            for (index, step) in kept.iter().enumerate() {
                let exact = (index as f64 / (count - 1) as f64).powi(2) * (steps - 1) as f64;
                let moved = *step as f64 - exact;
                let pushed = *step <= index || kept[index - 1] + 1 == *step;
                prop_assert!(moved >= -0.5 && (moved <= 0.5 || pushed));
            }
        }

        #[test]
        fn strides_are_constant(stride in 1usize..100, steps in 101usize..5000) {
            let count = steps.div_ceil(stride);
            let kept = Respacing::Stride(count).timesteps(steps).unwrap();
            prop_assert_eq!(kept.len(), count);
            prop_assert_eq!(kept[0], 0);
            let first = kept[1];
            prop_assert!(first <= stride);
            prop_assert!(kept.windows(2).all(|pair| pair[1] - pair[0] == first));
        }
    }
}
