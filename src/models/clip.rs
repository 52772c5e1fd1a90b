//! CLIP's two towers (Radford et al. 2021, arXiv 2103.00020).
//!
//! References: `modeling_clip.py` of huggingface/transformers and `clip/model.py` of openai/CLIP.
//! Weights keep the names of the published checkpoints: Hugging Face's (`vision_model.…`,
//! `text_model.…`, `visual_projection.weight`) or OpenAI's (`visual.…`).

mod config;
mod encoder;
mod text;
mod vision;

pub use config::{ClipTextConfig, ClipVisionConfig, HiddenAct};
pub use text::ClipText;
pub use vision::ClipVision;
