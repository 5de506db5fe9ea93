//! Prompts with known answers under several attentions: what is not answered yet is asked, and all of it summed up.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use hindsight_cpu_indexer::parameters::IndexParameters;
use hindsight_protocol::records::AttentionPolicy;
use serde::Serialize;

use super::super::interrupt::Interrupts;
use super::super::output::Output;
use super::super::setup::{LocalModel, settings};
use super::arguments::EvalArguments;
use crate::command::session::Session;
use crate::error::{Error, Exit};
use crate::eval::case::{Case, Key};
use crate::eval::results::{Answer, Prediction, Results, ResultsError};
use crate::eval::scoring::tidy;
use crate::eval::summary::{Answered, LeftOut, Summary};
use crate::plan::MeasuredOn;
use crate::report::eval::table;
use crate::report::eval_page;
use crate::report::progress::RunProgress;

/// How answers are summed up.
#[derive(Debug, Args)]
pub(super) struct SummaryArguments {
    /// Score of full attention below which a task is left out of the means: it shows nothing there
    #[arg(long, value_name = "SCORE", default_value_t = 20.0)]
    pub(super) floor: f64,

    /// Write a page with tables and plots, too
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

/// What answers depend on; kept with them, so that they are not mixed with others.
#[derive(Debug, Serialize)]
pub(super) struct Setting<P: Serialize> {
    model: String,
    model_bytes: u64,
    kv_dtype: String,
    block_tokens: u32,
    /// The device, if it is not the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<MeasuredOn>,
    index: IndexParameters,
    prompts: P,
}

impl<P: Serialize> Setting<P> {
    /// The setting of an evaluation over `prompts`.
    pub(super) fn new(
        common: &EvalArguments,
        model: &LocalModel,
        prompts: P,
    ) -> Result<Self, Error> {
        Ok(Self {
            model: common.model.clone(),
            model_bytes: std::fs::metadata(&model.path).map_err(Error::internal)?.len(),
            kv_dtype: hindsight_protocol::geometry::KvDtype::from(common.machine.kv_dtype)
                .to_string(),
            block_tokens: common.machine.block_tokens,
            gpu: common.machine.gpu()?,
            index: common.index.parameters()?,
            prompts,
        })
    }
}

/// Prompts with known answers, and where their results are kept.
#[derive(Debug)]
pub(super) struct Evaluation<'e> {
    pub(super) common: &'e EvalArguments,
    pub(super) summary: &'e SummaryArguments,
    pub(super) model: &'e LocalModel,
    pub(super) results: Results,
    /// Tokens of the longest prompt together with its answer.
    pub(super) context: usize,
    /// Tasks that there are no prompts for.
    pub(super) left_out: Vec<LeftOut>,
}

