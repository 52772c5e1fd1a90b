//! Concatenation of feature maps.

use candle_core::{Result, Tensor};

use super::cpu;
use super::limits::check_element_count;

/// Concatenates `[n, c, h, w]` along the channels, in order.
///
/// # Errors
/// Parts that differ in more than their channels; no parts; errors of candle.
pub fn concat(parts: &[Tensor]) -> Result<Tensor> {
    if cpu::supports_all(&parts.iter().collect::<Vec<_>>()) {
        let parts: Result<Vec<_>> = parts.iter().map(cpu::channels_last).collect();
        return cpu::channels_first(&cpu::concat(&parts?)?);
    }
    if let [first, ..] = parts {
        check_element_count(first.device(), parts.iter().map(Tensor::elem_count).sum())?;
    }
    Tensor::cat(parts, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, uniform};

    #[test]
    fn agrees_with_candle() {
        for (height, width) in [(1, 1), (3, 5), (20, 30)] {
            let part = |channels, seed| uniform(&[2, channels, height, width], seed);
            let parts = [part(3, 1), part(1, 2), part(64, 3)];
            let expected = Tensor::cat(&parts, 1).unwrap();
            assert_close(&concat(&parts).unwrap(), &expected, 0.0);
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let x = uniform(&[2, 3, 4, 4], 1);
        assert!(concat(&[]).is_err());
        for other in [[1, 3, 4, 4], [2, 3, 5, 4], [2, 3, 4, 5]] {
            assert!(concat(&[x.clone(), uniform(&other, 2)]).is_err());
        }
    }
}
