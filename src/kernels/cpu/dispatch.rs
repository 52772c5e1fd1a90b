//! Selection of code for a number type: the instruction set that it needs, and the loads and stores
//! of its maps.

#![allow(unsafe_code)]

use std::fmt::Debug;

use candle_core::{CpuStorage, Result, WithDType};
use half::bf16;

use super::avx2_madd::Avx2MaddToken;
use super::avx512_bf16::Avx512Bf16Token;
use super::dtype::Number;
use super::isa::{Isa, Kernel, TileShape, TileShapeQuery};
use super::simd::Simd;

/// A number type for which some instruction set multiplies.
pub(in crate::kernels) trait Dispatch: Number {
    /// Proof that this process may use the instructions that the type needs.
    type Token: Copy + Debug + PartialEq + Send + Sync;

    /// Returns the token of this process.
    ///
    /// # Errors
    /// As [`Isa::current`]; the CPU or the selected instruction set lacks what the type needs.
    fn token() -> Result<Self::Token>;

    /// Returns the register tile of products of this type.
    fn tile(token: Self::Token) -> TileShape;
}

/// A number type of feature maps, for which every operator exists.
pub(in crate::kernels) trait Element: Dispatch + WithDType {
    /// Runs `kernel` as compiled for the instruction set of `token`.
    fn run<K: Kernel>(token: Self::Token, kernel: K) -> K::Output;

    /// Returns zeros: the pixel outside of a map. There are enough for most layers; a layer with
    /// more channels allocates its own.
    fn zeros() -> &'static [Self];

    /// Loads `S::LANES` numbers and converts them to `f32`.
    ///
    /// # Safety
    /// `from` points to `S::LANES` readable numbers.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V;

    /// Rounds a vector to this type and stores it.
    ///
    /// # Safety
    /// `to` points to `S::LANES` writable numbers.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, a: S::V);

    /// Returns the same slice if this type is `f32`.
    fn as_f32(numbers: &[Self]) -> Option<&[f32]>;

    /// Returns the same mutable slice if this type is `f32`.
    fn as_f32_mut(numbers: &mut [Self]) -> Option<&mut [f32]>;

    /// Returns `numbers` as candle's storage, without a copy.
    fn storage(numbers: Vec<Self>) -> CpuStorage {
        Self::to_cpu_storage_owned(numbers)
    }
}

/// Channels for which a shared row of zeros exists: more than any network here has.
const ZEROS: usize = 4096;

impl Dispatch for f32 {
    type Token = Isa;

    fn token() -> Result<Isa> {
        Isa::current()
    }

    fn tile(token: Isa) -> TileShape {
        token.run(TileShapeQuery)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn run<K: Kernel>(token: Isa, kernel: K) -> K::Output {
        token.run(kernel)
    }

    fn zeros() -> &'static [f32] {
        static ROW: [f32; ZEROS] = [0.0; ZEROS];
        &ROW
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
    fn as_f32(numbers: &[f32]) -> Option<&[f32]> {
        Some(numbers)
    }

    #[inline(always)]
    fn as_f32_mut(numbers: &mut [f32]) -> Option<&mut [f32]> {
        Some(numbers)
    }
}

impl Dispatch for bf16 {
    type Token = Avx512Bf16Token;

    fn token() -> Result<Avx512Bf16Token> {
        Avx512Bf16Token::current()
    }

    fn tile(token: Avx512Bf16Token) -> TileShape {
        token.run(TileShapeQuery)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn run<K: Kernel>(token: Avx512Bf16Token, kernel: K) -> K::Output {
        token.run(kernel)
    }

    fn zeros() -> &'static [bf16] {
        static ROW: [bf16; ZEROS] = [bf16::ZERO; ZEROS];
        &ROW
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
    fn as_f32(_: &[bf16]) -> Option<&[f32]> {
        None
    }

    #[inline(always)]
    fn as_f32_mut(_: &mut [bf16]) -> Option<&mut [f32]> {
        None
    }
}

/// 16-bit integers are operands of products only: no operator takes a map of them.
impl Dispatch for i16 {
    type Token = Avx2MaddToken;

    fn token() -> Result<Avx2MaddToken> {
        Avx2MaddToken::current()
    }

    fn tile(token: Avx2MaddToken) -> TileShape {
        token.run(TileShapeQuery)
    }
}

/// Evaluates `$body` with `$element` as an alias of the number type of `$of`. Layers call
/// [`supports`](super::supports) first, so a type that is not bf16 is `f32`; any other is an error
/// when its numbers are read.
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
