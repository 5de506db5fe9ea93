//! Prompts in RULER's file format: one JSON object a line, with `index`, `input` and `outputs`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::case::Key;
use super::ruler::Task;
use super::scoring::Scoring;

/// Tokens of an answer where neither the line nor the task says how many.
const ANSWER_TOKENS: u32 = 128;

/// A prompt as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which one it is.
    pub key: Key,
    /// The prompt as it is given to the model, template and all.
    pub input: String,
    /// What a right answer contains.
    pub outputs: Vec<String>,
    /// Tokens that the answer may have.
    pub max_new_tokens: u32,
    /// What finding some of the outputs is worth.
    pub scoring: Scoring,
}

/// Files of prompts that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is no prompt.
    #[error("{}:{line}: {reason}", path.display())]
    BrokenLine {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing to do.
    #[error("{} holds no prompts: no .jsonl file with a line in it", .0.display())]
    Empty(PathBuf),
}

#[derive(Deserialize)]
struct Line {
    index: u64,
    input: String,
    outputs: Vec<String>,
    task: Option<String>,
    max_new_tokens: Option<u32>,
}

/// Reads the prompts of a file, or of every `.jsonl` file in a folder and those below it.
///
/// Every line is checked before the first prompt is used. Prompts are grouped by task and, where their folder's name is
/// a number (RULER keeps a folder for each length), by that.
///
/// # Errors
/// [`JsonlError`].
pub fn read(path: &Path) -> Result<Vec<Entry>, JsonlError> {
    let mut files = Vec::new();
    let root = if path.is_dir() {
        collect(path, &mut files)?;
        path
    } else {
        files.push(path.to_owned());
        path.parent().unwrap_or(path)
    };
    files.sort();
    let mut entries = Vec::new();
    for file in files {
        read_file(root, &file, &mut entries)?;
    }
    if entries.is_empty() { Err(JsonlError::Empty(path.to_owned())) } else { Ok(entries) }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), JsonlError> {
    let unreadable = |source| JsonlError::Unreadable { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    Ok(())
}

fn read_file(root: &Path, path: &Path, entries: &mut Vec<Entry>) -> Result<(), JsonlError> {
    let bytes = fs::read(path)
        .map_err(|source| JsonlError::Unreadable { path: path.to_owned(), source })?;
    let relative = path.strip_prefix(root).unwrap_or(path);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let length = path
        .parent()
        .and_then(|folder| folder.file_name()?.to_str()?.parse().ok())
        .unwrap_or_default();
    let mut seen = HashSet::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let broken =
            |reason: String| JsonlError::BrokenLine { path: path.to_owned(), line: number, reason };
        let line: Line = serde_json::from_slice(line).map_err(|error| broken(error.to_string()))?;
        if line.input.is_empty() {
            return Err(broken("the input is empty".to_owned()));
        }
        if line.outputs.is_empty() {
            return Err(broken("there are no outputs to look for".to_owned()));
        }
        if line.max_new_tokens == Some(0) {
            return Err(broken("max_new_tokens is 0".to_owned()));
        }
        if !seen.insert(line.index) {
            return Err(broken(format!("a line before has the index {} already", line.index)));
        }
        let task = line.task.unwrap_or_else(|| stem.clone().into_owned());
        let known = Task::by_name(&task);
        entries.push(Entry {
            input: line.input,
            outputs: line.outputs,
            max_new_tokens: line
                .max_new_tokens
                .unwrap_or(known.map_or(ANSWER_TOKENS, Task::answer_tokens)),
            scoring: known.map_or(Scoring::All, Task::scoring),
            key: Key {
                file: relative.to_string_lossy().into_owned(),
                task,
                length,
                index: line.index,
            },
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"index": 7, "input": "Hello", "outputs": ["a", "b"], "length": 12}"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_gives_the_prompts_of_all_its_files() {
        let folder = folder(&[
            ("4096/qa_1.jsonl", LINE),
            ("4096/notes.txt", "no prompt"),
            (
                "2048/mine.jsonl",
                &format!("\n{}\n", LINE.replace("\"length\"", "\"max_new_tokens\"")),
            ),
        ]);
        let entries = read(folder.path()).unwrap();
        let key = |file: &str, task: &str, length| Key {
            file: file.to_owned(),
            task: task.to_owned(),
            length,
            index: 7,
        };
        assert_eq!(entries[0].key, key("2048/mine.jsonl", "mine", 2048));
        assert_eq!((entries[0].max_new_tokens, entries[0].scoring), (12, Scoring::All));
        assert_eq!(entries[1].key, key("4096/qa_1.jsonl", "qa_1", 4096));
        assert_eq!((entries[1].max_new_tokens, entries[1].scoring), (32, Scoring::Part));
        assert_eq!(entries[1].outputs, ["a", "b"]);
    }

    #[test]
    fn a_single_file_needs_no_folder_of_a_length() {
        let folder = folder(&[("some.jsonl", LINE)]);
        let entries = read(&folder.path().join("some.jsonl")).unwrap();
        assert_eq!((entries[0].key.file.as_str(), entries[0].key.length), ("some.jsonl", 0));
    }

    #[test]
    fn a_broken_line_is_named_by_file_and_number() {
        let cases = [
            ("{", "EOF"),
            (r#"{"index": 8, "outputs": ["x"]}"#, "missing field `input`"),
            (r#"{"index": 8, "input": "", "outputs": ["x"]}"#, "the input is empty"),
            (r#"{"index": 8, "input": "x", "outputs": []}"#, "no outputs"),
            (LINE, "has the index 7 already"),
        ];
        for (broken, reason) in cases {
            let folder = folder(&[("2048/vt.jsonl", &format!("{LINE}\n\n{broken}\n"))]);
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("vt.jsonl:3: ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn nothing_to_do_is_an_error() {
        let folder = folder(&[("empty.jsonl", "\n")]);
        assert!(matches!(read(folder.path()), Err(JsonlError::Empty(_))));
        let missing = folder.path().join("none.jsonl");
        assert!(matches!(read(&missing), Err(JsonlError::Unreadable { .. })));
    }
}
