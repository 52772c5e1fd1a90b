//! Approximate scores of all candidates by matrix products.
//!
//! On a CPU with fast 16-bit products a coarse pass uses them: they separate near from far
//! candidates for nearly every query in half of the time; the remaining queries get a fine pass in
//! `f32`. On a GPU every pass is `f32`, by tiles that are multiplied and sorted on the device.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::NearestError;
use super::shortlist::{MAX_EXTRA, Shortlist};
use super::transform::MetricTransform;
use crate::kernels::PackedColumns;

/// Candidates in one tile on a GPU. A GPU sorts a row within one thread block, which holds 1024
/// entries.
const DEVICE_TILE: usize = 1024;
/// Candidates of a tile that the device returns for each query, beyond `k`. The rest of a row is
/// transferred only where these leave the query unresolved.
const MARGIN: usize = 7;

/// Cost of one exact score, in approximate scores: with more than one in 16 of all candidates on a
/// coarse shortlist, a fine pass is faster than re-ranking them.
const EXACT_SCORE_COST: usize = 16;

/// Precision of the approximate scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// 16-bit products.
    Coarse,
    /// `f32` products.
    Fine,
}

/// Scores blocks of queries against all candidates, which are packed once.
pub(super) struct CandidateScorer<'a> {
    transform: &'a MetricTransform<'a>,
    tiles: Tiles,
}

/// Implementation of the matrix products.
#[derive(Debug, Clone)]
pub(super) enum ProductBackend {
    /// The CPU operator of this crate, with many blocks of queries in parallel.
    Cpu,
    /// candle's operators on a device, one block of queries after the other on the calling thread:
    /// a GPU executes the work of one thread in order, and does not order the work of different
    /// threads.
    Device(Device),
}

impl ProductBackend {
    /// Selects the backend for `device`.
    pub(super) fn new(device: &Device) -> Self {
        if device.is_cpu() {
            Self::Cpu
        } else {
            Self::Device(device.clone())
        }
    }
}

/// A tile of candidates on a device.
struct Tile {
    /// Transformed candidates, `[dimension, n]`.
    columns: Tensor,
    /// [`MetricTransform::offsets`], `[1, n]`.
    offsets: Tensor,
}

/// The candidates as columns.
enum Tiles {
    Cpu {
        /// 16-bit columns, where the processor has such products.
        coarse: Option<PackedColumns>,
        /// `f32` columns, packed as soon as a query needs them.
        fine: Option<PackedColumns>,
    },
    Device(Vec<Tile>, Device),
}

impl<'a> CandidateScorer<'a> {
    /// Packs the candidates for the first pass.
    ///
    /// # Errors
    /// [`NearestError::Product`] when the device is out of memory.
    pub(super) fn new(
        transform: &'a MetricTransform<'a>,
        backend: &ProductBackend,
    ) -> Result<Self, NearestError> {
        let dimension = transform.dimension();
        let tiles = match backend {
            ProductBackend::Cpu => {
                let size = (dimension, transform.offsets().len());
                let coarse =
                    PackedColumns::quantized(size, |index, to| column(transform, index, to));
                Tiles::Cpu { coarse, fine: None }
            }
            ProductBackend::Device(device) => {
                let uploaded = transform
                    .candidates()
                    .chunks(DEVICE_TILE * dimension)
                    .zip(transform.offsets().chunks(DEVICE_TILE))
                    .map(|(rows, offsets)| {
                        let shape = (offsets.len(), dimension);
                        let rows = Tensor::from_vec(transformed(transform, rows), shape, device)?;
                        Ok(Tile {
                            columns: rows.t()?.contiguous()?,
                            offsets: Tensor::from_slice(offsets, (1, offsets.len()), device)?,
                        })
                    })
                    .collect::<candle_core::Result<_>>()?;
                Tiles::Device(uploaded, device.clone())
            }
        };
        Ok(Self { transform, tiles })
    }

