//! One step of DPM-Solver++(2M), the second-order multistep solver for the predicted image
//! (Lu et al. 2022, arXiv 2211.01095, algorithm 2).
//!
//! The noise level of a sample is σ = noise share / image share, so that λ, the logarithm of the
//! signal-to-noise ratio, is −ln σ. The solver integrates the predicted image over λ. A first-order
//! step takes the prediction as constant, which is DDIM; a second-order step takes it as the line
//! through the last two predictions.

use candle_core::{Result, Tensor};

/// Returns the shares of the image and of the noise in a sample of noise level `sigma`.
pub(super) fn shares(sigma: f64) -> (f64, f64) {
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    (signal, sigma * signal)
}

/// Advances `sample` from noise level `sigma`, where the network predicted `image`, to level
/// `next`. At level 0 the result is the image.
///
/// `before` is the level and the predicted image of the previous step. Without it, the step is of
/// first order.
///
/// # Errors
/// Errors of candle if the shapes of the tensors differ.
pub(super) fn advance(
    (sigma, next): (f64, f64),
    sample: &Tensor,
    image: &Tensor,
    before: Option<(f64, &Tensor)>,
) -> Result<Tensor> {
    // The step of λ is infinite if `next` is 0.
    let step = sigma.ln() - next.ln();
    let mut target = image.clone();
    if let Some((earlier, before)) = before {
        let ratio = (earlier.ln() - sigma.ln()) / step;
        let slope = ((image - before)? / ratio)?;
        target = (image + (slope * 0.5)?)?;
    }
    let (signal_next, noise_next) = shares(next);
    let (_, noise) = shares(sigma);
    let gain = signal_next * (-(-step).exp_m1());
    (sample * (noise_next / noise))? + (target * gain)?
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_vec1().unwrap()
    }

    proptest! {
        /// A constant prediction is solved exactly, by either order and over any step.
        #[test]
        fn a_known_image_keeps_its_noise(
            image in -1.0f64..1.0,
            noise in -3.0f64..3.0,
            (first, second, third) in (-6.0f64..6.0, 0.01f64..5.0, 0.01f64..5.0),
            second_order: bool,
        ) {
            let sigma = |lambda: f64| (-lambda).exp();
            let levels = [sigma(first), sigma(first + second), sigma(first + second + third)];
            let at = |sigma: f64| {
                let (signal, share) = shares(sigma);
                tensor(&[signal * image + share * noise])
            };
            let known = tensor(&[image]);
            let before = second_order.then_some((levels[0], &known));
            let found = advance((levels[1], levels[2]), &at(levels[1]), &known, before).unwrap();
            let expected = at(levels[2]);
            prop_assert!((values(&found)[0] - values(&expected)[0]).abs() < 1e-9);
        }

        /// The last step returns the prediction for any sample.
        #[test]
        fn no_noise_is_left_at_level_zero(
            sample in -3.0f64..3.0, image in -1.0f64..1.0, sigma in 1e-3f64..1e3,
        ) {
            let found = advance((sigma, 0.0), &tensor(&[sample]), &tensor(&[image]), None).unwrap();
            prop_assert_eq!(values(&found), vec![image]);
        }
    }
}
