//! What the tests of the forward pass share.

pub(crate) mod attention;
pub(crate) mod candle;
pub(crate) mod gguf;
pub(crate) mod naive;
