//! The cases. A case is a name and a function that prepares everything but the work itself.

mod layers;
mod networks;
mod preparation;
mod quickstart;
mod voting;
mod weights;

use candle_core::DType;
use dpsyn::internals::kernels;

/// One round of a case's work.
pub type Work = Box<dyn FnMut()>;

/// A case: its name, and the function that prepares its inputs.
pub type Case = (&'static str, fn() -> Work);

/// A layer or network in a number type.
type Typed = (&'static str, fn(DType) -> Work);

/// Suffix of the name of a case in bf16.
const BF16: &str = "_bf16";

/// Layers and networks, in `f32` and, with `_bf16` after their names, in bf16.
const TYPED: [Typed; 14] = [
    ("conv_3x3_192ch_64px_b8", |dtype| {
        layers::conv(8, (192, 192), (3, 3), 64, dtype)
    }),
    ("conv_3x3_768ch_8px_b8", |dtype| {
        layers::conv(8, (768, 768), (3, 3), 8, dtype)
    }),
    ("conv_3x3_32ch_32px_b8", |dtype| {
        layers::conv(8, (32, 32), (3, 3), 32, dtype)
    }),
    ("conv_1x1_384ch_32px_b8", |dtype| {
        layers::conv(8, (384, 192), (1, 1), 32, dtype)
    }),
    ("conv_7x1_160ch_17px_b8", |dtype| {
        layers::conv(8, (160, 160), (7, 1), 17, dtype)
    }),
    ("norm_silu_192ch_64px_b8", |dtype| {
        layers::norm(8, 192, 64, dtype)
    }),
    ("norm_silu_32ch_32px_b8", |dtype| {
        layers::norm(8, 32, 32, dtype)
    }),
    ("attention_t256_d48_b8", |dtype| {
        layers::attention(8, 4, 256, 48, dtype)
    }),
    ("linear_2048x768x768", |dtype| {
        layers::linear(2048, 768, 768, dtype)
    }),
    ("linear_8x768x1536", |dtype| {
        layers::linear(8, 768, 1536, dtype)
    }),
    ("unet_quickstart_b8", |dtype| networks::quickstart(8, dtype)),
    ("unet_quickstart_b50", |dtype| {
        networks::quickstart(50, dtype)
    }),
    ("unet_270m_b2", |dtype| networks::imagenet64(2, dtype)),
    ("inception_b8", |dtype| networks::inception(8, dtype)),
];

/// Other cases that take at most a few seconds.
const OTHERS: [Case; 3] = [
    ("voting_5000x1000x2048", || {
        voting::nearest(5000, 1000, 2048)
    }),
    ("resize_float_32_to_299_b100", || {
        preparation::inception_input(100, 32, 299)
    }),
    ("decode_crop_224_to_64_b100", || {
        preparation::decode_and_crop(100, 224, 64)
    }),
];

/// Cases that take minutes: `cargo bench -- --ignored`.
pub const LARGE: [Case; 2] = [
    ("voting_50000x5000x2048", || {
        voting::nearest(50_000, 5000, 2048)
    }),
    ("quickstart", quickstart::run),
];

/// Returns the names of all cases of at most a few seconds; bf16 cases only if the CPU has bf16.
pub fn small() -> Vec<String> {
    let typed = || TYPED.iter().map(|case| case.0);
    let mut names: Vec<String> = typed().map(str::to_owned).collect();
    if kernels::check_bf16_on_cpu().is_ok() {
        names.extend(typed().map(|name| format!("{name}{BF16}")));
    }
    names.extend(OTHERS.iter().map(|case| case.0.to_owned()));
    names
}

/// Prepares the case of that name. Any `voting_QxCxD` and `unet_270m_bN` is a case, even if it is
/// not listed above.
pub fn prepare(name: &str) -> Option<Work> {
    let (base, dtype) = match name.strip_suffix(BF16) {
        Some(base) if !weights::device().is_cpu() || kernels::check_bf16_on_cpu().is_ok() => {
            (base, DType::BF16)
        }
        Some(_) => return None,
        None => (name, DType::F32),
    };
    if let Some(case) = TYPED.iter().find(|case| case.0 == base) {
        return Some(case.1(dtype));
    }
    if let Some(batch) = base.strip_prefix("unet_270m_b") {
        return Some(networks::imagenet64(batch.parse().ok()?, dtype));
    }
    let mut cases = OTHERS.iter().chain(&LARGE);
    if let Some(case) = cases.find(|case| case.0 == name) {
        return Some(case.1());
    }
    let sizes = name.strip_prefix("voting_")?.split('x');
    let sizes: Option<Vec<usize>> = sizes.map(|size| size.parse().ok()).collect();
    match sizes?.as_slice() {
        [queries, candidates, dimension] => {
            Some(voting::nearest(*queries, *candidates, *dimension))
        }
        _ => None,
    }
}
