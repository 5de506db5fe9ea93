//! `hindsight eval jsonl`: prompts that others have made.

use std::path::PathBuf;

use clap::Args;

use super::super::interrupt::Interrupts;
use super::super::pull::fetch;
use super::super::setup::LocalModel;
use super::arguments::EvalArguments;
use super::evaluation::{Evaluation, Setting, SummaryArguments, unkept};
use crate::error::{Error, Exit};
use crate::eval::case::{Case, Key};
use crate::eval::jsonl::{Entry, read};
use crate::eval::results::Results;
use crate::models::Specials;

/// Answer prompts in RULER's file format, and keep the answers in its format for predictions
///
/// A line is a JSON object with `index`, `input` (the prompt as the model gets it, template and all) and `outputs` (what a
/// right answer contains); `task` and `max_new_tokens` are read if they are there. The answers of each attention lie in a
/// folder of their own below --output, where RULER's evaluator finds them.
#[derive(Debug, Args)]
pub(super) struct JsonlArguments {
    /// File of prompts, or folder with .jsonl files in it and below
    #[arg(short, long, value_name = "PATH")]
    input: PathBuf,

    #[command(flatten)]
    summary: SummaryArguments,

    #[command(flatten)]
    pub(super) common: EvalArguments,
}

pub(super) async fn run(
    arguments: &JsonlArguments,
    interrupts: &mut Interrupts,
) -> Result<(), Error> {
    let common = &arguments.common;
    common.index.parameters()?;
    let entries = read(&arguments.input)
        .map_err(|error| Error::new(Exit::Prompt, "prompts_unreadable", error))?;
    let path = fetch(&common.model, common.quiet || common.json, interrupts).await?;
    let model = LocalModel::open(path)?;
    let context = context(&entries, &model, common.allow_beyond_trained)?;
    let prompts = serde_json::json!({ "jsonl": arguments.input });
    let setting = Setting::new(common, &model, prompts)?;
    let results = Results::open(&common.folder("jsonl"), &setting).map_err(unkept)?;
    let make = |key: &Key| {
        let entry = entries.iter().find(|entry| entry.key == *key).expect("keys are of entries");
        Ok(Case {
            key: entry.key.clone(),
            input: entry.input.clone(),
            tokens: tokens(&model, entry)?,
            outputs: entry.outputs.clone(),
            max_new_tokens: entry.max_new_tokens,
            scoring: entry.scoring,
        })
    };
    let keys: Vec<Key> = entries.iter().map(|entry| entry.key.clone()).collect();
    let (summary, left_out) = (&arguments.summary, Vec::new());
    let evaluation = Evaluation { common, summary, model: &model, results, context, left_out };
    evaluation.run(&keys, make, interrupts).await
}

fn tokens(model: &LocalModel, entry: &Entry) -> Result<Vec<u32>, Error> {
    let mut tokens = model.tokenizer.encode(&entry.input, Specials::Parse)?;
    model.tokenizer.add_bos(&mut tokens);
    Ok(tokens)
}

/// Tokens of the longest prompt together with its answer, if the model was trained on as many.
fn context(entries: &[Entry], model: &LocalModel, beyond: bool) -> Result<usize, Error> {
    let trained = model.trained_context(beyond);
    let mut longest = 0;
    for entry in entries {
        let needed = tokens(model, entry)?.len() + entry.max_new_tokens as usize;
        let Key { file, index, .. } = &entry.key;
        let what =
            format_args!("{file}: the prompt with index {index}, {needed} tokens with its answer,");
        trained.check(what, needed)?;
        longest = longest.max(needed);
    }
    Ok(longest)
}
