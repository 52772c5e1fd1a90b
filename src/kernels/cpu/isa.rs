//! The instruction set that kernels are compiled for, selected at run time.

#![allow(unsafe_code)]

use std::sync::OnceLock;

use candle_core::{Result, bail};

#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};

/// Environment variable that forces an instruction set: `scalar`; `avx2` or `avx512` on x86-64;
/// `neon` on 64-bit ARM.
const VARIABLE: &str = "DPSYN_CPU";

/// A vector instruction set that this CPU has.
///
/// The only constructor is [`Isa::named`], which reads the CPU's features: a value is a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Scalar,
}

/// Code that is compiled once for every instruction set.
pub(in crate::kernels) trait Kernel {
    type Output;

    /// Runs the kernel. This function and everything that it calls in hot loops must be
    /// `#[inline(always)]`, and must not hide the loops in closures: only inlined code is compiled
    /// for the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Code that is compiled for the vectors `S`: every [`Kernel`], and kernels that need instructions
/// which only `S` has.
pub(in crate::kernels) trait KernelFor<S: Simd> {
    type Output;

    /// Runs the kernel; the rules of [`Kernel::run`] apply.
    fn run_for(self, simd: S) -> Self::Output;
}

impl<S: Simd, K: Kernel> KernelFor<S> for K {
    type Output = K::Output;

    #[inline(always)]
    fn run_for(self, simd: S) -> K::Output {
        self.run(simd)
    }
}

impl Isa {
    /// Names from the fastest set to the one that every CPU has.
    pub const NAMES: [&'static str; 4] = ["avx512", "avx2", "neon", "scalar"];

    /// Returns the set of that name; `None` if this CPU lacks it or the name is unknown.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            #[cfg(target_arch = "x86_64")]
            "avx512" => (has_avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Self(Kind::Avx512)),
            #[cfg(target_arch = "x86_64")]
            "avx2" => has_avx2().then_some(Self(Kind::Avx2)),
            #[cfg(target_arch = "aarch64")]
            "neon" => std::arch::is_aarch64_feature_detected!("neon").then_some(Self(Kind::Neon)),
            "scalar" => Some(Self(Kind::Scalar)),
            _ => None,
        }
    }

    /// Returns the instruction set of this process: the fastest one, unless `DPSYN_CPU` names
    /// another.
    ///
    /// # Errors
    /// `DPSYN_CPU` names an unknown set or one that this CPU lacks. Convolutions and linear layers
    /// report that when they are built, so before any work is done.
    pub fn current() -> Result<Self> {
        static CURRENT: OnceLock<std::result::Result<Isa, String>> = OnceLock::new();
        #[cfg(test)]
        if let Some(isa) = forced() {
            return Ok(isa);
        }
        let current = CURRENT.get_or_init(|| match std::env::var_os(VARIABLE) {
            Some(name) if !name.is_empty() => choose(&name.to_string_lossy()),
            _ => Ok(fastest()),
        });
        match current {
            Ok(isa) => Ok(*isa),
            Err(message) => bail!("{message}"),
        }
    }

    /// Runs `kernel` as compiled for this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `named` makes an `Isa` of this kind only on a CPU that has these features.
            Kind::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx2 => unsafe { run_avx2(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Kind::Neon => unsafe { run_neon(kernel) },
            Kind::Scalar => kernel.run(Portable),
        }
    }
}

/// Kernel that returns the register tile of its [`Simd`].
pub(super) struct TileShapeQuery;

impl Kernel for TileShapeQuery {
    type Output = TileShape;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> TileShape {
        TileShape {
            lanes: S::LANES,
            vectors: S::VECTORS,
        }
    }
}

/// Width of the register tile of an instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) struct TileShape {
    /// Numbers per vector.
    pub lanes: usize,
    /// Vectors per row of the tile.
    pub vectors: usize,
}

fn fastest() -> Isa {
    let found = Isa::NAMES.into_iter().find_map(Isa::named);
    found.unwrap_or(Isa(Kind::Scalar))
}

fn choose(name: &str) -> std::result::Result<Isa, String> {
    Isa::named(name).ok_or_else(|| {
        if Isa::NAMES.contains(&name) {
            format!("{VARIABLE} is `{name}`, which this CPU does not have")
        } else {
            let names = Isa::NAMES.join(", ");
            format!("{VARIABLE} is `{name}`: expected one of {names}, or nothing")
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is compiled for, and so only runs on, a CPU with AVX-512.
    kernel.run(unsafe { Avx512::assume() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is compiled for, and so only runs on, a CPU with AVX2 and FMA.
    kernel.run(unsafe { Avx2::assume() })
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is compiled for, and so only runs on, a CPU with NEON.
    kernel.run(unsafe { Neon::assume() })
}

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
fn forced() -> Option<Isa> {
    FORCED.get()
}

#[cfg(test)]
impl Isa {
    /// Returns every set that this machine has, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().filter_map(Self::named)
    }

    /// Runs `f` with this as the current set of the thread.
    pub fn within<R>(self, f: impl FnOnce() -> R) -> R {
        let before = FORCED.replace(Some(self));
        let result = f();
        FORCED.set(before);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_missing_sets_are_named() {
        assert_eq!(choose("scalar"), Ok(Isa(Kind::Scalar)));
        let message = choose("mmx").unwrap_err();
        assert!(
            message.contains("DPSYN_CPU") && message.contains("avx2"),
            "{message}"
        );
        assert!(choose("AVX2").is_err());
        // A name of another architecture.
        let foreign = if cfg!(target_arch = "x86_64") {
            "neon"
        } else {
            "avx2"
        };
        let message = choose(foreign).unwrap_err();
        assert!(message.contains("does not have"), "{message}");
    }

    #[test]
    fn the_fastest_comes_first() {
        assert_eq!(Isa::all().next(), Some(fastest()));
        assert_eq!(Isa::all().last(), Some(Isa(Kind::Scalar)));
    }
}
