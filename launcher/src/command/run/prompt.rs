//! Where the prompt comes from.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use super::arguments::PromptArguments;
use crate::error::{Error, Exit};

/// Reads the prompt's text from the command line, a file, or standard input.
///
/// # Errors
/// There is none, it cannot be read, or it is not UTF-8.
pub(super) fn read(arguments: &PromptArguments) -> Result<String, Error> {
    let file = arguments.prompt_file.as_deref().map(read_file).transpose()?;
    let text = match (file, arguments.prompt.clone()) {
        (Some(file), Some(question)) => format!("{}\n\n{question}", file.trim_end()),
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => read_standard_input()?,
    };
    if text.trim().is_empty() {
        return Err(empty());
    }
    Ok(text)
}

fn empty() -> Error {
    Error::new(Exit::Prompt, "empty_prompt", "the prompt is empty")
        .with_hint("give one with --prompt, --prompt-file, or on standard input")
}

/// Reads a text from a file.
///
/// # Errors
/// It cannot be read, or it is not UTF-8.
pub(in crate::command) fn read_file(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|error| {
        let message = format!("cannot read the prompt file {}: {error}", path.display());
        Error::new(Exit::Prompt, "prompt_unreadable", message)
    })?;
    text(bytes, &path.display().to_string())
}

fn read_standard_input() -> Result<String, Error> {
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        return Err(empty());
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| {
        let message = format!("cannot read the prompt from standard input: {error}");
        Error::new(Exit::Prompt, "prompt_unreadable", message)
    })?;
    text(bytes, "standard input")
}

fn text(bytes: Vec<u8>, source: &str) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("the prompt from {source} is not UTF-8: byte {at} is no text");
        Error::new(Exit::Prompt, "prompt_not_utf8", message)
            .with_hint("convert it first, for instance with iconv -f latin1 -t utf-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(prompt: Option<&str>, file: Option<&Path>) -> PromptArguments {
        PromptArguments {
            prompt: prompt.map(str::to_owned),
            prompt_file: file.map(Path::to_owned),
            chat: false,
            raw: false,
            system: None,
            chat_template: None,
        }
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_question_follows_the_file_that_it_is_about() {
        let book = file(b"A long book.\n\n");
        let text = read(&arguments(Some("Who wrote it?"), Some(book.path()))).unwrap();
        assert_eq!(text, "A long book.\n\nWho wrote it?");
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_place() {
        let latin = file(b"caf\xe9");
        let error = read(&arguments(None, Some(latin.path()))).unwrap_err();
        assert_eq!(error.kind, "prompt_not_utf8");
        assert!(error.message.contains("byte 3"), "{error}");
    }

    #[test]
    fn nothing_and_blanks_are_no_prompt() {
        let blank = file(b" \n");
        for arguments in [arguments(Some(""), None), arguments(None, Some(blank.path()))] {
            assert_eq!(read(&arguments).unwrap_err().kind, "empty_prompt");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(&arguments(None, Some(Path::new("/no/such/book")))).unwrap_err();
        assert!(error.message.contains("/no/such/book"), "{error}");
    }
}
