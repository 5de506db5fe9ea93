//! Models: where they come from, what their files say, and how text becomes tokens and back.
//!
//! [`resolve`] reads what `--model` says, [`Puller`] brings the file here, [`GgufFile`] opens it with checks that a
//! hostile file cannot pass, [`Tokenizer`] and [`ChatTemplate`] are built from its metadata, and [`encode_chat`] makes
//! a prompt with them.

mod chat;
mod error;
mod home;
pub mod pull;
mod registry;
mod template;
#[cfg(test)]
mod testing;
mod tokenizer;

pub use chat::encode_chat;
pub use error::Error;
pub use hindsight_gpu_worker::gguf::{GgufError, GgufFile};
pub use home::{Home, NoHome};
pub use pull::{PullError, Puller};
pub use registry::{Entry, HubFile, ModelSource, ResolveError, entries, resolve};
pub use template::{ChatTemplate, Message, Role, TemplateError};
pub use tokenizer::{PreTokenizer, Specials, TokenStream, Tokenizer, TokenizerError};
