//! What is timed. A case is a name and a function that prepares everything but the work itself.

mod layers;
mod networks;
mod preparation;
mod quickstart;
mod voting;
mod weights;

/// One round of a case's work.
pub type Work = Box<dyn FnMut()>;

/// A case: what it is called, and how its inputs are made.
pub type Case = (&'static str, fn() -> Work);

/// Cases of at most a few seconds.
pub const SMALL: [Case; 17] = [
    ("conv_3x3_192ch_64px_b8", || {
        layers::conv(8, 192, 192, (3, 3), 64)
    }),
    ("conv_3x3_768ch_8px_b8", || {
        layers::conv(8, 768, 768, (3, 3), 8)
    }),
    ("conv_3x3_32ch_32px_b8", || {
        layers::conv(8, 32, 32, (3, 3), 32)
    }),
    ("conv_1x1_384ch_32px_b8", || {
        layers::conv(8, 384, 192, (1, 1), 32)
    }),
    ("conv_7x1_160ch_17px_b8", || {
        layers::conv(8, 160, 160, (7, 1), 17)
    }),
    ("norm_silu_192ch_64px_b8", || layers::norm(8, 192, 64)),
    ("norm_silu_32ch_32px_b8", || layers::norm(8, 32, 32)),
    ("attention_t256_d48_b8", || layers::attention(8, 4, 256, 48)),
    ("linear_2048x768x768", || layers::linear(2048, 768, 768)),
    ("linear_8x768x1536", || layers::linear(8, 768, 1536)),
    ("unet_quickstart_b8", || networks::quickstart(8)),
    ("unet_quickstart_b50", || networks::quickstart(50)),
    ("unet_270m_b2", || networks::imagenet64(2)),
    ("inception_b8", || networks::inception(8)),
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

/// Cases of minutes: `cargo bench -- --ignored`.
pub const LARGE: [Case; 2] = [
    ("voting_50000x5000x2048", || {
        voting::nearest(50_000, 5000, 2048)
    }),
    ("quickstart", quickstart::run),
];

/// Prepares the case of that name. Any `voting_QxCxD` is one, though not on the lists.
pub fn prepare(name: &str) -> Option<Work> {
    let mut cases = SMALL.iter().chain(&LARGE);
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
