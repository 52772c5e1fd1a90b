//! The text tower, as Stable Diffusion uses it.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::config::ClipTextConfig;
use super::encoder::{Encoder, Names};
use crate::kernels::{LayerNorm, on_pool};

/// The text tower (`CLIPTextModel` of transformers): a causal transformer over tokens. There is no
/// padding mask: tokens after the end of a text count like any others, as in the original.
#[derive(Debug, Clone)]
pub struct ClipText {
    config: ClipTextConfig,
    token_embedding: Tensor,
    position_embedding: Tensor,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
}

impl ClipText {
    /// Tensors that a checkpoint may hold beyond the network: a buffer of the numbers 0, 1, … that
    /// older versions of transformers saved.
    pub const IGNORED: &'static [&'static str] = &["text_model.embeddings.position_ids"];

    /// Builds the network from the tensors under `text_model`; all have the type and device of
    /// `vb`.
    ///
    /// # Errors
    /// A configuration that [`ClipTextConfig::validate`] refuses; a tensor that is missing or has
    /// another shape.
    pub fn new(config: &ClipTextConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        config.validate().map_err(candle_core::Error::wrap)?;
        let hidden = config.hidden_size;
        let vb = vb.pp("text_model");
        let embeddings = vb.pp("embeddings");
        Ok(Self {
            config: config.clone(),
            token_embedding: embeddings
                .get((config.vocab_size, hidden), "token_embedding.weight")?,
            position_embedding: embeddings.get(
                (config.max_position_embeddings, hidden),
                "position_embedding.weight",
            )?,
            encoder: Encoder::load(
                &config.shape(),
                true,
                Names::HuggingFace,
                &vb.pp("encoder.layers"),
            )?,
            final_layer_norm: LayerNorm::load(
                hidden,
                config.layer_norm_eps,
                &vb.pp("final_layer_norm"),
            )?,
        })
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Token ids `[n, tokens]`, of any integer type, to the last hidden state `[n, tokens,
    /// hidden_size]`, after the final layer norm.
    ///
    /// # Errors
    /// More tokens than positions, an id outside the vocabulary, and whatever candle reports.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        on_pool(ids.device(), || self.forward_observed(ids, |_, _| Ok(())))
    }

    /// [`ClipText::forward`], showing `observe` the hidden states: `0` before the first layer, `k`
    /// after layer `k`, each `[n, tokens, hidden_size]` and without the final layer norm.
    ///
    /// # Errors
    /// As [`ClipText::forward`], and whatever `observe` returns.
    pub fn forward_observed(
        &self,
        ids: &Tensor,
        mut observe: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let (n, tokens) = ids.dims2()?;
        if tokens > self.config.max_position_embeddings {
            bail!(
                "{tokens} tokens do not fit into {} positions",
                self.config.max_position_embeddings
            );
        }
        let flat: Vec<i64> = ids.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?;
        let flat = flat
            .into_iter()
            .map(|id| match u32::try_from(id) {
                Ok(small) if (small as usize) < self.config.vocab_size => Ok(small),
                _ => bail!(
                    "token {id} is outside the vocabulary of {}",
                    self.config.vocab_size
                ),
            })
            .collect::<Result<Vec<u32>>>()?;
        let ids = Tensor::from_vec(flat, n * tokens, self.token_embedding.device())?;
        let h = self.token_embedding.index_select(&ids, 0)?;
        let h = h.reshape((n, tokens, self.config.hidden_size))?;
        let h = h.broadcast_add(&self.position_embedding.narrow(0, 0, tokens)?)?;
        observe(0, &h)?;
        let h = self.encoder.forward(h, observe)?;
        self.final_layer_norm.forward(&h)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::kernels::check_bf16_on_cpu;
    use crate::models::clip::HiddenAct;
    use crate::models::testing::{any_weights_in, relative_error};

    fn tower(hidden_act: HiddenAct) -> ClipText {
        tower_in(DType::F32, hidden_act)
    }

    fn tower_in(dtype: DType, hidden_act: HiddenAct) -> ClipText {
        let config = ClipTextConfig {
            vocab_size: 20,
            hidden_size: 24,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            max_position_embeddings: 7,
            hidden_act,
            ..ClipTextConfig::default()
        };
        ClipText::new(&config, &any_weights_in(dtype)).unwrap()
    }

    fn rows(tower: &ClipText, ids: &[&[u32]]) -> Vec<Vec<Vec<f32>>> {
        let ids: Vec<Vec<u32>> = ids.iter().map(|ids| ids.to_vec()).collect();
        let ids = Tensor::new(ids, &Device::Cpu).unwrap();
        tower.forward(&ids).unwrap().to_vec3().unwrap()
    }

    #[test]
    fn a_token_sees_only_those_before_it() {
        for act in [HiddenAct::QuickGelu, HiddenAct::Gelu] {
            let tower = tower(act);
            let both = rows(&tower, &[&[1, 2, 3, 4], &[1, 2, 3, 9]]);
            assert_eq!(both[0][..3], both[1][..3]);
            assert_ne!(both[0][3], both[1][3]);
            assert_eq!(rows(&tower, &[&[1, 2]])[0], both[0][..2]);
        }
    }

    #[test]
    fn bf16_stays_near_f32() {
        if check_bf16_on_cpu().is_err() {
            return;
        }
        let ids = Tensor::new(&[[1u32, 2, 3, 4], [5, 2, 3, 9]], &Device::Cpu).unwrap();
        for act in [HiddenAct::QuickGelu, HiddenAct::Gelu] {
            let forward = |dtype| {
                let states = tower_in(dtype, act).forward(&ids).unwrap();
                states.to_dtype(DType::F32).unwrap()
            };
            let error = relative_error(&forward(DType::BF16), &forward(DType::F32));
            assert!(error > 0.0 && error < 0.02, "{error}");
        }
    }

    #[test]
    fn the_activations_differ() {
        let of = |act| rows(&tower(act), &[&[1, 2]]);
        assert_ne!(of(HiddenAct::QuickGelu), of(HiddenAct::Gelu));
    }

    #[test]
    fn too_many_tokens_and_unknown_ones_are_refused() {
        let tower = tower(HiddenAct::QuickGelu);
        let forward = |ids: Vec<Vec<i64>>| tower.forward(&Tensor::new(ids, &Device::Cpu).unwrap());
        let message = forward(vec![vec![0; 8]]).unwrap_err().to_string();
        assert!(message.contains("7 positions"), "{message}");
        for id in [20, -1] {
            let message = forward(vec![vec![3, id]]).unwrap_err().to_string();
            assert!(message.contains(&format!("token {id}")), "{message}");
        }
    }

    #[test]
    fn configurations_are_read_from_files_of_transformers() {
        let text =
            r#"{"architectures": ["CLIPTextModel"], "hidden_act": "gelu", "hidden_size": 1024}"#;
        let config: ClipTextConfig = serde_json::from_str(text).unwrap();
        assert_eq!(
            (config.hidden_act, config.hidden_size),
            (HiddenAct::Gelu, 1024)
        );
        assert_eq!(config.vocab_size, 49_408);
        let config = ClipTextConfig {
            num_attention_heads: 7,
            ..ClipTextConfig::default()
        };
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains("num_attention_heads"), "{message}");
    }
}
