//! Chat templates: how messages become the text of a prompt.
//!
//! A template is Jinja as the transformers library renders it: blocks trimmed, the methods of Python's strings and
//! lists, `raise_exception`, `strftime_now` and a `tojson` that escapes nothing for HTML. It comes out of a model file
//! and is not trusted: it has no access to anything but its input, and an end to its steps.

mod error;
mod functions;

use std::fs;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value, context};

pub use error::TemplateError;

use super::GgufFile;

/// Far beyond any real template, and done in seconds.
const FUEL: u64 = 50_000_000;

const NAME: &str = "chat template";

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sets the behaviour; comes first.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

impl Role {
    /// The name by which templates know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message by `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }

    fn to_value(&self) -> Value {
        context! { role => self.role.name(), content => self.content.as_str() }
    }
}

/// A compiled chat template together with the model's tokens that it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template in the GGUF file (`tokenizer.chat_template`).
    ///
    /// # Errors
    /// [`TemplateError::Missing`] if there is none, or another [`TemplateError`] if it cannot be compiled.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self, TemplateError> {
        let source = gguf
            .string("tokenizer.chat_template")?
            .ok_or_else(|| TemplateError::Missing { path: gguf.path().to_owned() })?;
        Self::compile(source, gguf)
    }

    /// The template in the file at `path`, with the tokens of the GGUF file.
    ///
    /// # Errors
    /// [`TemplateError`] if the file cannot be read or compiled.
    pub fn from_file(path: &Path, gguf: &GgufFile) -> Result<Self, TemplateError> {
        let source = fs::read_to_string(path)
            .map_err(|source| TemplateError::Unreadable { path: path.to_owned(), source })?;
        Self::compile(&source, gguf)
    }

    fn compile(source: &str, gguf: &GgufFile) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_syntax(syntax());
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        functions::install(&mut environment);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| TemplateError::Syntax { line: e.line(), reason: error::describe(&e) })?;
        Ok(Self {
            environment,
            bos_token: token(gguf, "tokenizer.ggml.bos_token_id")?,
            eos_token: token(gguf, "tokenizer.ggml.eos_token_id")?,
        })
    }

    /// The prompt for `messages`, ending where the assistant begins to answer.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] if the template raises an exception (roles in an order that it does not know, for
    /// example), [`TemplateError::Render`] for any other failure.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        let input = context! {
            messages => messages.iter().map(Message::to_value).collect::<Vec<_>>(),
            add_generation_prompt => true,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            tools => (),
            documents => (),
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(input))
            .map_err(|e| TemplateError::from_render(&e))
    }
}

/// Jinja as the transformers library sets it up.
fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the default delimiters do not clash")
}

/// The token whose id is under `key`, as the vocabulary writes it; empty if the file names none.
fn token(gguf: &GgufFile, key: &str) -> Result<String, TemplateError> {
    let Some(id) = gguf.u32(key)? else {
        return Ok(String::new());
    };
    let tokens = gguf.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    Ok(tokens.get(id as usize).copied().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
