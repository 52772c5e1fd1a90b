//! Rough scores of all candidates, by matrix products: on a CPU that can, first in bf16, which tells the
//! near ones from the far ones for nearly every query in half of the time, then in `f32` for the others.

use candle_core::{Device, Tensor};

use super::NearestError;
use super::shortlist::{MOST, Shortlist};
use super::space::Space;
use crate::kernels::PackedColumns;

/// Candidates in one tile on a GPU. A row is sorted within one block there, which holds 1024 entries.
const DEVICE_TILE: usize = 1024;
/// Candidates a tile that come back from a GPU, beyond `k`.
const MARGIN: usize = 7;

/// An exact score takes as long as so many rough ones: with more candidates on a coarse shortlist than one in
/// so many of all, a fine pass is quicker.
const EXACT: usize = 16;

/// How exactly candidates are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// In bf16.
    Coarse,
    /// In `f32`.
    Fine,
}

/// The candidates in the form that the product wants, packed once.
pub(super) struct Rough<'a> {
    space: &'a Space<'a>,
    tiles: Tiles,
}

/// The candidates as columns: on a device, one tile after the other, each `[dimension, n]`.
enum Tiles {
    Cpu {
        /// In bf16, where there is that.
        coarse: Option<PackedColumns>,
        /// In `f32`, as soon as a query needs them.
        fine: Option<PackedColumns>,
    },
    Device(Vec<Tensor>, Device),
}

impl<'a> Rough<'a> {
    /// # Errors
    /// [`NearestError::Product`] when the device has no room.
    pub(super) fn new(space: &'a Space<'a>, device: &Device) -> Result<Self, NearestError> {
        let dimension = space.dimension();
        let tiles = if device.is_cpu() {
            let size = (dimension, space.offsets().len());
            let coarse = PackedColumns::narrow(size, |index, to| column(space, index, to));
            Tiles::Cpu { coarse, fine: None }
        } else {
            let uploaded = space
                .candidates()
                .chunks(DEVICE_TILE * dimension)
                .map(|rows| {
                    let mut tile = vec![0f32; rows.len()];
                    pack(space, rows, &mut tile);
                    let shape = (dimension, rows.len() / dimension);
                    Tensor::from_vec(tile, shape, device)
                })
                .collect::<Result<_, _>>()?;
            Tiles::Device(uploaded, device.clone())
        };
        Ok(Self { space, tiles })
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

    /// Only a tile's best entries leave the device.
    fn on_device(
        &self,
        block: &[f32],
        tiles: &[Tensor],
        device: &Device,
        k: usize,
        lists: &mut [Shortlist],
    ) -> Result<(), NearestError> {
        let queries = Tensor::from_slice(block, (lists.len(), self.space.dimension()), device)?;
        let offsets = self.space.offsets().chunks(DEVICE_TILE);
        for (index, (tile, offsets)) in tiles.iter().zip(offsets).enumerate() {
            let width = offsets.len();
            let keep = (k + MARGIN).min(width);
            let offsets = Tensor::from_slice(offsets, (1, width), device)?;
            let scores = offsets
                .broadcast_sub(&queries.matmul(tile)?)?
                .contiguous()?;
            let order = scores.arg_sort_last_dim(true)?;
            let order = order.narrow(1, 0, keep)?.contiguous()?;
            let best = scores.gather(&order, 1)?.to_vec2::<f32>()?;
            let order = order.to_vec2::<u32>()?;
            for ((list, best), order) in lists.iter_mut().zip(best).zip(order) {
                for (score, column) in best.iter().zip(order) {
                    list.push(*score, index * DEVICE_TILE + column as usize);
                }
                if let (Some(last), true) = (best.last(), keep < width) {
                    list.left_out(*last);
                }
            }
        }
        Ok(())
    }
}

/// Places candidate `index` and writes it.
fn column(space: &Space<'_>, index: usize, to: &mut [f32]) {
    let dimension = space.dimension();
    let row = space
        .candidates()
        .get(index * dimension..(index + 1) * dimension);
    if let Some(row) = row {
        to.copy_from_slice(row);
        space.place(to);
    }
}

/// Places `rows` and writes them as the columns of `tile`.
fn pack(space: &Space<'_>, rows: &[f32], tile: &mut [f32]) {
    let dimension = space.dimension();
    let width = rows.len() / dimension;
    let mut placed = vec![0f32; dimension];
    for (column, row) in rows.chunks_exact(dimension).enumerate() {
        placed.copy_from_slice(row);
        space.place(&mut placed);
        for (to, value) in tile.iter_mut().skip(column).step_by(width).zip(&placed) {
            *to = *value;
        }
    }
}
