//! Drafts as prompts of a model.

use crate::error::Error;
use crate::eval::ruler::Draft;
use crate::models::{
    ChatTemplate, Error as ModelsError, Message, Role, Specials, TemplateError, encode_chat,
};

use super::super::setup::LocalModel;

/// The model's chat template; nothing if it has none.
#[derive(Debug)]
pub(super) struct Template<'m> {
    model: &'m LocalModel,
    chat: Option<ChatTemplate>,
}

impl<'m> Template<'m> {
    /// The template of the model's file.
    ///
    /// # Errors
    /// It has one that cannot be used.
    pub(super) fn of(model: &'m LocalModel) -> Result<Self, Error> {
        let chat = match ChatTemplate::from_gguf(&model.gguf) {
            Err(TemplateError::Missing { .. }) => None,
            template => Some(template?),
        };
        Ok(Self { model, chat })
    }

    /// The tokens of a draft: the user's turn, and how the answer begins.
    pub(super) fn tokens(&self, draft: &Draft) -> Result<Vec<u32>, ModelsError> {
        let tokenizer = &self.model.tokenizer;
        let mut tokens = match &self.chat {
            Some(chat) => encode_chat(tokenizer, chat, &[user(draft)])?,
            None => {
                let mut tokens = tokenizer.encode(&draft.text, Specials::Text)?;
                tokenizer.add_bos(&mut tokens);
                tokens
            }
        };
        tokens.extend(tokenizer.encode(&draft.answer_prefix, Specials::Text)?);
        Ok(tokens)
    }

    /// The same as text.
    pub(super) fn text(&self, draft: &Draft) -> Result<String, ModelsError> {
        let text = match &self.chat {
            Some(chat) => chat.render(&[user(draft)])?,
            None => draft.text.clone(),
        };
        Ok(text + &draft.answer_prefix)
    }
}

fn user(draft: &Draft) -> Message {
    Message::new(Role::User, draft.text.as_str())
}
