//! Proof token for the bfloat16 instructions of AVX-512.

#![allow(unsafe_code)]

use candle_core::{Result, bail};

#[cfg(not(target_arch = "x86_64"))]
use super::isa::Kernel;
#[cfg(target_arch = "x86_64")]
use super::isa::{Isa, KernelFor};
#[cfg(target_arch = "x86_64")]
use super::simd::Avx512Bf16;

/// Proof that this process uses AVX-512 and that the CPU has AVX512_BF16, whose `vdpbf16ps`
/// multiplies pairs of bfloat16 numbers and adds both products to an `f32`.
///
/// The only constructor is [`Avx512Bf16Token::current`], which reads the CPU's features. There is
/// no emulation: it would be slower than `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) struct Avx512Bf16Token(Proof);

#[cfg(target_arch = "x86_64")]
type Proof = ();

/// No kernel uses the bf16 instructions of other architectures, so the token has no value there.
#[cfg(not(target_arch = "x86_64"))]
type Proof = std::convert::Infallible;

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16Token {
    /// Returns the token of this process.
    ///
    /// # Errors
    /// As [`Isa::current`]; the CPU lacks AVX512_BF16, or `DPSYN_CPU` excludes AVX-512.
    pub fn current() -> Result<Self> {
        let isa = Isa::current()?;
        let avx512 = Isa::named("avx512");
        if avx512.is_none() || !is_x86_feature_detected!("avx512bf16") {
            bail!("bf16 on a CPU needs AVX512_BF16, which this CPU does not have");
        }
        if Some(isa) != avx512 {
            bail!("bf16 on a CPU needs AVX512_BF16, but DPSYN_CPU excludes AVX-512");
        }
        Ok(Self(()))
    }

    /// Runs `kernel` as compiled for AVX-512 with AVX512_BF16.
    #[inline(always)]
    pub(super) fn run<K: KernelFor<Avx512Bf16>>(self, kernel: K) -> K::Output {
        // SAFETY: `current` makes a value only on a CPU that has these features.
        unsafe { run(kernel) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx512Bf16Token {
    /// Returns an error: this architecture has no such token.
    ///
    /// # Errors
    /// Always.
    pub fn current() -> Result<Self> {
        bail!("bf16 on a CPU needs AVX512_BF16, which this CPU does not have");
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn run<K: KernelFor<Avx512Bf16>>(kernel: K) -> K::Output {
    // SAFETY: this function is compiled for, and so only runs on, a CPU with these features.
    kernel.run_for(unsafe { Avx512Bf16::assume() })
}
