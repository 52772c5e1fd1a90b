//! Loops of other modules, compiled for the CPU's vector instructions.

use candle_core::Result;

use super::path::{Kernel, Path};
use super::simd::Simd;

/// Plain loops that are compiled once for every set of vector instructions, and vectorised by the
/// compiler. What comes out is the same to the bit with each: the compiler neither fuses nor reorders
/// floating-point arithmetic.
pub(crate) trait Job {
    /// What comes out.
    type Output;

    /// The loops. This and whatever it calls in hot loops must be `#[inline(always)]`: only what is inlined
    /// is compiled for the instructions.
    fn run(self) -> Self::Output;
}

/// The vector instructions that this process uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instructions(Path);

impl Instructions {
    /// The best that the CPU has, unless `DPSYN_CPU` names others.
    ///
    /// # Errors
    /// `DPSYN_CPU` names none, or some that the CPU lacks.
    pub fn current() -> Result<Self> {
        Path::current().map(Self)
    }

    /// Runs `job` as compiled for these.
    pub fn run<J: Job>(self, job: J) -> J::Output {
        self.0.run(Plain(job))
    }
}

#[cfg(test)]
impl Instructions {
    /// All that this machine has.
    pub fn all() -> impl Iterator<Item = Self> {
        Path::all().map(Self)
    }
}

/// A job as a kernel that leaves vectors to the compiler.
struct Plain<J>(J);

impl<J: Job> Kernel for Plain<J> {
    type Output = J::Output;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> J::Output {
        self.0.run()
    }
}
