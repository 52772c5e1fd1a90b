//! Vectors of `f32`, one type per instruction set.

#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;

use super::dtype::Number;

/// Vector instructions. A value is a proof that the CPU has them.
///
/// `ROWS` × `VECTORS` is the register tile of the micro-kernel. Each step loads `VECTORS` columns
/// and broadcasts one row at a time, so a tile needs at least `ROWS · VECTORS + VECTORS + 1`
/// registers: more than the CPU has would move sums to memory in the innermost loop.
pub(in crate::kernels) trait Simd: Copy {
    /// Vector of `LANES` numbers.
    type V: Copy;
    const LANES: usize;
    /// Rows of the register tile.
    const ROWS: usize;
    /// Vectors in a row of the register tile.
    const VECTORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a · b + c`, rounded once except by [`Portable`].
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Replaces negative numbers by 0 and keeps NaN.
    fn relu(self, a: Self::V) -> Self::V;

    /// Loads a vector; no alignment is needed.
    ///
    /// # Safety
    /// `from` points to `LANES` readable numbers.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// Stores a vector; no alignment is needed.
    ///
    /// # Safety
    /// `to` points to `LANES` writable numbers.
    unsafe fn store(self, to: *mut f32, a: Self::V);

    /// Copies one number to every lane.
    ///
    /// # Safety
    /// `from` points to a readable number.
    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's.
        self.splat(unsafe { *from })
    }

    /// Loads bf16 numbers and converts them, which is exact.
    ///
    /// # Safety
    /// `from` points to `LANES` readable numbers.
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: the caller's.
        unsafe { load_each(self, from) }
    }

    /// Rounds to bf16 (to nearest, ties to even) and stores; a subnormal result may become 0.
    ///
    /// # Safety
    /// `to` points to `LANES` writable numbers.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, a: Self::V) {
        // SAFETY: the caller's.
        unsafe { store_each(self, to, a) }
    }
}

/// Lanes of the widest vector of all instruction sets.
const WIDEST_VECTOR: usize = 16;

/// Loads a vector number by number, converting each.
///
/// # Safety
/// `from` points to `LANES` readable numbers.
#[inline(always)]
unsafe fn load_each<S: Simd, E: Number>(simd: S, from: *const E) -> S::V {
    let mut wide = [0f32; WIDEST_VECTOR];
    for (lane, wide) in wide.iter_mut().enumerate().take(S::LANES) {
        // SAFETY: the caller's promise, as lane < LANES.
        *wide = unsafe { *from.add(lane) }.widen();
    }
    // SAFETY: no vector has more lanes than the array has numbers.
    unsafe { simd.load(wide.as_ptr()) }
}

/// Stores a vector number by number, converting each.
///
/// # Safety
/// `to` points to `LANES` writable numbers.
#[inline(always)]
unsafe fn store_each<S: Simd, E: Number>(simd: S, to: *mut E, a: S::V) {
    let mut wide = [0f32; WIDEST_VECTOR];
    // SAFETY: no vector has more lanes than the array has numbers.
    unsafe { simd.store(wide.as_mut_ptr(), a) };
    for (lane, wide) in wide.into_iter().enumerate().take(S::LANES) {
        // SAFETY: the caller's promise, as lane < LANES.
        unsafe { *to.add(lane) = E::narrow(wide) };
    }
}

/// Short arrays that the compiler vectorizes for the platform's baseline: SSE2 on x86-64, NEON
/// without fused multiplication on 64-bit ARM.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable;

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
        // Not `f32::mul_add`: without the instruction, it calls a slow library function.
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

/// Defines one vector type of x86-64 by the names of its intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    (
        $(#[$doc:meta])* $name:ident: $vector:ty, $lanes:literal lanes,
        tile $rows:literal x $vectors:literal,
        $splat:ident $zero:ident $add:ident $sub:ident $fma:ident $max:ident
        $load:ident $store:ident
        $($more:item)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(in crate::kernels) struct $name(());

        impl $name {
            /// Makes the proof value.
            ///
            /// # Safety
            /// The CPU has the instructions.
            #[inline(always)]
            pub unsafe fn assume() -> Self {
                Self(())
            }
        }

        // In all functions below the instructions exist on this CPU: the only source of a value of
        // the type (`self`) is `assume`, whose caller promised it.
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
                // `max` returns its second operand where one of them is NaN.
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
    /// 32 registers of 16 numbers: 27 sums, 3 columns, 1 for rows.
    Avx512: __m512, 16 lanes, tile 9 x 3,
    _mm512_set1_ps _mm512_setzero_ps _mm512_add_ps _mm512_sub_ps _mm512_fmadd_ps _mm512_max_ps
    _mm512_loadu_ps _mm512_storeu_ps
}

#[cfg(target_arch = "x86_64")]
x86! {
    /// 16 registers of 8 numbers: 12 sums, 2 columns, 2 for rows.
    Avx2: __m256, 8 lanes, tile 6 x 2,
    _mm256_set1_ps _mm256_setzero_ps _mm256_add_ps _mm256_sub_ps _mm256_fmadd_ps _mm256_max_ps
    _mm256_loadu_ps _mm256_storeu_ps
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// Loads 8 pairs of integers.
    ///
    /// # Safety
    /// `from` points to 16 readable numbers.
    #[inline(always)]
    pub unsafe fn load_pairs(self, from: *const i16) -> __m256i {
        // SAFETY: the CPU has the instruction, which needs no alignment; the caller promises 32
        // readable bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    /// Copies one pair to all 8 lanes.
    ///
    /// # Safety
    /// `from` points to 2 readable numbers.
    #[inline(always)]
    pub unsafe fn broadcast_pair(self, from: *const i16) -> __m256i {
        // SAFETY: the caller promises 4 readable bytes; the CPU has the instruction.
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    /// Copies the pair of `x` and 0 to all 8 lanes.
    #[inline(always)]
    pub fn broadcast_single(self, x: i16) -> __m256i {
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { _mm256_set1_epi32(i32::from(x.cast_unsigned())) }
    }

    /// Adds the products of both numbers of each pair to `c`, whose bits are 8 integers of 32 bits;
    /// wraps around.
    #[inline(always)]
    pub fn dot(self, a: __m256i, b: __m256i, c: __m256) -> __m256 {
        // SAFETY: the CPU has the instructions; registers only.
        unsafe {
            let products = _mm256_madd_epi16(a, b);
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(c), products))
        }
    }

    /// Converts the integers whose bits are in `a` to `f32`.
    #[inline(always)]
    pub fn numbers(self, a: __m256) -> __m256 {
        // SAFETY: the CPU has the instructions; registers only.
        unsafe { _mm256_cvtepi32_ps(_mm256_castps_si256(a)) }
    }
}

#[cfg(target_arch = "x86_64")]
x86! {
    /// [`Avx512`] with AVX512_BF16. 32 registers of 16 pairs: 24 sums, 3 columns, 5 for rows.
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
    /// Loads 16 pairs of numbers.
    ///
    /// # Safety
    /// `from` points to 32 readable numbers.
    #[inline(always)]
    pub unsafe fn load_pairs(self, from: *const bf16) -> __m512i {
        // SAFETY: the CPU has the instruction, which needs no alignment; the caller promises 64
        // readable bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    /// Copies one pair to all 16 lanes.
    ///
    /// # Safety
    /// `from` points to 2 readable numbers.
    #[inline(always)]
    pub unsafe fn broadcast_pair(self, from: *const bf16) -> __m512i {
        // SAFETY: the caller promises 4 readable bytes; the CPU has the instruction.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    /// Copies the pair of `x` and 0 to all 16 lanes.
    #[inline(always)]
    pub fn broadcast_single(self, x: bf16) -> __m512i {
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { _mm512_set1_epi32(i32::from(x.to_bits())) }
    }

    /// Adds the products of both numbers of each pair to `c`. Subnormal numbers count as 0.
    #[inline(always)]
    pub fn dot(self, a: __m512i, b: __m512i, c: __m512) -> __m512 {
        // SAFETY: the CPU has the instruction; registers only. `__m512i` and `__m512bh` are both
        // 512 bits of which every pattern is a value.
        unsafe {
            _mm512_dpbf16_ps(
                c,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
}

/// 32 registers of 4 numbers: 24 sums, 4 columns, 4 for rows. Six rows by sixteen columns, because
/// loading a row costs as much as loading a column here, and any multiple of 16 columns then fills
/// whole panels.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Neon(());

#[cfg(target_arch = "aarch64")]
impl Neon {
    /// Makes the proof value.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

// As above: the only source of a value is `assume`, whose caller promised the instructions.
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
        // The sum is the first argument of this intrinsic.
        // SAFETY: the CPU has the instruction; registers only.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn relu(self, a: float32x4_t) -> float32x4_t {
        // `vmaxq` returns NaN where one operand is NaN.
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
