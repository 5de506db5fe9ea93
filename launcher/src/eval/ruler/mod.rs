//! The 13 tasks of RULER (Hsieh et al., arXiv 2404.06654), synthesised here: needles in haystacks, variable tracking,
//! common and frequent words, and questions about documents.
//!
//! Every prompt is as long as its length allows, counted in the model's own tokens and with room for the answer. Seed,
//! task, length and number of a prompt decide it.

mod cwe;
mod draft;
mod fit;
mod fwe;
mod haystack;
mod niah;
mod qa;
mod task;
mod vt;
mod words;

pub use draft::{Draft, Materials};
pub use haystack::{BOOK, Haystack};
pub use qa::{Documents, DocumentsError};
pub use task::Task;

use super::random::Random;

/// A prompt that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RulerError<E> {
    /// Not even the shortest prompt of the task fits.
    #[error(
        "{task} does not fit into {length} tokens: its shortest prompt and answer take {needed}"
    )]
    TooShort {
        /// The task.
        task: Task,
        /// Tokens allowed.
        length: usize,
        /// Tokens that the shortest one takes.
        needed: usize,
    },
    /// The task's documents were not given.
    #[error("{0} needs documents that were not given")]
    NoDocuments(Task),
    /// The tokens of a text cannot be counted.
    #[error(transparent)]
    Tokens(E),
}

/// The prompt number `index` of `task`: the longest that takes at most `length` tokens together with its answer.
///
/// `count` says how many tokens a draft has as a prompt, the model's template included.
///
/// # Errors
/// [`RulerError`].
pub fn draft<E>(
    task: Task,
    materials: &Materials,
    length: usize,
    index: u64,
    count: impl Fn(&Draft) -> Result<usize, E>,
) -> Result<Draft, RulerError<E>> {
    let purpose = [task.name(), &length.to_string(), &index.to_string()];
    let random = Random::new(materials.seed, &purpose);
    if materials.documents(task).is_none() && task.needs_documents() {
        return Err(RulerError::NoDocuments(task));
    }
    let room = length.saturating_sub(task.answer_tokens() as usize);
    let make = |size| make(task, materials, length, index, size, random.clone());
    let smallest = task.smallest();
    let fits = |size| Ok(count(&make(size))? <= room);
    match fit::largest(smallest, task.largest(materials), fits).map_err(RulerError::Tokens)? {
        Some(size) => Ok(make(size)),
        None => {
            let needed = count(&make(smallest)).map_err(RulerError::Tokens)?;
            Err(RulerError::TooShort {
                task,
                length,
                needed: needed + task.answer_tokens() as usize,
            })
        }
    }
}

/// The prompt of a given size, in the task's own unit.
fn make(
    task: Task,
    materials: &Materials,
    length: usize,
    index: u64,
    size: usize,
    mut random: Random,
) -> Draft {
    match task {
        Task::Vt => vt::draft(size, &mut random),
        Task::Cwe => cwe::draft(&materials.words, length, size, &mut random),
        Task::Fwe => fwe::draft(length, size, &mut random),
        Task::Qa1 | Task::Qa2 => {
            let documents = materials.documents(task).expect("checked before a size is chosen");
            documents.draft(index, size, &mut random)
        }
        needles => niah::draft(niah::kind(needles), materials, size, &mut random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and punctuation marks, about as many as a tokenizer makes.
    fn count(draft: &Draft) -> Result<usize, std::convert::Infallible> {
        let text = format!("{}{}", draft.text, draft.answer_prefix);
        Ok(text.split(|c: char| !c.is_alphanumeric()).count())
    }

    fn synthetic() -> impl Iterator<Item = Task> {
        Task::ALL.into_iter().filter(|task| !task.needs_documents())
    }

    #[test]
    fn prompts_fill_their_length_and_leave_room_for_the_answer() {
        let materials = Materials::new(42, Haystack::default());
        for task in synthetic() {
            for length in [1024, 4096] {
                let draft = draft(task, &materials, length, 0, count).unwrap();
                let tokens = count(&draft).unwrap() + task.answer_tokens() as usize;
                assert!((length * 9 / 10..=length).contains(&tokens), "{task} {length}: {tokens}");
            }
        }
    }

    #[test]
    fn seed_length_and_number_decide_a_prompt() {
        let [first, second] = [42, 43].map(|seed| Materials::new(seed, Haystack::default()));
        for task in synthetic() {
            let make =
                |materials: &Materials, index| draft(task, materials, 1024, index, count).unwrap();
            assert_eq!(make(&first, 3), make(&first, 3), "{task}");
            assert_ne!(make(&first, 3), make(&first, 4), "{task}");
            assert_ne!(make(&first, 3), make(&second, 3), "{task}");
        }
    }

    #[test]
    fn the_text_holds_the_answer_unless_it_must_be_counted_out() {
        let materials = Materials::new(1, Haystack::default());
        for task in synthetic() {
            let draft = draft(task, &materials, 2048, 5, count).unwrap();
            assert!(!draft.outputs.is_empty());
            for output in &draft.outputs {
                assert!(draft.text.contains(output.as_str()), "{task}: {output}");
                assert!(!draft.answer_prefix.contains(output.as_str()), "{task}: {output}");
            }
        }
    }

    #[test]
    fn a_length_that_holds_no_prompt_is_refused_with_what_it_takes() {
        let materials = Materials::new(1, Haystack::default());
        let error = draft(Task::Vt, &materials, 100, 0, count).unwrap_err().to_string();
        assert!(error.contains("vt does not fit into 100 tokens"), "{error}");
    }

    #[test]
    fn questions_without_documents_are_refused() {
        let materials = Materials::new(1, Haystack::default());
        let refused = draft(Task::Qa1, &materials, 4096, 0, count);
        assert!(matches!(refused, Err(RulerError::NoDocuments(Task::Qa1))));
    }
}
