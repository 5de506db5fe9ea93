//! Questions about documents that the user names: SQuAD for qa_1, HotpotQA for qa_2.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::random::Random;
use super::Draft;

/// Questions, and the documents that hold their answers and those of other questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    questions: Vec<Question>,
    documents: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    text: String,
    answers: Vec<String>,
    /// The documents that hold the answer.
    golden: Vec<usize>,
    /// Documents of the same article, which distract more than others.
    related: Vec<usize>,
}

/// A file of questions that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It does not have the format's form.
    #[error("{} is no {format} file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// Why it is not.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Squad {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<SquadQuestion>,
}

#[derive(Deserialize)]
struct SquadQuestion {
    question: String,
    #[serde(default)]
    is_impossible: bool,
    #[serde(default)]
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    text: String,
}

#[derive(Deserialize)]
struct HotpotQuestion {
    question: String,
    answer: String,
    /// Title and sentences of each paragraph.
    context: Vec<(String, Vec<String>)>,
}

impl Documents {
    /// Reads SQuAD 2.0 (`dev-v2.0.json`). Questions without an answer are left out.
    ///
    /// # Errors
    /// [`DocumentsError`].
    pub fn squad(path: &Path) -> Result<Self, DocumentsError> {
        Self::from_squad(read(path, "SQuAD")?).ok_or_else(|| no_questions(path, "SQuAD"))
    }

    /// Reads HotpotQA (`hotpot_dev_distractor_v1.json`).
    ///
    /// # Errors
    /// [`DocumentsError`].
    pub fn hotpot(path: &Path) -> Result<Self, DocumentsError> {
        Self::from_hotpot(read(path, "HotpotQA")?).ok_or_else(|| no_questions(path, "HotpotQA"))
    }

    fn from_squad(squad: Squad) -> Option<Self> {
        let mut pool = Pool::default();
        let mut questions = Vec::new();
        for article in squad.data {
            let ids: Vec<usize> =
                article.paragraphs.iter().map(|paragraph| pool.id(&paragraph.context)).collect();
            for (paragraph, &id) in article.paragraphs.into_iter().zip(&ids) {
                let related: Vec<usize> =
                    ids.iter().copied().filter(|&other| other != id).collect();
                for question in paragraph.qas {
                    if question.is_impossible || question.answers.is_empty() {
                        continue;
                    }
                    let mut answers: Vec<String> = Vec::new();
                    for Answer { text } in question.answers {
                        if !answers.contains(&text) {
                            answers.push(text);
                        }
                    }
                    let (text, golden) = (question.question, vec![id]);
                    questions.push(Question { text, answers, golden, related: related.clone() });
                }
            }
        }
        (!questions.is_empty()).then_some(Self { questions, documents: pool.documents })
    }

    fn from_hotpot(hotpot: Vec<HotpotQuestion>) -> Option<Self> {
        let mut pool = Pool::default();
        let questions: Vec<Question> = hotpot
            .into_iter()
            .map(|HotpotQuestion { question, answer, context }| {
                let mut golden: Vec<usize> = context
                    .iter()
                    .map(|(title, sentences)| pool.id(&format!("{title}\n{}", sentences.concat())))
                    .collect();
                golden.sort_unstable();
                golden.dedup();
                Question { text: question, answers: vec![answer], golden, related: Vec::new() }
            })
            .collect();
        (!questions.is_empty()).then_some(Self { questions, documents: pool.documents })
    }

    /// The number of documents.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.documents.len()
    }

    /// The question number `index`, with `size` documents, among them those that hold the answer.
    pub(super) fn draft(&self, index: u64, size: usize, random: &mut Random) -> Draft {
        let at = usize::try_from(index % self.questions.len() as u64).unwrap_or(0);
        let question = &self.questions[at];
        let mut chosen = question.golden.clone();
        let missing = size.saturating_sub(chosen.len());
        let related = random.sample(question.related.len(), missing);
        chosen.extend(related.into_iter().map(|at| question.related[at]));
        let taken: HashSet<usize> = chosen.iter().chain(&question.related).copied().collect();
        let others: Vec<usize> =
            (0..self.documents.len()).filter(|other| !taken.contains(other)).collect();
        let missing = size.saturating_sub(chosen.len());
        chosen.extend(random.sample(others.len(), missing).into_iter().map(|at| others[at]));
        random.shuffle(&mut chosen);
        let documents: Vec<String> = (1..)
            .zip(&chosen)
            .map(|(number, &id)| format!("Document {number}:\n{}", self.documents[id]))
            .collect();
        let instruction = "Answer the question based on the given documents. Only give me the answer and do not output \
                           any other words.";
        Draft {
            text: format!(
                "{instruction}\n\nThe following are given documents.\n\n{}\n\n{instruction}\n\nQuestion: {}",
                documents.join("\n\n"),
                question.text
            ),
            answer_prefix: " Answer:".to_owned(),
            outputs: question.answers.clone(),
        }
    }
}

