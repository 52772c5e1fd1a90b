//! Concatenation of feature maps.

use candle_core::{Result, Storage, Tensor, bail};

use super::dispatch::{Element, match_dtype};
use super::scratch::uninit_output;
use super::tasks;
use super::tensors::contiguous;

/// Concatenates contiguous `[n, h, w, c]` along the channels.
pub(in crate::kernels) fn concat(parts: &[Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        bail!("there is nothing to concatenate");
    };
    match_dtype!(first, E => join::<E>(first, parts))
}

fn join<E: Element>(first: &Tensor, parts: &[Tensor]) -> Result<Tensor> {
    let (n, height, width, _) = first.dims4()?;
    let guards: Vec<_> = parts.iter().map(Tensor::storage_and_layout).collect();
    let mut sources = Vec::with_capacity(parts.len());
    let mut channels = 0;
    for (storage, layout) in &guards {
        let (part_n, part_height, part_width, part) = layout.shape().dims4()?;
        let Storage::Cpu(storage) = &**storage else {
            bail!("an argument is not on the CPU");
        };
        if (part_n, part_height, part_width) != (n, height, width) {
            bail!("{layout:?} cannot be concatenated with {first:?}");
        }
        sources.push((contiguous::<E>(storage, layout)?, part));
        channels += part;
    }
    // Pixels per task.
    const PIXELS: usize = 64;
    let mut out = uninit_output(n * height * width * channels);
    let work = out.len();
    if !out.is_empty() {
        let blocks = out.chunks_mut(PIXELS * channels).enumerate().collect();
        tasks::for_each(work, blocks, |(block, mut out): (usize, &mut [E])| {
            let mut pixel = block * PIXELS;
            while !out.is_empty() {
                for (source, part) in &sources {
                    let Some((to, rest)) = out.split_at_mut_checked(*part) else {
                        return;
                    };
                    if let Some(from) = source.get(pixel * part..(pixel + 1) * part) {
                        to.copy_from_slice(from);
                    }
                    out = rest;
                }
                pixel += 1;
            }
        });
    }
    drop(guards);
    Tensor::from_vec(out, (n, height, width, channels), first.device())
}
