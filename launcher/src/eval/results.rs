//! A folder of answers, kept as they come, from which an interrupted evaluation goes on.
//!
//! `settings.json` says what the answers were made with; answers made otherwise are not mixed with them. Below a folder
//! for each attention lie files like those of the prompts, in RULER's format for predictions with figures added.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder holds answers of an evaluation with other settings.
    #[error("{} holds results of another evaluation: {difference}", folder.display())]
    OtherSettings {
        /// The folder.
        folder: PathBuf,
        /// What differs.
        difference: String,
    },
    /// A line is no record of this program.
    #[error("{}:{line}: {reason}", path.display())]
    BrokenLine {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// An answer as it is kept: RULER's fields, and figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction<'p> {
    /// The prompt.
    pub input: &'p str,
    /// The answer, without blanks around it.
    pub pred: &'p str,
    /// What a right answer contains.
    pub outputs: &'p [String],
    /// RULER's place for what does not concern it.
    pub others: Value,
    /// Whether the prompt was cut; it never is.
    pub truncated: i8,
    /// Tokens allowed to prompt and answer.
    pub length: usize,
    /// Name of the task.
    pub task: &'p str,
    /// How it went.
    #[serde(flatten)]
    pub answer: Answer,
}

/// How an answer went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the prompt within its file.
    pub index: u64,
    /// From 0 to 1.
    pub score: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens that were read for this answer; the others were known from the one before.
    pub prefilled_tokens: u64,
    /// Decode steps.
    pub decode_steps: u64,
    /// Seconds of reading.
    pub prefill_s: f64,
    /// Seconds of decoding.
    pub decode_s: f64,
    /// Bytes that travelled to the worker, or would have with a device of its own, over all steps.
    pub link_bytes: f64,
}

/// A folder of records in JSON lines.
#[derive(Debug)]
pub struct Results {
    folder: PathBuf,
}

impl Results {
    /// Opens `folder` for records made with `settings`; makes it if it is not there.
    ///
    /// # Errors
    /// [`ResultsError::OtherSettings`] if it holds records made with others, [`ResultsError::Io`].
    pub fn open(folder: &Path, settings: &impl Serialize) -> Result<Self, ResultsError> {
        let path = folder.join("settings.json");
        let settings = serde_json::to_value(settings).expect("settings are plain data");
        fs::create_dir_all(folder).map_err(|source| io_error(folder, source))?;
        match fs::read(&path) {
            Ok(bytes) => {
                let found: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                if let Some(difference) = difference(&found, &settings) {
                    let folder = folder.to_owned();
                    return Err(ResultsError::OtherSettings { folder, difference });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = serde_json::to_vec_pretty(&settings).expect("settings are plain data");
                fs::write(&path, text).map_err(|source| io_error(&path, source))?;
            }
            Err(source) => return Err(io_error(&path, source)),
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// The records of a file, by `index`. A line that was being written when the program ended is removed.
    ///
    /// # Errors
    /// [`ResultsError::BrokenLine`] or [`ResultsError::Io`].
    pub fn read<R: DeserializeOwned>(
        &self,
        file: &str,
        index: impl Fn(&R) -> u64,
    ) -> Result<HashMap<u64, R>, ResultsError> {
        let path = self.folder.join(file);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
            Err(source) => return Err(io_error(&path, source)),
        };
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(whole as u64))
                .map_err(|source| io_error(&path, source))?;
        }
        let mut records = HashMap::new();
        for (number, line) in (1..).zip(bytes[..whole].split(|&byte| byte == b'\n')) {
            if line.is_empty() {
                continue;
            }
            let record =
                serde_json::from_slice(line).map_err(|error| ResultsError::BrokenLine {
                    path: path.clone(),
                    line: number,
                    reason: error.to_string(),
                })?;
            records.insert(index(&record), record);
        }
        Ok(records)
    }

    /// Adds a record to a file.
    ///
    /// # Errors
    /// [`ResultsError::Io`].
    pub fn append(&self, file: &str, record: &impl Serialize) -> Result<(), ResultsError> {
        let path = self.folder.join(file);
        let mut line = serde_json::to_vec(record).expect("records are plain data");
        line.push(b'\n');
        open_to_append(&path)
            .and_then(|mut file| file.write_all(&line))
            .map_err(|source| io_error(&path, source))
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn io_error(path: &Path, source: io::Error) -> ResultsError {
    ResultsError::Io { path: path.to_owned(), source }
}

/// The first setting in which two differ.
fn difference(found: &Value, wanted: &Value) -> Option<String> {
    let (Value::Object(found), Value::Object(wanted)) = (found, wanted) else {
        return (found != wanted).then(|| format!("{found} instead of {wanted}"));
    };
    let names = wanted.keys().chain(found.keys().filter(|name| !wanted.contains_key(*name)));
    names.into_iter().find_map(|name| {
        let [found, wanted] = [found, wanted].map(|map| map.get(name).unwrap_or(&Value::Null));
        difference(found, wanted).map(|difference| format!("{name}: {difference}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(index: u64) -> Answer {
        Answer {
            index,
            score: 0.5,
            prompt_tokens: 100,
            prefilled_tokens: 100,
            decode_steps: 7,
            prefill_s: 0.1,
            decode_s: 0.2,
            link_bytes: 1e6,
        }
    }

    fn read(results: &Results) -> HashMap<u64, Answer> {
        results.read("lfps/2048/vt.jsonl", |answer: &Answer| answer.index).unwrap()
    }

    #[test]
    fn what_is_added_is_there_when_the_folder_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let settings = serde_json::json!({"model": "m", "top_k": 256});
        let results = Results::open(folder.path(), &settings).unwrap();
        assert!(read(&results).is_empty());
        for index in [0, 3] {
            let prediction = Prediction {
                input: "in",
                pred: "out",
                outputs: &["out".to_owned()],
                others: Value::Object(serde_json::Map::new()),
                truncated: -1,
                length: 2048,
                task: "vt",
                answer: answer(index),
            };
            results.append("lfps/2048/vt.jsonl", &prediction).unwrap();
        }
        let again = Results::open(folder.path(), &settings).unwrap();
        assert_eq!(read(&again), HashMap::from([(0, answer(0)), (3, answer(3))]));
    }

    #[test]
    fn a_line_that_was_being_written_is_removed_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results::open(folder.path(), &()).unwrap();
        results.append("lfps/2048/vt.jsonl", &answer(0)).unwrap();
        let path = folder.path().join("lfps/2048/vt.jsonl");
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"index\": 1, \"sco");
        fs::write(&path, text).unwrap();
        assert_eq!(read(&results).len(), 1);
        results.append("lfps/2048/vt.jsonl", &answer(1)).unwrap();
        assert_eq!(read(&results).len(), 2);
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.jsonl"), "{}\n").unwrap();
        let results = Results::open(folder.path(), &()).unwrap();
        let broken = results.read("a.jsonl", |answer: &Answer| answer.index).unwrap_err();
        assert!(broken.to_string().contains("a.jsonl:1: missing field"), "{broken}");
    }

    #[test]
    fn answers_made_otherwise_are_not_mixed_in() {
        let folder = tempfile::tempdir().unwrap();
        let settings = |top_k| serde_json::json!({"index": {"top_k": top_k}, "seed": 1});
        Results::open(folder.path(), &settings(256)).unwrap();
        let error = Results::open(folder.path(), &settings(64)).unwrap_err().to_string();
        assert!(error.ends_with("another evaluation: index: top_k: 256 instead of 64"), "{error}");
    }
}
