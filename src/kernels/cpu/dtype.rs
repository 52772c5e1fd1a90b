//! The number types of feature maps, weights and product operands: what such a type is.
//!
//! The module `dispatch` chooses the code for a type.

#![allow(unsafe_code)]

use std::fmt::Debug;
use std::sync::Mutex;

use half::bf16;

/// A number as it is kept in memory. Arithmetic outside of products is done in `f32`.
///
/// # Safety
/// Every bit pattern must be a value of the type.
pub(in crate::kernels) unsafe trait Number:
    Copy + Debug + PartialEq + Send + Sync + 'static
{
    /// Converts the number to `f32`, which is exact for every type here.
    fn widen(self) -> f32;

    /// Converts from `f32`.
    fn narrow(x: f32) -> Self;

    /// Returns the pool of idle buffers of this type, which `scratch` reuses.
    fn idle_buffers() -> &'static Mutex<Vec<Vec<Self>>>;
}

// SAFETY: every pattern of 32 bits is an `f32`.
unsafe impl Number for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }

    fn idle_buffers() -> &'static Mutex<Vec<Vec<f32>>> {
        static IDLE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());
        &IDLE
    }
}

// SAFETY: every pattern of 16 bits is a `bf16`.
unsafe impl Number for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Rounds to nearest, ties to even, without a branch, so that the compiler vectorizes it.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        // Adds half a unit in the last place, one bit less where a tie must round down to even.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // The sum could carry a NaN into infinity, so a NaN keeps its bits and becomes quiet.
        let bits = if x.is_nan() { bits | 1 << 22 } else { rounded };
        Self::from_bits((bits >> 16) as u16)
    }

    fn idle_buffers() -> &'static Mutex<Vec<Vec<bf16>>> {
        static IDLE: Mutex<Vec<Vec<bf16>>> = Mutex::new(Vec::new());
        &IDLE
    }
}

// SAFETY: every pattern of 16 bits is an `i16`.
unsafe impl Number for i16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    /// Truncates; callers pass integers in the range of the type.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x as i16
    }

    fn idle_buffers() -> &'static Mutex<Vec<Vec<i16>>> {
        static IDLE: Mutex<Vec<Vec<i16>>> = Mutex::new(Vec::new());
        &IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for bits in (0..=u32::MAX).step_by(9973).chain(0x3f80_0000..0x3f82_0001) {
            let x = f32::from_bits(bits);
            let (found, expected) = (<bf16 as Number>::narrow(x), bf16::from_f32(x));
            assert_eq!(found.to_bits(), expected.to_bits(), "{x:e}");
            let back = Number::widen(found);
            assert!(back.is_nan() == x.is_nan(), "{x:e} became {back:e}");
        }
    }
}
