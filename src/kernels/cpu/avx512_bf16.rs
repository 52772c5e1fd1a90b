//! What the CPU must have for layers in bfloat16.

#![allow(unsafe_code)]

use candle_core::{Result, bail};
use half::bf16;

use super::element::Element;
#[cfg(target_arch = "x86_64")]
use super::isa::Isa;
use super::isa::Kernel;
use super::micro::Product;
#[cfg(target_arch = "x86_64")]
use super::simd::Avx512Bf16;

/// The proof that this process uses AVX-512 and that the CPU has AVX512_BF16, which multiplies pairs of
/// bfloat16 numbers and adds them in `f32`.
///
/// A value can only be had from [`Avx512Bf16Token::current`], which asks the CPU. There is no emulation: it would
/// be slower than `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) struct Avx512Bf16Token(Proof);

#[cfg(target_arch = "x86_64")]
type Proof = ();

/// Other CPUs have other instructions, which nothing here uses: there is no value.
#[cfg(not(target_arch = "x86_64"))]
type Proof = std::convert::Infallible;

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16Token {
    /// # Errors
    /// As [`Isa::current`]; says what is missing.
    pub fn current() -> Result<Self> {
        let isa = Isa::current()?;
        let avx512 = Isa::named("avx512");
        if avx512.is_none() || !is_x86_feature_detected!("avx512bf16") {
            bail!("bf16 on a CPU needs AVX512_BF16, which this one does not have");
        }
        if Some(isa) != avx512 {
            bail!("bf16 on a CPU needs AVX512_BF16, but DPSYN_CPU allows no AVX-512");
        }
        Ok(Self(()))
    }

    /// Runs `kernel` as compiled for AVX-512 with AVX512_BF16.
    #[inline(always)]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `current` makes a value only on a CPU that has these features.
        unsafe { run(kernel) }
    }

    /// Runs `product` as compiled for them.
    #[inline(always)]
    pub(super) fn multiply<O: Element>(self, product: Product<'_, '_, bf16, O>) {
        // SAFETY: `current` makes a value only on a CPU that has these features.
        unsafe { multiply(product) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx512Bf16Token {
    /// # Errors
    /// Always.
    pub fn current() -> Result<Self> {
        bail!("bf16 on a CPU needs AVX512_BF16, which this one does not have");
    }

    pub(super) fn run<K: Kernel>(self, _: K) -> K::Output {
        match self.0 {}
    }

    pub(super) fn multiply<O: Element>(self, _: Product<'_, '_, bf16, O>) {
        match self.0 {}
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is compiled for, and so only runs on, a CPU with these features.
    kernel.run(unsafe { Avx512Bf16::assume() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn multiply<O: Element>(product: Product<'_, '_, bf16, O>) {
    // SAFETY: as above.
    product.run_on(unsafe { Avx512Bf16::assume() });
}
