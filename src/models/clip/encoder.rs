//! The transformer that both towers are made of: layers of attention and a two-layer perceptron, each
//! behind a layer norm and beside a shortcut.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::config::{EncoderShape, HiddenAct};
use crate::kernels::{LayerNorm, Linear, add, attention, causal_attention};

/// Whose names the tensors of a checkpoint have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    HuggingFace,
    OpenAi,
}

/// The layers of a tower.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    layers: Vec<Layer>,
    causal: bool,
}

impl Encoder {
    /// Reads the layers `0`, `1`, … below `vb`.
    pub fn load(
        shape: &EncoderShape,
        causal: bool,
        names: Names,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let layers = (0..shape.num_hidden_layers)
            .map(|index| Layer::load(shape, names, &vb.pp(index)))
            .collect::<Result<_>>()?;
        Ok(Self { layers, causal })
    }

    /// `[n, tokens, hidden_size]` to the same; `observe` sees what comes out of layer `1`, `2`, ….
    pub fn forward(
        &self,
        x: Tensor,
        mut observe: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let mut h = x;
        for (index, layer) in self.layers.iter().enumerate() {
            h = layer.forward(&h, self.causal)?;
            observe(index + 1, &h)?;
        }
        Ok(h)
    }
}

#[derive(Debug, Clone)]
struct Layer {
    heads: usize,
    norm1: LayerNorm,
    /// The three projections as one product: `[3 · hidden_size, hidden_size]`.
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    act: HiddenAct,
}

impl Layer {
    fn load(shape: &EncoderShape, names: Names, vb: &VarBuilder<'_>) -> Result<Self> {
        let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
        let [norm1, attn, norm2, fc1, fc2] = match names {
            Names::HuggingFace => [
                "layer_norm1",
                "self_attn",
                "layer_norm2",
                "mlp.fc1",
                "mlp.fc2",
            ],
            Names::OpenAi => ["ln_1", "attn", "ln_2", "mlp.c_fc", "mlp.c_proj"],
        };
        let norm = |name| LayerNorm::load(hidden, shape.layer_norm_eps, &vb.pp(name));
        let attn = vb.pp(attn);
        let (weight, bias) = match names {
            Names::HuggingFace => {
                let parts = ["q_proj", "k_proj", "v_proj"].map(|name| attn.pp(name));
                let weights = parts.iter().map(|vb| vb.get((hidden, hidden), "weight"));
                let weights = weights.collect::<Result<Vec<_>>>()?;
                let biases = parts.iter().map(|vb| vb.get(hidden, "bias"));
                let biases = biases.collect::<Result<Vec<_>>>()?;
                (Tensor::cat(&weights, 0)?, Tensor::cat(&biases, 0)?)
            }
            Names::OpenAi => (
                attn.get((3 * hidden, hidden), "in_proj_weight")?,
                attn.get(3 * hidden, "in_proj_bias")?,
            ),
        };
        Ok(Self {
            heads: shape.num_attention_heads,
            norm1: norm(norm1)?,
            qkv: Linear::new(&weight, Some(bias))?,
            out: Linear::load(hidden, hidden, true, &attn.pp("out_proj"))?,
            norm2: norm(norm2)?,
            fc1: Linear::load(hidden, inner, true, &vb.pp(fc1))?,
            fc2: Linear::load(inner, hidden, true, &vb.pp(fc2))?,
            act: shape.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, causal: bool) -> Result<Tensor> {
        let (n, tokens, hidden) = x.dims3()?;
        let head = hidden / self.heads;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let qkv = qkv.reshape((n, tokens, 3, self.heads, head))?;
        let part = |index: usize| qkv.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scale = 1.0 / (head as f64).sqrt();
        let seen = if causal {
            causal_attention(&q, &k, &v, scale)?
        } else {
            attention(&q, &k, &v, scale)?
        };
        let seen = seen.transpose(1, 2)?.reshape((n, tokens, hidden))?;
        let x = add(&self.out.forward(&seen)?, x)?;
        let inner = self
            .act
            .apply(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        add(&self.fc2.forward(&inner)?, &x)
    }
}
