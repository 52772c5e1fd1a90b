//! Proof token for products of 16-bit integers with AVX2.

#![allow(unsafe_code)]

use candle_core::{Result, bail};

use super::isa::Isa;
#[cfg(not(target_arch = "x86_64"))]
use super::isa::Kernel;
#[cfg(target_arch = "x86_64")]
use super::isa::KernelFor;
#[cfg(target_arch = "x86_64")]
use super::simd::Avx2;

/// Proof that this process uses AVX2, whose `vpmaddwd` multiplies pairs of 16-bit integers and adds
/// both products in 32 bits: twice as many products per instruction as in `f32`.
///
/// The only constructor is [`Avx2MaddToken::current`]. With AVX-512 integers gain nothing: without
/// further extensions, of which AVX512_BF16 is one, its `f32` products are as fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) struct Avx2MaddToken(Proof);

#[cfg(target_arch = "x86_64")]
type Proof = ();

/// No kernel multiplies integers on other architectures, so the token has no value there.
#[cfg(not(target_arch = "x86_64"))]
type Proof = std::convert::Infallible;

#[cfg(target_arch = "x86_64")]
impl Avx2MaddToken {
    /// Returns the token of this process.
    ///
    /// # Errors
    /// As [`Isa::current`]; the process does not use AVX2.
    pub fn current() -> Result<Self> {
        let isa = Isa::current()?;
        if Isa::named("avx2") != Some(isa) {
            bail!("integer products exist for AVX2 only");
        }
        Ok(Self(()))
    }

    /// Runs `kernel` as compiled for AVX2.
    #[inline(always)]
    pub(super) fn run<K: KernelFor<Avx2>>(self, kernel: K) -> K::Output {
        // SAFETY: `current` makes a value only where `Isa::named` found these features.
        unsafe { run(kernel) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx2MaddToken {
    /// Returns an error: this architecture has no such token.
    ///
    /// # Errors
    /// Always.
    pub fn current() -> Result<Self> {
        Isa::current()?;
        bail!("integer products exist for AVX2 only");
    }

    pub(super) fn run<K: Kernel>(self, _: K) -> K::Output {
        self.unreachable()
    }

    /// Stands for code that only a value of this type could reach.
    pub(super) fn unreachable<R>(self) -> R {
        match self.0 {}
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run<K: KernelFor<Avx2>>(kernel: K) -> K::Output {
    // SAFETY: this function is compiled for, and so only runs on, a CPU with AVX2 and FMA.
    kernel.run_for(unsafe { Avx2::assume() })
}