/// Different documents, each with a number.
#[derive(Default)]
struct Pool {
    ids: HashMap<String, usize>,
    documents: Vec<String>,
}

impl Pool {
    fn id(&mut self, document: &str) -> usize {
        let next = self.documents.len();
        let id = *self.ids.entry(document.to_owned()).or_insert(next);
        if id == next {
            self.documents.push(document.to_owned());
        }
        id
    }
}

fn read<T: for<'de> Deserialize<'de>>(
    path: &Path,
    format: &'static str,
) -> Result<T, DocumentsError> {
    let bytes = std::fs::read(path)
        .map_err(|source| DocumentsError::Unreadable { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| DocumentsError::Malformed {
        path: path.to_owned(),
        format,
        reason: error.to_string(),
    })
}

fn no_questions(path: &Path, format: &'static str) -> DocumentsError {
    let reason = "it has no question with an answer".to_owned();
    DocumentsError::Malformed { path: path.to_owned(), format, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUAD: &str = r#"{"version": "v2.0", "data": [
        {"title": "Rivers", "paragraphs": [
            {"context": "The Rhine is 1,233 km long.", "qas": [
                {"id": "a", "question": "How long is the Rhine?", "is_impossible": false,
                 "answers": [{"text": "1,233 km", "answer_start": 13}, {"text": "1,233 km", "answer_start": 13},
                             {"text": "1,233", "answer_start": 13}]},
                {"id": "b", "question": "How deep is it?", "is_impossible": true, "answers": []}]},
            {"context": "The Elbe ends near Hamburg.", "qas": []}]},
        {"title": "Hills", "paragraphs": [{"context": "The Brocken is often in clouds.", "qas": []}]}]}"#;

    const HOTPOT: &str = r#"[{"_id": "1", "question": "Which came first?", "answer": "The egg", "type": "comparison",
        "context": [["Egg", ["Eggs are old.", " Very old."]], ["Hen", ["Hens are birds."]]]}]"#;

    fn squad() -> Documents {
        Documents::from_squad(serde_json::from_str(SQUAD).unwrap()).unwrap()
    }

    #[test]
    fn a_question_about_one_paragraph_reads_like_rulers() {
        let draft = squad().draft(0, 1, &mut Random::new(0, &[]));
        assert_eq!(
            draft.text,
            "Answer the question based on the given documents. Only give me the answer and do not output any other \
             words.\n\nThe following are given documents.\n\nDocument 1:\nThe Rhine is 1,233 km long.\n\nAnswer the \
             question based on the given documents. Only give me the answer and do not output any other words.\n\n\
             Question: How long is the Rhine?"
        );
        assert_eq!(draft.outputs, ["1,233 km", "1,233"]);
        assert_eq!(draft.answer_prefix, " Answer:");
    }

    #[test]
    fn paragraphs_of_the_same_article_distract_first() {
        let documents = squad();
        assert_eq!(documents.count(), 3);
        let two = documents.draft(0, 2, &mut Random::new(0, &[])).text;
        assert!(two.contains("The Elbe") && !two.contains("The Brocken"));
        assert!(documents.draft(0, 9, &mut Random::new(0, &[])).text.contains("Document 3:"));
    }

    #[test]
    fn all_paragraphs_of_a_question_about_several_are_there_and_titled() {
        let documents = Documents::from_hotpot(serde_json::from_str(HOTPOT).unwrap()).unwrap();
        let draft = documents.draft(5, 1, &mut Random::new(0, &[]));
        assert!(
            draft.text.contains("Egg\nEggs are old. Very old.") && draft.text.contains("Hen\nHens")
        );
        assert_eq!(draft.outputs, ["The egg"]);
    }

    #[test]
    fn a_file_of_another_form_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}").unwrap();
        let error = Documents::squad(file.path()).unwrap_err().to_string();
        assert!(
            error.contains("is no SQuAD file") && error.contains(file.path().to_str().unwrap())
        );
        std::fs::write(file.path(), "[]").unwrap();
        let error = Documents::hotpot(file.path()).unwrap_err().to_string();
        assert!(error.contains("no question"), "{error}");
    }
}