    /// The transform of queries and candidates.
    pub(super) fn transform(&self) -> &MetricTransform<'a> {
        self.transform
    }

    /// Returns true if a GPU computes the products.
    pub(super) fn is_on_device(&self) -> bool {
        matches!(self.tiles, Tiles::Device(..))
    }

    /// Returns the cheapest available pass.
    pub(super) fn first_pass(&self) -> Pass {
        match &self.tiles {
            Tiles::Cpu {
                coarse: Some(_), ..
            } => Pass::Coarse,
            _ => Pass::Fine,
        }
    }

    /// Packs the candidates for a pass; must be called before it.
    ///
    /// # Errors
    /// [`NearestError::Product`] when `DPSYN_CPU` names instructions that the processor does not
    /// have.
    pub(super) fn prepare(&mut self, pass: Pass) -> Result<(), NearestError> {
        let transform = self.transform;
        if let (Pass::Fine, Tiles::Cpu { fine, .. }) = (pass, &mut self.tiles)
            && fine.is_none()
        {
            let size = (transform.dimension(), transform.offsets().len());
            let packed = PackedColumns::new(size, |index, to| column(transform, index, to))?;
            *fine = Some(packed);
        }
        Ok(())
    }

    /// Returns a shortlist of the `k` nearest candidates for each query of a block of transformed
    /// queries, `[queries, dimension]`.
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
            .chunks_exact(self.transform.dimension())
            .map(|query| match pass {
                Pass::Coarse => {
                    let count = self.transform.offsets().len();
                    let max_extra = (count / EXACT_SCORE_COST).min(MAX_EXTRA);
                    Shortlist::new(k, self.transform.coarse_slack(query), max_extra)
                }
                Pass::Fine => Shortlist::new(k, self.transform.slack(query), MAX_EXTRA),
            })
            .collect();
        match (&self.tiles, pass) {
            (Tiles::Cpu { coarse, .. }, Pass::Coarse) => {
                self.score_on_cpu(block, coarse.as_ref(), &mut lists)?;
            }
            (Tiles::Cpu { fine, .. }, Pass::Fine) => {
                self.score_on_cpu(block, fine.as_ref(), &mut lists)?;
            }
            (Tiles::Device(tiles, device), _) => {
                let queries = (lists.len(), self.transform.dimension());
                let queries = Tensor::from_slice(block, queries, device)?;
                for (index, tile) in tiles.iter().enumerate() {
                    tile.score(&queries, index * DEVICE_TILE, k, &mut lists)?;
                }
            }
        }
        Ok(lists)
    }

    fn score_on_cpu(
        &self,
        block: &[f32],
        packed: Option<&PackedColumns>,
        lists: &mut [Shortlist],
    ) -> Result<(), NearestError> {
        let Some(packed) = packed else {
            let message = "the candidates of this pass were not prepared".to_owned();
            return Err(candle_core::Error::Msg(message).into());
        };
        let offsets = self.transform.offsets();
        packed.multiply(block, |first, width, products| {
            let offsets = offsets.get(first..first + width).unwrap_or_default();
            for (list, products) in lists.iter_mut().zip(products.chunks_exact(width)) {
                list.fold(first, products, offsets);
            }
        });
        Ok(())
    }
}

impl Tile {
    /// Adds the tile's candidates, of which the first has index `first`, to the shortlists. Only
    /// the best entries of a tile leave the device, and whole rows where more entries of the row
    /// may be near.
    fn score(
        &self,
        queries: &Tensor,
        first: usize,
        k: usize,
        lists: &mut [Shortlist],
    ) -> Result<(), NearestError> {
        let width = self.columns.dim(1)?;
        let keep = k.saturating_add(MARGIN).min(width);
        let scores = self
            .offsets
            .broadcast_sub(&queries.matmul(&self.columns)?)?
            .contiguous()?;
        let order = scores.arg_sort_last_dim(true)?;
        let order = order.narrow(1, 0, keep)?.contiguous()?;
        let best = scores.gather(&order, 1)?.to_vec2::<f32>()?;
        let order = order.to_vec2::<u32>()?;
        let mut incomplete = Vec::new();
        for (row, (list, best)) in lists.iter_mut().zip(&best).enumerate() {
            let columns = order.get(row).into_iter().flatten();
            for (score, column) in best.iter().zip(columns) {
                list.push(*score, first + *column as usize);
            }
            // Every other entry of the tile has at least the score of the last one returned.
            if let (Some(last), true) = (best.last(), keep < width)
                && list.may_accept(*last)
            {
                incomplete.push(row as u32);
            }
        }
        if incomplete.is_empty() {
            return Ok(());
        }
        let rows = Tensor::from_slice(&incomplete, incomplete.len(), queries.device())?;
        let whole = scores.index_select(&rows, 0)?.to_vec2::<f32>()?;
        for (row, scores) in incomplete.into_iter().zip(whole) {
            let mut seen = vec![false; width];
            for column in order.get(row as usize).into_iter().flatten() {
                if let Some(seen) = seen.get_mut(*column as usize) {
                    *seen = true;
                }
            }
            if let Some(list) = lists.get_mut(row as usize) {
                let unseen = scores.iter().zip(seen).enumerate();
                for (column, (score, _)) in unseen.filter(|(_, (_, seen))| !seen) {
                    list.push(*score, first + column);
                }
            }
        }
        Ok(())
    }
}

/// Writes the transformed candidate `index`.
fn column(transform: &MetricTransform<'_>, index: usize, to: &mut [f32]) {
    let dimension = transform.dimension();
    let row = transform
        .candidates()
        .get(index * dimension..(index + 1) * dimension);
    if let Some(row) = row {
        to.copy_from_slice(row);
        transform.apply(to);
    }
}

/// Returns `rows`, each transformed.
fn transformed(transform: &MetricTransform<'_>, rows: &[f32]) -> Vec<f32> {
    let mut rows = rows.to_vec();
    rows.par_chunks_exact_mut(transform.dimension())
        .for_each(|row| transform.apply(row));
    rows
}
