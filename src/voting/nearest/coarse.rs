//! Coarse scores of all candidates, by matrix products: on a CPU that can, first of 16 bits, which tells the
//! near ones from the far ones for nearly every query in half of the time, then in `f32` for the others.
//! On a device, in `f32` by tiles that are multiplied and sorted there.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::NearestError;
use super::shortlist::{MOST, Shortlist};
use super::space::MetricTransform;
use crate::kernels::PackedColumns;

/// Candidates in one tile on a device. A GPU sorts a row within one block, which holds 1024 entries.
const DEVICE_TILE: usize = 1024;
/// Candidates of a tile that come back from a device for each query, beyond `k`; the rest of a row only where these do
/// not settle it.
const MARGIN: usize = 7;

/// An exact score takes as long as so many rough ones: with more candidates on a coarse shortlist than one in
/// so many of all, a fine pass is quicker.
const EXACT: usize = 16;

/// How exactly candidates are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Of narrow vectors.
    Coarse,
    /// In `f32`.
    Fine,
}

/// The candidates in the form that the product wants, packed once.
pub(super) struct CoarseScorer<'a> {
    space: &'a MetricTransform<'a>,
    tiles: Tiles,
}

/// What multiplies.
#[derive(Debug, Clone)]
pub(super) enum Products {
    /// The CPU, by our own operator, many blocks of queries at a time.
    Packed,
    /// A device, by candle's operators, one block of queries after the other on the thread that asks: a GPU does in order what
    /// one thread wants, and nothing orders it after another thread's.
    Tiled(Device),
}

impl Products {
    /// What is best for `device`.
    pub(super) fn on(device: &Device) -> Self {
        if device.is_cpu() {
            Self::Packed
        } else {
            Self::Tiled(device.clone())
        }
    }
}

/// A tile of candidates on a device.
struct Tile {
    /// Their places, `[dimension, n]`.
    columns: Tensor,
    /// [`MetricTransform::offsets`], `[1, n]`.
    offsets: Tensor,
}

/// The candidates as columns.
enum Tiles {
    Cpu {
        /// Narrow ones, where there are such products.
        coarse: Option<PackedColumns>,
        /// In `f32`, as soon as a query needs them.
        fine: Option<PackedColumns>,
    },
    Device(Vec<Tile>, Device),
}

impl<'a> CoarseScorer<'a> {
    /// # Errors
    /// [`NearestError::Product`] when the device has no room.
    pub(super) fn new(
        space: &'a MetricTransform<'a>,
        products: &Products,
    ) -> Result<Self, NearestError> {
        let dimension = space.dimension();
        let tiles = match products {
            Products::Packed => {
                let size = (dimension, space.offsets().len());
                let coarse = PackedColumns::quantized(size, |index, to| column(space, index, to));
                Tiles::Cpu { coarse, fine: None }
            }
            Products::Tiled(device) => {
                let uploaded = space
                    .candidates()
                    .chunks(DEVICE_TILE * dimension)
                    .zip(space.offsets().chunks(DEVICE_TILE))
                    .map(|(rows, offsets)| {
                        let (placed, count) = (placed(space, rows), offsets.len());
                        let rows = Tensor::from_vec(placed, (count, dimension), device)?;
                        Ok(Tile {
                            columns: rows.t()?.contiguous()?,
                            offsets: Tensor::from_slice(offsets, (1, count), device)?,
                        })
                    })
                    .collect::<candle_core::Result<_>>()?;
                Tiles::Device(uploaded, device.clone())
            }
        };
        Ok(Self { space, tiles })
    }

    /// Whether a device does the products.
    pub(super) fn is_tiled(&self) -> bool {
        matches!(self.tiles, Tiles::Device(..))
    }

    /// The pass to begin with.
    pub(super) fn first(&self) -> Pass {
        match &self.tiles {
            Tiles::Cpu {
                coarse: Some(_), ..
            } => Pass::Coarse,
            _ => Pass::Fine,
        }
    }

    /// Must be called before a pass; packs what it needs.
    ///
    /// # Errors
    /// [`NearestError::Product`] when `DPSYN_CPU` names instructions that there are not.
    pub(super) fn prepare(&mut self, pass: Pass) -> Result<(), NearestError> {
        let space = self.space;
        if let (Pass::Fine, Tiles::Cpu { fine, .. }) = (pass, &mut self.tiles)
            && fine.is_none()
        {
            let size = (space.dimension(), space.offsets().len());
            let packed = PackedColumns::new(size, |index, to| column(space, index, to))?;
            *fine = Some(packed);
        }
        Ok(())
    }

