//! What the CPU must have for products of 16-bit integers.

#![allow(unsafe_code)]

use candle_core::{Result, bail};

use super::element::Element;
use super::isa::{Isa, Kernel};
use super::micro::Product;
#[cfg(target_arch = "x86_64")]
use super::simd::Avx2;

/// The proof that this process uses AVX2, which multiplies pairs of 16-bit integers and adds both products in 32
/// bits: twice as many products at a time as of `f32`.
///
/// A value can only be had from [`Avx2MaddToken::current`]. With AVX-512 there is nothing to be gained: its `f32` is as fast as
/// its integers are without more extensions, of which AVX512_BF16 is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) struct Avx2MaddToken(Proof);

#[cfg(target_arch = "x86_64")]
type Proof = Isa;

/// Other CPUs have other instructions, which nothing here uses: there is no value.
#[cfg(not(target_arch = "x86_64"))]
type Proof = std::convert::Infallible;

#[cfg(target_arch = "x86_64")]
impl Avx2MaddToken {
    /// # Errors
    /// As [`Isa::current`]; the process does not use AVX2.
    pub fn current() -> Result<Self> {
        let isa = Isa::current()?;
        if Isa::named("avx2") != Some(isa) {
            bail!("products of integers are made with AVX2 only");
        }
        Ok(Self(isa))
    }

    /// Runs `kernel` as compiled for AVX2.
    #[inline(always)]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.run(kernel)
    }

    /// Runs `product` as compiled for it.
    #[inline(always)]
    pub(super) fn multiply<O: Element>(self, product: Product<'_, '_, i16, O>) {
        // SAFETY: `current` makes a value only where `Isa::named` found these features.
        unsafe { multiply(product) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx2MaddToken {
    /// # Errors
    /// Always.
    pub fn current() -> Result<Self> {
        Isa::current()?;
        bail!("products of integers are made with AVX2 only");
    }

    pub(super) fn run<K: Kernel>(self, _: K) -> K::Output {
        match self.0 {}
    }

    pub(super) fn multiply<O: Element>(self, _: Product<'_, '_, i16, O>) {
        match self.0 {}
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply<O: Element>(product: Product<'_, '_, i16, O>) {
    // SAFETY: this function is compiled for, and so only runs on, a CPU with AVX2.
    product.run_on(unsafe { Avx2::assume() });
}
