//! The types of the `[model]` section. `docs/adding-a-model.md` shows how to add one.

use super::{GeneratorSection, improved_diffusion, openai_images, program, stable_diffusion};
use crate::sections::tagged_sections;

tagged_sections! {
    /// A `[model]` section: the foundation model.
    pub enum ModelConfig: dyn GeneratorSection {
        "improved-diffusion" => ImprovedDiffusion(improved_diffusion::Config),
        "openai-images" => OpenAiImages(openai_images::Config),
        "program" => Program(program::Config),
        "stable-diffusion" => StableDiffusion(stable_diffusion::Config),
    }
}
