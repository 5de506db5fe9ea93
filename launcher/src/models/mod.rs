//! Models: where they come from, what their files say, and how text becomes tokens and back.
//!
//! [`resolve`] reads what `--model` says, [`Puller`] brings the file here, [`GgufFile`] opens it with checks that a
//! hostile file cannot pass, [`Tokenizer`] and [`ChatTemplate`] are built from its metadata.

mod gguf;
mod home;
pub mod pull;
mod registry;

pub use gguf::{GgufError, GgufFile};
pub use home::{Home, NoHome};
pub use pull::{PullError, Puller};
pub use registry::{Entry, HubFile, ModelSource, ResolveError, entries, resolve};
