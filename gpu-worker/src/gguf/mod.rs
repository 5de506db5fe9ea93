//! GGUF files: metadata and the list of tensors, checked against the file before they are believed.

mod error;
mod file;
mod metadata;
mod scan;
#[cfg(test)]
mod tests;

pub use error::GgufError;
pub use file::GgufFile;
pub(crate) use metadata::unsigned;
