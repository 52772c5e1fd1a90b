//! Reading checkpoints.

use thiserror::Error;

/// Why a checkpoint was refused.
#[derive(Debug, Error)]
pub enum CheckpointError {}
