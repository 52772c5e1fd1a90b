//! Which vector instructions are used, found out at run time.

#![allow(unsafe_code)]

use std::sync::OnceLock;

use candle_core::{Result, bail};

#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};

/// The variable that forces a path: `scalar`, or `avx2` or `avx512` on x86-64, or `neon` on 64-bit ARM.
const VARIABLE: &str = "DPSYN_CPU";

/// A set of vector instructions that this CPU has.
///
/// A value can only be had from [`Isa::named`], which asks the CPU.
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

/// Code that is compiled once for every path.
pub(super) trait Kernel {
    type Output;

    /// The body. It and whatever it calls in hot loops must be `#[inline(always)]`, and must not
    /// hide the loops in closures: only what is inlined is compiled for the path.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Isa {
    /// From the fastest to the one that every CPU has.
    pub const NAMES: [&'static str; 4] = ["avx512", "avx2", "neon", "scalar"];

    /// `None` when this CPU lacks it, or when there is no path of that name.
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

    /// The path of this process: the fastest one, unless `DPSYN_CPU` names another.
    ///
    /// # Errors
    /// `DPSYN_CPU` names no path, or one that this CPU lacks. Convolutions and linear layers report that when they
    /// are built, and so before any work is done.
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

    /// Runs `kernel` as compiled for this path.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `named` makes a `Isa` of this kind only on a CPU that has these features.
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

/// Asks a path for `LANES` and `VECTORS` of its [`Simd`].
pub(super) struct TileQuery;

impl Kernel for TileQuery {
    type Output = Tile;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Tile {
        Tile {
            lanes: S::LANES,
            vectors: S::VECTORS,
        }
    }
}

/// The register tile of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Numbers in a vector.
    pub lanes: usize,
    /// Vectors side by side.
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
    /// Every path that this machine has.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().filter_map(Self::named)
    }

    /// Runs `f` with this as the current path of the thread.
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
    fn unknown_and_missing_paths_are_named() {
        assert_eq!(choose("scalar"), Ok(Isa(Kind::Scalar)));
        let message = choose("mmx").unwrap_err();
        assert!(
            message.contains("DPSYN_CPU") && message.contains("avx2"),
            "{message}"
        );
        assert!(choose("AVX2").is_err());
        // No machine has both.
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
