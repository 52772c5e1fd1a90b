//! Operands of matrix products, and one multiply-add step of each on the vectors of each
//! instruction set.

#![allow(unsafe_code)]

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::avx2_madd::Avx2MaddToken;
#[cfg(target_arch = "x86_64")]
use super::avx512_bf16::Avx512Bf16Token;
use super::dispatch::Dispatch;
#[cfg(target_arch = "x86_64")]
use super::isa::KernelFor;
use super::isa::{Isa, Kernel};
use super::simd::Simd;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512Bf16};

/// A type of product operands.
pub(in crate::kernels) trait GemmElement: Dispatch {
    /// Numbers of the depth that one step multiplies and adds.
    const DEPTH_STEP: usize;

    /// Runs `kernel` as compiled for the instruction set of `token`.
    fn run_gemm<K: GemmKernel<Self>>(token: Self::Token, kernel: K) -> K::Output;
}

/// Code that multiplies operands of type `T` and is compiled once for every instruction set that
/// can do so.
pub(in crate::kernels) trait GemmKernel<T: GemmElement> {
    type Output;

    /// Runs the kernel. As for [`Kernel::run`], hot code must be `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output
    where
        T: MicroKernel<S>;
}

/// One step of a product on the vectors `S`.
pub(in crate::kernels) trait MicroKernel<S: Simd>: GemmElement {
    /// `LANES` groups of `DEPTH_STEP` numbers in a register.
    type Operand: Copy;

    /// Loads `LANES` groups of `DEPTH_STEP` numbers.
    ///
    /// # Safety
    /// `from` points to as many readable numbers.
    unsafe fn load_columns(simd: S, from: *const Self) -> Self::Operand;

    /// Copies one group of `DEPTH_STEP` numbers to every lane.
    ///
    /// # Safety
    /// `from` points to as many readable numbers.
    unsafe fn broadcast_group(simd: S, from: *const Self) -> Self::Operand;

    /// Copies a group to every lane that has its first number only; the others are 0.
    fn broadcast_first(simd: S, first: Self) -> Self::Operand;

    /// Adds the products of `row` and `columns` to a sum. The form of a sum is the type's own; all
    /// bits 0 is the empty sum.
    fn multiply_add(simd: S, row: Self::Operand, columns: Self::Operand, sum: S::V) -> S::V;

    /// Converts a finished sum to `f32`.
    #[inline(always)]
    fn sum_to_f32(_: S, sum: S::V) -> S::V {
        sum
    }
}

impl GemmElement for f32 {
    const DEPTH_STEP: usize = 1;

    #[inline(always)]
    fn run_gemm<K: GemmKernel<f32>>(token: Isa, kernel: K) -> K::Output {
        token.run(F32Gemm(kernel))
    }
}

/// A kernel of `f32` operands, which every instruction set multiplies.
struct F32Gemm<K>(K);

impl<K: GemmKernel<f32>> Kernel for F32Gemm<K> {
    type Output = K::Output;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> K::Output {
        self.0.run(simd)
    }
}

impl<S: Simd> MicroKernel<S> for f32 {
    type Operand = S::V;

    #[inline(always)]
    unsafe fn load_columns(simd: S, from: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { simd.load(from) }
    }

    #[inline(always)]
    unsafe fn broadcast_group(simd: S, from: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { simd.broadcast(from) }
    }

    #[inline(always)]
    fn broadcast_first(simd: S, first: f32) -> S::V {
        simd.splat(first)
    }

    #[inline(always)]
    fn multiply_add(simd: S, row: S::V, columns: S::V, sum: S::V) -> S::V {
        simd.mul_add(row, columns, sum)
    }
}

#[cfg(target_arch = "x86_64")]
impl GemmElement for bf16 {
    const DEPTH_STEP: usize = 2;

    #[inline(always)]
    fn run_gemm<K: GemmKernel<bf16>>(token: Avx512Bf16Token, kernel: K) -> K::Output {
        token.run(Bf16Gemm(kernel))
    }
}

/// A kernel of bf16 operands, which AVX512_BF16 alone multiplies.
#[cfg(target_arch = "x86_64")]
struct Bf16Gemm<K>(K);

