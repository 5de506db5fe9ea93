//! What can be wrong with sampling.

/// An error of the sampling parameters or of the logits.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter outside its range.
    #[error("{name} is {value}, but must be {allowed}")]
    Parameter {
        /// The parameter, as the command line spells it.
        name: &'static str,
        /// What was given.
        value: String,
        /// Its range.
        allowed: &'static str,
    },

    /// A logit is NaN or plus infinity, or all are minus infinity.
    #[error(
        "the model produced {found} for token {token}: its file is damaged, or its values overflow; \
         verify the file or use a less quantized one"
    )]
    NotFinite {
        /// What the model produced.
        found: f32,
        /// The token whose logit it is.
        token: usize,
    },

    /// There are no logits at all.
    #[error("there are no logits to sample from")]
    NoLogits,
}

impl SamplingError {
    /// A stable name of the error's kind, for machine-readable reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Parameter { .. } => "sampling_parameter_invalid",
            Self::NotFinite { .. } => "logits_not_finite",
            Self::NoLogits => "no_logits",
        }
    }
}
