//! Plain loops of other modules, compiled for the CPU's vector instructions.

use super::isa::{Isa, Kernel};
use super::simd::Simd;

/// A plain loop that is compiled once for every instruction set and vectorized by the compiler.
///
/// The result is bit-identical for each of them: the compiler neither fuses nor reorders
/// floating-point arithmetic.
pub(crate) trait ScalarLoop {
    /// Result of the loop.
    type Output;

    /// Runs the loop. This function and everything that it calls in hot loops must be
    /// `#[inline(always)]`: only inlined code is compiled for the instruction set.
    fn run(self) -> Self::Output;
}

impl Isa {
    /// Runs `scalar_loop` as compiled for this instruction set.
    pub(crate) fn run_loop<L: ScalarLoop>(self, scalar_loop: L) -> L::Output {
        self.run(LoopKernel(scalar_loop))
    }
}

/// A [`ScalarLoop`] as a [`Kernel`] that uses no vector type itself.
struct LoopKernel<L>(L);

impl<L: ScalarLoop> Kernel for LoopKernel<L> {
    type Output = L::Output;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> L::Output {
        self.0.run()
    }
}