    /// A shortlist of the `k` nearest for each query of a block: `[queries, dimension]`, placed.
    ///
    /// # Errors
    /// [`NearestError::Product`] when the device fails.
    pub(super) fn shortlists(
        &self,
        block: &[f32],
        k: usize,
        pass: Pass,
    ) -> Result<Vec<Shortlist>, NearestError> {
        let mut lists: Vec<Shortlist> = block
            .chunks_exact(self.space.dimension())
            .map(|query| match pass {
                Pass::Coarse => {
                    let most = (self.space.offsets().len() / EXACT).min(MOST);
                    Shortlist::new(k, self.space.coarse_slack(query), most)
                }
                Pass::Fine => Shortlist::new(k, self.space.slack(query), MOST),
            })
            .collect();
        match (&self.tiles, pass) {
            (Tiles::Cpu { coarse, .. }, Pass::Coarse) => self.on_cpu(block, coarse, &mut lists)?,
            (Tiles::Cpu { fine, .. }, Pass::Fine) => self.on_cpu(block, fine, &mut lists)?,
            (Tiles::Device(tiles, device), _) => {
                self.on_device(block, tiles, device, k, &mut lists)?;
            }
        }
        Ok(lists)
    }

    fn on_cpu(
        &self,
        block: &[f32],
        packed: &Option<PackedColumns>,
        lists: &mut [Shortlist],
    ) -> Result<(), NearestError> {
        let Some(packed) = packed else {
            let message = "the candidates of this pass were not prepared".to_owned();
            return Err(candle_core::Error::Msg(message).into());
        };
        let offsets = self.space.offsets();
        packed.multiply(block, |first, width, products| {
            let offsets = offsets.get(first..first + width).unwrap_or_default();
            for (list, products) in lists.iter_mut().zip(products.chunks_exact(width)) {
                list.fold(first, products, offsets);
            }
        });
        Ok(())
    }

    /// Only a tile's best entries leave the device, and whole rows where more of them may be near.
    fn on_device(
        &self,
        block: &[f32],
        tiles: &[Tile],
        device: &Device,
        k: usize,
        lists: &mut [Shortlist],
    ) -> Result<(), NearestError> {
        let queries = Tensor::from_slice(block, (lists.len(), self.space.dimension()), device)?;
        for (index, tile) in tiles.iter().enumerate() {
            let first = index * DEVICE_TILE;
            let width = tile.columns.dim(1)?;
            let keep = k.saturating_add(MARGIN).min(width);
            let scores = tile
                .offsets
                .broadcast_sub(&queries.matmul(&tile.columns)?)?
                .contiguous()?;
            let order = scores.arg_sort_last_dim(true)?;
            let order = order.narrow(1, 0, keep)?.contiguous()?;
            let best = scores.gather(&order, 1)?.to_vec2::<f32>()?;
            let order = order.to_vec2::<u32>()?;
            let mut deeper = Vec::new();
            for (row, (list, best)) in lists.iter_mut().zip(&best).enumerate() {
                let columns = order.get(row).into_iter().flatten();
                for (score, column) in best.iter().zip(columns) {
                    list.push(*score, first + *column as usize);
                }
                // All others of the tile have at least the last one's score.
                if let (Some(last), true) = (best.last(), keep < width)
                    && list.may_take(*last)
                {
                    deeper.push(row as u32);
                }
            }
            if deeper.is_empty() {
                continue;
            }
            let rows = Tensor::from_slice(&deeper, deeper.len(), device)?;
            let whole = scores.index_select(&rows, 0)?.to_vec2::<f32>()?;
            for (row, scores) in deeper.into_iter().zip(whole) {
                let mut taken = vec![false; width];
                for column in order.get(row as usize).into_iter().flatten() {
                    if let Some(taken) = taken.get_mut(*column as usize) {
                        *taken = true;
                    }
                }
                if let Some(list) = lists.get_mut(row as usize) {
                    let left = scores.iter().zip(taken).enumerate();
                    for (column, (score, _)) in left.filter(|(_, (_, taken))| !taken) {
                        list.push(*score, first + column);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Places candidate `index` and writes it.
fn column(space: &MetricTransform<'_>, index: usize, to: &mut [f32]) {
    let dimension = space.dimension();
    let row = space
        .candidates()
        .get(index * dimension..(index + 1) * dimension);
    if let Some(row) = row {
        to.copy_from_slice(row);
        space.place(to);
    }
}

/// `rows`, each placed.
fn placed(space: &MetricTransform<'_>, rows: &[f32]) -> Vec<f32> {
    let mut placed = rows.to_vec();
    placed
        .par_chunks_exact_mut(space.dimension())
        .for_each(|row| space.place(row));
    placed
}
