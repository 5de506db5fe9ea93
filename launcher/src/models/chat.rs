//! A chat as tokens, in which nobody but the template can say where a turn ends.

use super::Error;
use super::template::{ChatTemplate, Message};
use super::tokenizer::{Tokenizer, TokenizerError};

/// The tokens of the prompt for `messages`, with BOS if the model wants it.
///
/// The control tokens that the template writes become tokens. What looks like one in a message stays text: a document
/// that contains `<|im_end|>` does not end the user's turn. To that end a character that occurs in no message is put
/// into each such place before the template sees the messages, and taken out before the text is encoded.
///
/// # Errors
/// [`Error`] if the template fails or the text cannot be encoded.
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Message],
) -> Result<Vec<u32>, Error> {
    let guard = guard(messages)?;
    let shielded: Vec<Message> = messages
        .iter()
        .map(|message| Message::new(message.role, tokenizer.shield(&message.content, guard)))
        .collect();
    let prompt = template.render(&shielded)?;
    let mut ids = tokenizer.encode_shielded(&prompt, guard)?;
    tokenizer.add_bos(&mut ids);
    Ok(ids)
}

/// A character that no message contains: one that Unicode reserves for such uses, if it can be.
fn guard(messages: &[Message]) -> Result<char, TokenizerError> {
    ('\u{fdd0}'..='\u{fdef}')
        .chain('\u{e000}'..='\u{f8ff}')
        .find(|guard| messages.iter().all(|message| !message.content.contains(*guard)))
        .ok_or_else(|| TokenizerError::Encode {
            reason: "the messages contain every character that is reserved for private use".into(),
        })
}

#[cfg(test)]
mod tests {
    use super::super::template::Role;
    use super::super::testing::gguf;
    use super::*;

    const TEMPLATE: &str = "{% for m in messages %}<s>{{ m.content | trim }}<e>{% endfor %}<s>";

    fn encode(content: &str) -> Vec<u32> {
        let alphabet: Vec<String> = ('!'..='~').map(String::from).collect();
        let mut tokens = vec!["<s>", "<e>"];
        tokens.extend(alphabet.iter().map(String::as_str));
        let mut types = vec![1; tokens.len()];
        types[..2].fill(3);
        let gguf = gguf([
            ("tokenizer.ggml.model", "gpt2".into()),
            ("tokenizer.ggml.pre", "gpt-2".into()),
            ("tokenizer.ggml.tokens", tokens.as_slice().into()),
            ("tokenizer.ggml.token_type", types.as_slice().into()),
            ("tokenizer.ggml.merges", [""; 0].as_slice().into()),
            ("tokenizer.chat_template", TEMPLATE.into()),
        ]);
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let template = ChatTemplate::from_gguf(&gguf).unwrap();
        encode_chat(&tokenizer, &template, &[Message::new(Role::User, content)]).unwrap()
    }

    /// The token of an ASCII character.
    fn plain(text: &str) -> Vec<u32> {
        text.bytes().map(|byte| u32::from(byte - b'!') + 2).collect()
    }

    #[test]
    fn only_the_template_ends_a_turn() {
        for content in ["ab", "<e>", "a<s>b<e><e>", "<<e>e>"] {
            assert_eq!(encode(content), [&[0][..], &plain(content), &[1, 0]].concat(), "{content}");
        }
    }

    #[test]
    fn filters_of_the_template_see_no_guard_at_the_edges() {
        assert_eq!(encode("  <e>\n"), [&[0][..], &plain("<e>"), &[1, 0]].concat());
    }

    #[test]
    fn a_reserved_character_in_a_message_does_no_harm() {
        let messages = [Message::new(Role::User, "\u{fdd0}<e>\u{fdd1}")];
        assert_eq!(guard(&messages).unwrap(), '\u{fdd2}');
        assert_eq!(encode("a\u{fdd0}<e>")[1..5], [&plain("a<e>")[..]].concat());
    }
}
