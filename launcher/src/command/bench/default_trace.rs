//! A trace for those who have none: recorded once, and kept.

use std::path::PathBuf;

use crate::command::trace::{RecordArguments, record_text};
use crate::error::{Error, Exit};
use crate::eval::ruler::BOOK;
use crate::models::Home;

const MODEL: &str = "smollm2-135m";
const PROMPT_TOKENS: u32 = 4096;
const STEPS: u32 = 64;
/// Every fourth of 30 layers.
const LAYERS: [usize; 7] = [3, 7, 11, 15, 19, 23, 27];

/// A trace of the default model in the user's cache. It is recorded if it is not there.
///
/// # Errors
/// There is no cache directory, the model cannot be had, or recording fails.
pub(super) fn default_trace() -> Result<PathBuf, Error> {
    let folder = Home::from_env()?.traces();
    let path = folder.join(format!("{MODEL}-{PROMPT_TOKENS}-{STEPS}.safetensors"));
    if !path.exists() {
        std::fs::create_dir_all(&folder).map_err(|error| {
            let message = format!("cannot make {}: {error}", folder.display());
            Error::new(Exit::Usage, "output_unwritable", message)
        })?;
        let length = (PROMPT_TOKENS, STEPS);
        let arguments = RecordArguments::new(MODEL, "alice.txt", length, &LAYERS, path.clone());
        record_text(&arguments, BOOK.to_owned())?;
    }
    Ok(path)
}
