//! Vectors of `f32`, one type for each path.

#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;

use super::element::Element;

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

    /// # Safety
    /// `from` points to `LANES` readable numbers.
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: the caller's.
        unsafe { load_each(self, from) }
    }

    /// Rounds to the nearest, ties to even; what is too small for a normal number may become 0.
    ///
    /// # Safety
    /// `to` points to `LANES` writable numbers.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, a: Self::V) {
        // SAFETY: the caller's.
        unsafe { store_each(self, to, a) }
    }
}

/// Lanes of the widest vector of all paths.
const WIDEST_VECTOR: usize = 16;

/// A vector of numbers of any type, one after the other.
///
/// # Safety
/// `from` points to `LANES` readable numbers.
#[inline(always)]
pub(super) unsafe fn load_each<S: Simd, E: Element>(simd: S, from: *const E) -> S::V {
    let mut wide = [0f32; WIDEST_VECTOR];
    for (lane, wide) in wide.iter_mut().enumerate().take(S::LANES) {
        // SAFETY: the caller's promise, as lane < LANES.
        *wide = unsafe { *from.add(lane) }.get();
    }
    // SAFETY: no vector has more lanes than the array has numbers.
    unsafe { simd.load(wide.as_ptr()) }
}

/// Writes a vector as numbers of any type, one after the other.
///
/// # Safety
/// `to` points to `LANES` writable numbers.
#[inline(always)]
pub(super) unsafe fn store_each<S: Simd, E: Element>(simd: S, to: *mut E, a: S::V) {
    let mut wide = [0f32; WIDEST_VECTOR];
    // SAFETY: no vector has more lanes than the array has numbers.
    unsafe { simd.store(wide.as_mut_ptr(), a) };
    for (lane, wide) in wide.into_iter().enumerate().take(S::LANES) {
        // SAFETY: the caller's promise, as lane < LANES.
        unsafe { *to.add(lane) = E::of(wide) };
    }
}

/// Whatever the compiler makes of short arrays on the platform's baseline: SSE2 on x86-64, NEON without
/// fused multiplication on 64-bit ARM.
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
        $($more:item)*
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

            $($more)*
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

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// 8 pairs of integers.
    ///
    /// # Safety
    /// `from` points to 16 readable numbers.
    #[inline(always)]
    pub unsafe fn load_pairs(self, from: *const i16) -> __m256i {
        // SAFETY: the CPU has the instruction, which needs no alignment; the caller promises 32
        // readable bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    /// 8 times the same pair.
    ///
    /// # Safety
    /// `from` points to 2 readable numbers.
    #[inline(always)]
    pub unsafe fn broadcast_pair(self, from: *const i16) -> __m256i {
        // SAFETY: the caller promises 4 readable bytes; the CPU has the instruction.
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    /// 8 times the pair of `x` and 0.
    #[inline(always)]
    pub fn broadcast_single(self, x: i16) -> __m256i {
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { _mm256_set1_epi32(i32::from(x.cast_unsigned())) }
    }

    /// `c`, whose bits are 8 integers of 32 bits, plus the products of both numbers of each pair; wraps around.
    #[inline(always)]
    pub fn dot(self, a: __m256i, b: __m256i, c: __m256) -> __m256 {
        // SAFETY: the CPU has the instructions; registers only.
        unsafe {
            let products = _mm256_madd_epi16(a, b);
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(c), products))
        }
    }

    /// The integers whose bits are in `a`, as numbers.
    #[inline(always)]
    pub fn numbers(self, a: __m256) -> __m256 {
        // SAFETY: the CPU has the instructions; registers only.
        unsafe { _mm256_cvtepi32_ps(_mm256_castps_si256(a)) }
    }
}

