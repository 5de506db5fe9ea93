//! The names that reader and writer agree on.

/// Names of the tensors.
pub(super) mod tensor {
    pub(in crate::replay::trace) const QUERIES: &str = "q";
    pub(in crate::replay::trace) const PROMPT_QUERIES: &str = "prompt_q";
    pub(in crate::replay::trace) const KEYS: &str = "k";
    pub(in crate::replay::trace) const VALUES: &str = "v";
    pub(in crate::replay::trace) const LAYERS: &str = "layers";
}

/// Names of the metadata.
pub(super) mod metadata {
    pub(in crate::replay::trace) const HEADS: &str = "heads";
    pub(in crate::replay::trace) const KV_HEADS: &str = "kv_heads";
    pub(in crate::replay::trace) const HEAD_DIM: &str = "head_dim";
    pub(in crate::replay::trace) const PROMPT_TOKENS: &str = "prompt_tokens";
    pub(in crate::replay::trace) const STEPS: &str = "steps";
    pub(in crate::replay::trace) const SOFTMAX_SCALE: &str = "softmax_scale";
    pub(in crate::replay::trace) const MODEL: &str = "model";
    pub(in crate::replay::trace) const TEXT: &str = "text";
    pub(in crate::replay::trace) const CONTINUATION: &str = "continuation";
    pub(in crate::replay::trace) const ROPE: &str = "rope";
}