#[cfg(target_arch = "x86_64")]
impl<K: GemmKernel<bf16>> KernelFor<Avx512Bf16> for Bf16Gemm<K> {
    type Output = K::Output;

    #[inline(always)]
    fn run_for(self, simd: Avx512Bf16) -> K::Output {
        self.0.run(simd)
    }
}

#[cfg(target_arch = "x86_64")]
impl MicroKernel<Avx512Bf16> for bf16 {
    type Operand = std::arch::x86_64::__m512i;

    #[inline(always)]
    unsafe fn load_columns(simd: Avx512Bf16, from: *const bf16) -> Self::Operand {
        // SAFETY: the caller promises 16 · 2 numbers.
        unsafe { simd.load_pairs(from) }
    }

    #[inline(always)]
    unsafe fn broadcast_group(simd: Avx512Bf16, from: *const bf16) -> Self::Operand {
        // SAFETY: the caller promises two numbers.
        unsafe { simd.broadcast_pair(from) }
    }

    #[inline(always)]
    fn broadcast_first(simd: Avx512Bf16, first: bf16) -> Self::Operand {
        simd.broadcast_single(first)
    }

    #[inline(always)]
    fn multiply_add(
        simd: Avx512Bf16,
        row: Self::Operand,
        columns: Self::Operand,
        sum: <Avx512Bf16 as Simd>::V,
    ) -> <Avx512Bf16 as Simd>::V {
        simd.dot(row, columns, sum)
    }
}

#[cfg(target_arch = "x86_64")]
impl GemmElement for i16 {
    const DEPTH_STEP: usize = 2;

    #[inline(always)]
    fn run_gemm<K: GemmKernel<i16>>(token: Avx2MaddToken, kernel: K) -> K::Output {
        token.run(I16Gemm(kernel))
    }
}

/// A kernel of 16-bit integer operands, for which AVX2 alone is used.
#[cfg(target_arch = "x86_64")]
struct I16Gemm<K>(K);

#[cfg(target_arch = "x86_64")]
impl<K: GemmKernel<i16>> KernelFor<Avx2> for I16Gemm<K> {
    type Output = K::Output;

    #[inline(always)]
    fn run_for(self, simd: Avx2) -> K::Output {
        self.0.run(simd)
    }
}

/// Sums are 32-bit integers in the bits of the vector until [`MicroKernel::sum_to_f32`].
#[cfg(target_arch = "x86_64")]
impl MicroKernel<Avx2> for i16 {
    type Operand = std::arch::x86_64::__m256i;

    #[inline(always)]
    unsafe fn load_columns(simd: Avx2, from: *const i16) -> Self::Operand {
        // SAFETY: the caller promises 8 · 2 numbers.
        unsafe { simd.load_pairs(from) }
    }

    #[inline(always)]
    unsafe fn broadcast_group(simd: Avx2, from: *const i16) -> Self::Operand {
        // SAFETY: the caller promises two numbers.
        unsafe { simd.broadcast_pair(from) }
    }

    #[inline(always)]
    fn broadcast_first(simd: Avx2, first: i16) -> Self::Operand {
        simd.broadcast_single(first)
    }

    #[inline(always)]
    fn multiply_add(
        simd: Avx2,
        row: Self::Operand,
        columns: Self::Operand,
        sum: <Avx2 as Simd>::V,
    ) -> <Avx2 as Simd>::V {
        simd.dot(row, columns, sum)
    }

    #[inline(always)]
    fn sum_to_f32(simd: Avx2, sum: <Avx2 as Simd>::V) -> <Avx2 as Simd>::V {
        simd.numbers(sum)
    }
}

/// Elsewhere no token of these types has a value, so their products are never reached.
#[cfg(not(target_arch = "x86_64"))]
mod unreachable {
    use super::{Dispatch, GemmElement, GemmKernel, bf16};

    impl GemmElement for bf16 {
        const DEPTH_STEP: usize = 2;

        fn run_gemm<K: GemmKernel<bf16>>(token: <bf16 as Dispatch>::Token, _: K) -> K::Output {
            token.unreachable()
        }
    }

    impl GemmElement for i16 {
        const DEPTH_STEP: usize = 2;

        fn run_gemm<K: GemmKernel<i16>>(token: <i16 as Dispatch>::Token, _: K) -> K::Output {
            token.unreachable()
        }
    }
}
