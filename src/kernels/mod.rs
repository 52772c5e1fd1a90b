//! The layers that every network is written against.
//!
//! A network names a [`Conv2d`] or a [`GroupNorm`] and never a device. On the CPU in `f32` the layers run
//! operators of our own; elsewhere they are candle's operators. All of them keep one promise that
//! reproducible runs rest on: on the CPU, what comes out for one image depends on that image alone,
//! to the bit, whatever the size of the batch it came in.

mod activation;
mod add;
mod attention;
mod concat;
mod conv2d;
mod cpu;
mod group_norm;
mod layer_norm;
mod linear;
mod pool;
mod upsample;

#[cfg(test)]
mod testing;

pub use activation::{gelu, quick_gelu, silu};
pub use add::add;
pub use attention::{attention, causal_attention};
pub use concat::concat;
pub use conv2d::{Conv2d, Conv2dShape};
pub(crate) use cpu::{Matrix, multiply};
pub use group_norm::GroupNorm;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use pool::{Pool, avg_pool, max_pool};
pub use upsample::upsample_nearest_2x;

/// Runs `network`, a chain of layers, on one of the threads that the layers share their work with. That
/// changes nothing but the time it takes.
pub fn on_pool<R: Send>(network: impl FnOnce() -> R + Send) -> R {
    cpu::on_pool(network)
}
