//! Vectors of `f32`, one type for each path.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Vector instructions. A value is the proof that the CPU has them.
pub(super) trait Simd: Copy {
    /// `LANES` numbers.
    type V: Copy;
    const LANES: usize;
    /// Rows of the register tile.
    const ROWS: usize;
    /// Vectors in a row of the register tile.
    const VECTORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`; rounded once, except on the portable path.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Negative numbers become 0; NaN stays.
    fn relu(self, a: Self::V) -> Self::V;

    /// # Safety
    /// `from` points to `LANES` readable numbers.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// # Safety
    /// `to` points to `LANES` writable numbers.
    unsafe fn store(self, to: *mut f32, a: Self::V);

    /// # Safety
    /// `from` points to a readable number.
    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's.
        self.splat(unsafe { *from })
    }
}

/// Whatever the compiler makes of short arrays on the platform's baseline: SSE2 on x86-64, NEON on
/// 64-bit ARM.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Applies `f` lane by lane.
#[inline(always)]
fn lanes(mut a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    for (a, b) in a.iter_mut().zip(b) {
        *a = f(*a, b);
    }
    a
}

impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;
    const ROWS: usize = 4;
    const VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Not `f32::mul_add`: without the instruction, that is a call of a slow function.
        self.add(lanes(a, b, |a, b| a * b), c)
    }

    #[inline(always)]
    fn relu(self, a: [f32; 4]) -> [f32; 4] {
        lanes(a, a, |a, _| if a < 0.0 { 0.0 } else { a })
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; 4] {
        // SAFETY: the caller promises four readable numbers; the read needs no more alignment.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: [f32; 4]) {
        // SAFETY: the caller promises four writable numbers; the write needs no more alignment.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(a) }
    }
}

/// One vector type of x86-64: `$features` are what its intrinsics need.
#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    (
        $(#[$doc:meta])* $name:ident: $vector:ty, $lanes:literal lanes,
        tile $rows:literal x $vectors:literal,
        $splat:ident $zero:ident $add:ident $sub:ident $fma:ident $max:ident $load:ident $store:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name(());

        impl $name {
            /// # Safety
            /// The CPU has the instructions.
            #[inline(always)]
            pub unsafe fn assume() -> Self {
                Self(())
            }
        }

        // In all of these, the instructions exist on this CPU: a value of the type (`self`) can
        // only be had from `assume`, whose caller promised it.
        impl Simd for $name {
            type V = $vector;
            const LANES: usize = $lanes;
            const ROWS: usize = $rows;
            const VECTORS: usize = $vectors;

            #[inline(always)]
            fn splat(self, x: f32) -> $vector {
                // SAFETY: the CPU has the instruction; registers only.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the CPU has the instruction; registers only.
                unsafe { $add(a, b) }
            }

            #[inline(always)]
            fn sub(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the CPU has the instruction; registers only.
                unsafe { $sub(a, b) }
            }

            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                // SAFETY: the CPU has the instruction; registers only.
                unsafe { $fma(a, b, c) }
            }

            #[inline(always)]
            fn relu(self, a: $vector) -> $vector {
                // The second operand is the result where one is NaN.
                // SAFETY: the CPU has the instruction; registers only.
                unsafe { $max($zero(), a) }
            }

            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> $vector {
                // SAFETY: the CPU has the instruction, which needs no alignment; the caller
                // promises as many readable numbers as there are lanes.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32, a: $vector) {
                // SAFETY: the CPU has the instruction, which needs no alignment; the caller
                // promises as many writable numbers as there are lanes.
                unsafe { $store(to, a) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86! {
    /// 32 registers of 16 numbers: 27 sums, 3 columns, one for rows.
    Avx512: __m512, 16 lanes, tile 9 x 3,
    _mm512_set1_ps _mm512_setzero_ps _mm512_add_ps _mm512_sub_ps _mm512_fmadd_ps _mm512_max_ps
    _mm512_loadu_ps _mm512_storeu_ps
}

#[cfg(target_arch = "x86_64")]
x86! {
    /// 16 registers of 8 numbers: 12 sums, 2 columns, the rest for rows.
    Avx2: __m256, 8 lanes, tile 6 x 2,
    _mm256_set1_ps _mm256_setzero_ps _mm256_add_ps _mm256_sub_ps _mm256_fmadd_ps _mm256_max_ps
    _mm256_loadu_ps _mm256_storeu_ps
}
