//! The two schemes of names under which DINOv2 is published.

use candle_nn::VarBuilder;

/// Naming scheme of a checkpoint's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// `state_dict` of facebookresearch/dinov2.
    Meta,
    /// `Dinov2Model` of transformers.
    HuggingFace,
}

impl Names {
    /// The tensor by which a scheme is recognized: the patch embedding.
    pub const fn patches(self) -> &'static str {
        match self {
            Self::Meta => "patch_embed.proj.weight",
            Self::HuggingFace => "embeddings.patch_embeddings.projection.weight",
        }
    }

    /// Full name of the position embedding.
    pub const fn positions(self) -> &'static str {
        match self {
            Self::Meta => "pos_embed",
            Self::HuggingFace => "embeddings.position_embeddings",
        }
    }

    /// Full name of the register tokens, which some sizes have.
    pub const fn registers(self) -> &'static str {
        match self {
            Self::Meta => "register_tokens",
            Self::HuggingFace => "embeddings.register_tokens",
        }
    }

    /// Prefix of the blocks, before their number.
    pub const fn block_prefix(self) -> &'static str {
        match self {
            Self::Meta => "blocks.",
            Self::HuggingFace => "encoder.layer.",
        }
    }

    /// Name within a block of the tensor that only a multi-layer perceptron has.
    pub const fn mlp(self) -> &'static str {
        "mlp.fc1.weight"
    }

    /// Name within a block of the joined gate and value of SwiGLU.
    pub const fn swiglu(self) -> &'static str {
        match self {
            Self::Meta => "mlp.w12.weight",
            Self::HuggingFace => "mlp.weights_in.weight",
        }
    }

    /// The scheme of the checkpoint behind `vb`.
    pub fn of(vb: &VarBuilder<'_>) -> Self {
        if vb.contains_tensor(Self::HuggingFace.patches()) {
            Self::HuggingFace
        } else {
            Self::Meta
        }
    }

    pub fn embeddings<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        match self {
            Self::Meta => vb.clone(),
            Self::HuggingFace => vb.pp("embeddings"),
        }
    }

    /// Name below [`Names::embeddings`].
    pub const fn position_embedding(self) -> &'static str {
        match self {
            Self::Meta => "pos_embed",
            Self::HuggingFace => "position_embeddings",
        }
    }

    pub fn patch_embedding<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        match self {
            Self::Meta => vb.pp("patch_embed.proj"),
            Self::HuggingFace => vb.pp("embeddings.patch_embeddings.projection"),
        }
    }

    pub fn blocks<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        match self {
            Self::Meta => vb.pp("blocks"),
            Self::HuggingFace => vb.pp("encoder.layer"),
        }
    }

    pub const fn norm(self) -> &'static str {
        match self {
            Self::Meta => "norm",
            Self::HuggingFace => "layernorm",
        }
    }
}
