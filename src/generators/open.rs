//! The types of the `[model]` section. `docs/adding-a-model.md` shows how to add one.

use super::{
    GeneratorSection, image_pool, improved_diffusion, openai_images, program, sprites,
    stable_diffusion, text,
};
use crate::embedders::EmbedderConfig;
use crate::sections::tagged_sections;

tagged_sections! {
    /// A `[model]` section: the foundation model.
    pub enum ModelConfig: dyn GeneratorSection {
        "improved-diffusion" => ImprovedDiffusion(improved_diffusion::Config),
        "image-pool" => ImagePool(image_pool::Config),
        "openai-images" => OpenAiImages(openai_images::Config),
        "program" => Program(program::Config),
        "sprites" => Sprites(sprites::Config),
        "stable-diffusion" => StableDiffusion(stable_diffusion::Config),
        "text" => Text(text::Config),
    }
}

impl ModelConfig {
    /// The values of `type` whose sections have a table `embedder`, with the keys of `[embedder]`.
    pub const WITH_EMBEDDER: &'static [&'static str] = &["image-pool"];

    /// Returns the place of the table `embedder`, if the section can have one.
    pub fn embedder_mut(&mut self) -> Option<&mut Option<EmbedderConfig>> {
        match self {
            Self::ImagePool(config) => Some(&mut config.embedder),
            _ => None,
        }
    }

    /// Removes the keys on which no generated sample depends from the section, as JSON.
    pub fn remove_non_identity_keys(&self, section: &mut serde_json::Value) {
        let remove = |table: Option<&mut serde_json::Value>, keys: &[&str]| {
            if let Some(table) = table.and_then(|table| table.as_object_mut()) {
                keys.iter().for_each(|key| drop(table.remove(*key)));
            }
        };
        remove(Some(&mut *section), self.non_identity_keys());
        // The digest of the model includes what its embedder depends on.
        if let Some(embedder) = self.embedder() {
            remove(section.get_mut("embedder"), embedder.non_identity_keys());
        }
    }

    /// Returns the table `embedder`, if there is one.
    #[must_use]
    pub fn embedder(&self) -> Option<&EmbedderConfig> {
        match self {
            Self::ImagePool(config) => config.embedder.as_ref(),
            _ => None,
        }
    }
}