impl Evaluation<'_> {
    /// Asks what has not been asked yet, and prints what came of it, even if it is interrupted. `make` makes the prompts.
    ///
    /// # Errors
    /// A prompt cannot be made, a process failed, or results cannot be kept.
    pub(super) async fn run(
        self,
        keys: &[Key],
        make: impl Fn(&Key) -> Result<Case, Error>,
        interrupts: &mut Interrupts,
    ) -> Result<(), Error> {
        let html = self.summary.html.clone().map(|path| Output::new(path, true)).transpose()?;
        let attentions = self.common.attentions();
        let mut answered = self.known(keys, &attentions)?;
        let asked = self.ask(keys, &attentions, make, interrupts, &mut answered).await;
        if let Err(error) = &asked
            && error.exit != Exit::Interrupted
        {
            return asked;
        }
        let mut summary = Summary::new(
            &self.common.model,
            self.common.index.top_k,
            self.summary.floor,
            &attentions,
            &answered,
        );
        summary.left_out = self.left_out;
        summary.complete = asked.is_ok();
        print(self.common.json, html.as_ref(), &summary)?;
        asked.map_err(|error| error.with_hint("run the same command again to go on from here"))
    }

    /// What has been answered before.
    fn known(&self, keys: &[Key], attentions: &[AttentionPolicy]) -> Result<Vec<Answered>, Error> {
        let mut files: HashMap<String, HashMap<u64, Answer>> = HashMap::new();
        let mut known = Vec::new();
        for key in keys {
            for &attention in attentions {
                let file = results_file(attention, key);
                if !files.contains_key(&file) {
                    let answers = self.results.read(&file, |answer: &Answer| answer.index);
                    files.insert(file.clone(), answers.map_err(unkept)?);
                }
                if let Some(&answer) = files[&file].get(&key.index) {
                    known.push(Answered { key: key.clone(), attention, answer });
                }
            }
        }
        Ok(known)
    }

    async fn ask(
        &self,
        keys: &[Key],
        attentions: &[AttentionPolicy],
        make: impl Fn(&Key) -> Result<Case, Error>,
        interrupts: &mut Interrupts,
        answered: &mut Vec<Answered>,
    ) -> Result<(), Error> {
        let known: HashSet<(&Key, AttentionPolicy)> =
            answered.iter().map(|answered| (&answered.key, answered.attention)).collect();
        let mut open: Vec<(&Key, Vec<AttentionPolicy>)> = Vec::new();
        for key in keys {
            let missing = |attention: &AttentionPolicy| !known.contains(&(key, *attention));
            let missing: Vec<_> = attentions.iter().copied().filter(missing).collect();
            if !missing.is_empty() {
                open.push((key, missing));
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let index = self.common.index.parameters()?;
        let machine = &self.common.machine;
        let settings = settings(self.model, machine, index, self.context)?;
        let quiet = self.common.quiet || self.common.json;
        let progress = RunProgress::new(quiet);
        progress.begin_work(open.iter().map(|(key, _)| weight(key)).sum());
        progress.begin("loading the model");
        let stop = self.model.tokenizer.stop_ids();
        let mut session = Session::start(settings, stop, interrupts).await?;
        let outcome = async {
            for (key, attentions) in open {
                let case = make(key)?;
                for attention in attentions {
                    let Key { task, length, index, .. } = key;
                    progress.begin(format!("{task} {length} #{index} {attention}"));
                    let answer = self.answer(&mut session, &case, attention, interrupts).await?;
                    answered.push(Answered { key: key.clone(), attention, answer });
                }
                progress.advance(weight(key));
            }
            Ok(())
        };
        let outcome = outcome.await;
        progress.finish();
        session.end(outcome).await
    }

    async fn answer(
        &self,
        session: &mut Session,
        case: &Case,
        attention: AttentionPolicy,
        interrupts: &mut Interrupts,
    ) -> Result<Answer, Error> {
        let text =
            session.generate(&case.tokens, case.max_new_tokens, attention, interrupts).await?;
        let pred = tidy(&self.model.tokenizer.decode(&text.tokens));
        let answer = Answer {
            index: case.key.index,
            score: case.scoring.score(&pred, &case.outputs),
            prompt_tokens: case.tokens.len() as u64,
            prefilled_tokens: text.generated.prefilled_tokens,
            decode_steps: text.generated.decode_steps,
            prefill_s: text.generated.prefill_s,
            decode_s: text.generated.decode_s,
            link_bytes: text.link_bytes,
        };
        let prediction = Prediction {
            input: &case.input,
            pred: &pred,
            outputs: &case.outputs,
            others: serde_json::json!({}),
            truncated: -1,
            length: case.key.length,
            task: &case.key.task,
            answer,
        };
        self.results.append(&results_file(attention, &case.key), &prediction).map_err(unkept)?;
        Ok(answer)
    }
}

/// Where the answers to a file of prompts are kept.
fn results_file(attention: AttentionPolicy, key: &Key) -> String {
    format!("{attention}/{}", key.file)
}

/// How long a prompt takes against others, about: reading it is most of it.
fn weight(key: &Key) -> u64 {
    key.length.max(1) as u64
}

/// A folder of results that cannot be used.
pub(super) fn unkept(error: ResultsError) -> Error {
    let hint = match &error {
        ResultsError::OtherSettings { .. } => "choose another folder with --output",
        ResultsError::BrokenLine { .. } => "remove that line",
        ResultsError::Io { .. } => "choose a folder that can be written with --output",
    };
    Error::new(Exit::Usage, "results", error).with_hint(hint)
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn print(json: bool, html: Option<&Output>, summary: &Summary) -> Result<(), Error> {
    if let Some(html) = html {
        let page = eval_page::html(summary).map_err(Error::internal)?;
        html.write(|file| file.write_all(page.as_bytes()))?;
    }
    if json {
        println!("{}", serde_json::to_string(summary).map_err(Error::internal)?);
    } else {
        print!("{}", table(summary));
    }
    Ok(())
}