#[cfg(target_arch = "x86_64")]
x86! {
    /// [`Avx512`] with AVX512_BF16.
    Avx512Bf16: __m512, 16 lanes, tile 8 x 3,
    _mm512_set1_ps _mm512_setzero_ps _mm512_add_ps _mm512_sub_ps _mm512_fmadd_ps _mm512_max_ps
    _mm512_loadu_ps _mm512_storeu_ps

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        // SAFETY: the CPU has the instructions, which need no alignment; the caller promises 16
        // readable numbers of 2 bytes. A bf16 is the upper half of an f32.
        unsafe {
            let narrow = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow)))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, a: __m512) {
        // SAFETY: the CPU has the instructions, which need no alignment; the caller promises 16
        // writable numbers of 2 bytes, as many as the 256 bits of the narrow vector.
        unsafe { to.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(a)) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// 16 pairs of numbers.
    ///
    /// # Safety
    /// `from` points to 32 readable numbers.
    #[inline(always)]
    pub unsafe fn load_pairs(self, from: *const bf16) -> __m512i {
        // SAFETY: the CPU has the instruction, which needs no alignment; the caller promises 64
        // readable bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    /// 16 times the same pair.
    ///
    /// # Safety
    /// `from` points to 2 readable numbers.
    #[inline(always)]
    pub unsafe fn broadcast_pair(self, from: *const bf16) -> __m512i {
        // SAFETY: the caller promises 4 readable bytes; the CPU has the instruction.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    /// 16 times the pair of `x` and 0.
    #[inline(always)]
    pub fn broadcast_single(self, x: bf16) -> __m512i {
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { _mm512_set1_epi32(i32::from(x.to_bits())) }
    }

    /// `c` plus the products of both numbers of each pair. Denormal numbers count as 0.
    #[inline(always)]
    pub fn dot(self, a: __m512i, b: __m512i, c: __m512) -> __m512 {
        // SAFETY: the CPU has the instruction; registers only. The types differ in name alone.
        unsafe {
            _mm512_dpbf16_ps(
                c,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
}

/// 32 registers of 4 numbers: 24 sums, 4 columns, the rest for rows. Wider than high, because a row
/// costs as much to load as a column here, and every multiple of 16 columns is whole panels.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(super) struct Neon(());

#[cfg(target_arch = "aarch64")]
impl Neon {
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

// As above: a value of the type can only be had from `assume`, whose caller promised the instructions.
#[cfg(target_arch = "aarch64")]
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const ROWS: usize = 6;
    const VECTORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // The sum comes first here.
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn relu(self, a: float32x4_t) -> float32x4_t {
        // NaN wherever one operand is.
        // SAFETY: the CPU has the instructions; registers only.
        unsafe { vmaxq_f32(a, vdupq_n_f32(0.0)) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        // SAFETY: the CPU has the instruction, which needs no more alignment than a number has; the
        // caller promises four readable numbers.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: float32x4_t) {
        // SAFETY: the CPU has the instruction, which needs no more alignment than a number has; the
        // caller promises four writable numbers.
        unsafe { vst1q_f32(to, a) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::isa::{Isa, Kernel};
    use super::*;

    /// Every operation on the first vector of each argument, one result after another.
    struct All<'a>(&'a [f32], &'a [f32], &'a [f32]);

    impl Kernel for All<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            assert!([self.0, self.1, self.2].iter().all(|x| x.len() >= S::LANES));
            // SAFETY: each slice has a vector's numbers, as was just checked.
            let [a, b, c] = [self.0, self.1, self.2].map(|x| unsafe { simd.load(x.as_ptr()) });
            // SAFETY: as above: there is a first number.
            let first = unsafe { simd.broadcast(self.0.as_ptr()) };
            let results = [
                a,
                simd.splat(7.0),
                first,
                simd.add(a, b),
                simd.sub(a, b),
                simd.mul_add(a, b, c),
                simd.relu(a),
            ];
            let mut out = vec![0f32; S::LANES * results.len()];
            for (to, result) in out.chunks_exact_mut(S::LANES).zip(results) {
                // SAFETY: the chunk has a vector's numbers.
                unsafe { simd.store(to.as_mut_ptr(), result) };
            }
            out
        }
    }

    #[test]
    fn operations_are_what_they_are_called() {
        // Small integers: nothing is rounded. One number in, so that no path can count on alignment.
        let numbers = |seed: usize| -> Vec<f32> {
            (0..17)
                .map(|i| ((i * 7 + seed) % 13) as f32 - 6.0)
                .collect()
        };
        let (a, b, c) = (numbers(1), numbers(5), numbers(8));
        let (a, b, c) = (&a[1..], &b[1..], &c[1..]);
        for isa in Isa::all() {
            let lanes = f32::tile(isa).lanes;
            let lane = |f: &dyn Fn(usize) -> f32| (0..lanes).map(f).collect::<Vec<f32>>();
            let expected = [
                lane(&|i| a[i]),
                lane(&|_| 7.0),
                lane(&|_| a[0]),
                lane(&|i| a[i] + b[i]),
                lane(&|i| a[i] - b[i]),
                lane(&|i| a[i] * b[i] + c[i]),
                lane(&|i| a[i].max(0.0)),
            ];
            assert_eq!(isa.run(All(a, b, c)), expected.concat(), "{isa:?}");
        }
    }
}
