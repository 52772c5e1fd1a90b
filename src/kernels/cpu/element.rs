//! The number types in which maps and weights are kept.

#![allow(unsafe_code)]

use std::fmt::Debug;
use std::sync::Mutex;

use candle_core::{CpuStorage, Result, WithDType};
use half::bf16;

use super::avx2_madd::Avx2MaddToken;
use super::avx512_bf16::Avx512Bf16Token;
use super::isa::{Isa, Kernel, Tile, TileQuery};
use super::simd::{Simd, load_each, store_each};

/// A number as it is kept in memory. Arithmetic is done in `f32`, whatever it is kept as.
///
/// # Safety
/// Any bits are a value of the type.
pub(in crate::kernels) unsafe trait Element: WithDType {
    /// What the CPU must have for maps of this type.
    type Token: Copy + Debug + PartialEq + Send + Sync;

    /// This process's.
    ///
    /// # Errors
    /// As [`Isa::current`]; the CPU or the path lacks what the type needs.
    fn token() -> Result<Self::Token>;

    /// Runs `kernel` as compiled for the path.
    fn run<K: Kernel>(token: Self::Token, kernel: K) -> K::Output;

    /// The register tile of the path.
    fn tile(token: Self::Token) -> Tile {
        Self::run(token, TileQuery)
    }

    fn get(self) -> f32;

    /// Rounded to the nearest, ties to even.
    fn of(x: f32) -> Self;

    /// What lies around a map, for a step of many channels.
    fn zeros() -> &'static [Self];

    /// Buffers of this type that nobody uses.
    fn idle() -> &'static Mutex<Vec<Vec<Self>>>;

    /// # Safety
    /// `from` points to `S::LANES` readable numbers.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V;

    /// # Safety
    /// `to` points to `S::LANES` writable numbers.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, a: S::V);

    /// These numbers as they are, if they need not be widened.
    fn as_wide(numbers: &[Self]) -> Option<&[f32]>;

    /// [`Element::as_wide`], to be written to.
    fn as_wide_mut(numbers: &mut [Self]) -> Option<&mut [f32]>;

    fn storage(numbers: Vec<Self>) -> CpuStorage {
        Self::to_cpu_storage_owned(numbers)
    }
}

// SAFETY: any 32 bits are one.
unsafe impl Element for f32 {
    type Token = Isa;

    fn token() -> Result<Isa> {
        Isa::current()
    }

    #[inline(always)]
    fn run<K: Kernel>(token: Isa, kernel: K) -> K::Output {
        token.run(kernel)
    }

    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    fn zeros() -> &'static [f32] {
        static ZEROS: [f32; 4096] = [0.0; 4096];
        &ZEROS
    }

    fn idle() -> &'static Mutex<Vec<Vec<f32>>> {
        static IDLE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());
        &IDLE
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { simd.load(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut f32, a: S::V) {
        // SAFETY: the caller's.
        unsafe { simd.store(to, a) }
    }

    #[inline(always)]
    fn as_wide(numbers: &[f32]) -> Option<&[f32]> {
        Some(numbers)
    }

    #[inline(always)]
    fn as_wide_mut(numbers: &mut [f32]) -> Option<&mut [f32]> {
        Some(numbers)
    }
}

// SAFETY: any 16 bits are one.
unsafe impl Element for bf16 {
    type Token = Avx512Bf16Token;

    fn token() -> Result<Avx512Bf16Token> {
        Avx512Bf16Token::current()
    }

    #[inline(always)]
    fn run<K: Kernel>(token: Avx512Bf16Token, kernel: K) -> K::Output {
        token.run(kernel)
    }

    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without a branch, so that compilers vectorise it.
    #[inline(always)]
    fn of(x: f32) -> Self {
        let bits = x.to_bits();
        // Half a unit in the last place, less a bit where that must not round up from the middle.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // The sum could carry a NaN into infinity.
        let bits = if x.is_nan() { bits | 1 << 22 } else { rounded };
        Self::from_bits((bits >> 16) as u16)
    }

    fn zeros() -> &'static [bf16] {
        static ZEROS: [bf16; 4096] = [bf16::ZERO; 4096];
        &ZEROS
    }

    fn idle() -> &'static Mutex<Vec<Vec<bf16>>> {
        static IDLE: Mutex<Vec<Vec<bf16>>> = Mutex::new(Vec::new());
        &IDLE
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const bf16) -> S::V {
        // SAFETY: the caller's.
        unsafe { simd.load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut bf16, a: S::V) {
        // SAFETY: the caller's.
        unsafe { simd.store_bf16(to, a) }
    }

    #[inline(always)]
    fn as_wide(_: &[bf16]) -> Option<&[f32]> {
        None
    }

    #[inline(always)]
    fn as_wide_mut(_: &mut [bf16]) -> Option<&mut [f32]> {
        None
    }
}

// SAFETY: any 16 bits are one.
unsafe impl Element for i16 {
    type Token = Avx2MaddToken;

    fn token() -> Result<Avx2MaddToken> {
        Avx2MaddToken::current()
    }

    #[inline(always)]
    fn run<K: Kernel>(token: Avx2MaddToken, kernel: K) -> K::Output {
        token.run(kernel)
    }

    #[inline(always)]
    fn get(self) -> f32 {
        f32::from(self)
    }

    /// Of an integer; whatever else is cut to one.
    #[inline(always)]
    fn of(x: f32) -> Self {
        x as i16
    }

    fn zeros() -> &'static [i16] {
        static ZEROS: [i16; 4096] = [0; 4096];
        &ZEROS
    }

    fn idle() -> &'static Mutex<Vec<Vec<i16>>> {
        static IDLE: Mutex<Vec<Vec<i16>>> = Mutex::new(Vec::new());
        &IDLE
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const i16) -> S::V {
        // SAFETY: the caller's.
        unsafe { load_each(simd, from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut i16, a: S::V) {
        // SAFETY: the caller's.
        unsafe { store_each(simd, to, a) }
    }

    #[inline(always)]
    fn as_wide(_: &[i16]) -> Option<&[f32]> {
        None
    }

    #[inline(always)]
    fn as_wide_mut(_: &mut [i16]) -> Option<&mut [f32]> {
        None
    }
}

/// `$body` with `$element` standing for the type of `$of`'s numbers. Layers ask [`super::takes`] first, so
/// that whatever is not bf16 is `f32`, or an error when its numbers are read.
macro_rules! match_dtype {
    ($of:expr, $element:ident => $body:expr) => {{
        #[allow(unused_imports, reason = "a tensor needs no trait to tell its type")]
        use candle_core::backend::BackendStorage as _;
        if $of.dtype() == candle_core::DType::BF16 {
            type $element = half::bf16;
            $body
        } else {
            type $element = f32;
            $body
        }
    }};
}
pub(super) use match_dtype;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for bits in (0..=u32::MAX).step_by(9973).chain(0x3f80_0000..0x3f82_0001) {
            let x = f32::from_bits(bits);
            let (found, expected) = (<bf16 as Element>::of(x), bf16::from_f32(x));
            assert_eq!(found.to_bits(), expected.to_bits(), "{x:e}");
            let back = Element::get(found);
            assert!(back.is_nan() == x.is_nan(), "{x:e} became {back:e}");
        }
    }
}
