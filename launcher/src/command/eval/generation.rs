//! `hindsight eval generation`: a long text under several attentions.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use hindsight_gpu_worker::sampling::SamplingParameters;
use hindsight_protocol::records::AttentionPolicy;

use super::super::interrupt::Interrupts;
use super::super::output::Output;
use super::super::pull::fetch;
use super::super::run::prompt::read_file;
use super::super::setup::{LocalModel, settings};
use super::arguments::EvalArguments;
use super::evaluation::{Setting, unkept};
use crate::command::session::Session;
use crate::error::{Error, Exit};
use crate::eval::generation::{Decoded, Generated, GenerationReport};
use crate::eval::perplexity::Predicted;
use crate::eval::results::Results;
use crate::models::Specials;
use crate::report::generation::{html, table};
use crate::report::progress::RunProgress;

/// Decode a long text greedily, and see where attentions depart from each other and whether they drift apart
///
/// The first --prompt-tokens of --text are the prompt. Each attention decodes --tokens tokens of its own, past any end of
/// text. The first attention's text is then given to every one token by token: how far are predictions apart, early and
/// late?
#[derive(Debug, Args)]
pub(super) struct GenerationArguments {
    /// The text that the prompt is taken from
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Tokens of the text that make the prompt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,

    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,

    /// Makes each of the last 64 tokens less likely to come again, for models that repeat themselves; 1 changes nothing
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    repetition_penalty: f32,

    /// Tokens over which figures are averaged
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    stretch: u32,

    /// Write a page with tables, plots and texts, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    pub(super) common: EvalArguments,
}

pub(super) async fn run(
    arguments: &GenerationArguments,
    interrupts: &mut Interrupts,
) -> Result<(), Error> {
    let common = &arguments.common;
    common.index.parameters()?;
    let sampling = sampling(arguments)?;
    let html = arguments.html.clone().map(|path| Output::new(path, true)).transpose()?;
    let text = read_file(&arguments.text)?;
    let path = fetch(&common.model, common.quiet || common.json, interrupts).await?;
    let model = LocalModel::open(path)?;
    let prompt = prompt(arguments, &model, &text)?;
    let prompts = serde_json::json!({
        "generation": arguments.text,
        "prompt_tokens": arguments.prompt_tokens,
        "tokens": arguments.tokens,
        "sampling": sampling,
    });
    let setting = Setting::new(common, &model, prompts)?;
    let results = Results::open(&common.folder("generation"), &setting).map_err(unkept)?;
    let mut decoded = Vec::new();
    for attention in common.attentions() {
        decoded.push(known(&results, attention).map_err(unkept)?);
    }
    let work = Work { arguments, sampling, model: &model, prompt: &prompt, results: &results };
    let outcome = work.finish(&mut decoded, interrupts).await;
    if let Err(error) = &outcome
        && error.exit != Exit::Interrupted
    {
        return outcome;
    }
    let report = GenerationReport::new(
        &common.model,
        common.index.top_k,
        prompt.len(),
        arguments.stretch as usize,
        &decoded,
        |tokens| model.tokenizer.decode(tokens),
    );
    print(common.json, html.as_ref(), &report)?;
    outcome.map_err(|error| error.with_hint("run the same command again to go on from here"))
}

/// Greedy, but for the penalty.
fn sampling(arguments: &GenerationArguments) -> Result<SamplingParameters, Error> {
    let repetition_penalty = arguments.repetition_penalty;
    let sampling = SamplingParameters { repetition_penalty, ..SamplingParameters::default() };
    sampling.validate().map_err(|error| Error::new(Exit::Usage, error.kind(), error))?;
    Ok(sampling)
}

/// The beginning of the text, if the model was trained on as many tokens as that and what is decoded.
fn prompt(
    arguments: &GenerationArguments,
    model: &LocalModel,
    text: &str,
) -> Result<Vec<u32>, Error> {
    let GenerationArguments { prompt_tokens, tokens, .. } = *arguments;
    let trained = model.trained_context(arguments.common.allow_beyond_trained);
    let needed = prompt_tokens as usize + tokens as usize;
    let what = format_args!("--prompt-tokens {prompt_tokens} with --tokens {tokens}");
    trained.check(what, needed)?;
    let mut prompt = model.tokenizer.encode(text, Specials::Text)?;
    model.tokenizer.add_bos(&mut prompt);
    if prompt.len() < prompt_tokens as usize {
        let (text, found) = (arguments.text.display(), prompt.len());
        let message =
            format!("{text} has {found} tokens, fewer than --prompt-tokens {prompt_tokens}");
        return Err(Error::new(Exit::Prompt, "text_too_short", message)
            .with_hint("lower --prompt-tokens, or give a longer text"));
    }
    prompt.truncate(prompt_tokens as usize);
    Ok(prompt)
}

/// What has been done before under one attention.
fn known(
    results: &Results,
    attention: AttentionPolicy,
) -> Result<Decoded, crate::eval::results::ResultsError> {
    let generated = results.read(&generated_file(attention), |text: &Generated| text.index)?;
    let predicted = results.read(&predicted_file(attention), |text: &Predicted| text.index)?;
    let (generated, predicted) = (generated.into_values().next(), predicted.into_values().next());
    Ok(Decoded { attention, generated, predicted })
}

fn generated_file(attention: AttentionPolicy) -> String {
    format!("{attention}/generated.jsonl")
}

fn predicted_file(attention: AttentionPolicy) -> String {
    format!("{attention}/predicted.jsonl")
}

/// What is to be decoded, by which model, and where it is kept.
struct Work<'w> {
    arguments: &'w GenerationArguments,
    sampling: SamplingParameters,
    model: &'w LocalModel,
    prompt: &'w [u32],
    results: &'w Results,
}

impl Work<'_> {
    /// Does what has not been done yet.
    async fn finish(
        &self,
        decoded: &mut [Decoded],
        interrupts: &mut Interrupts,
    ) -> Result<(), Error> {
        let common = &self.arguments.common;
        let open = decoded
            .iter()
            .map(|of| usize::from(of.generated.is_none()) + usize::from(of.predicted.is_none()));
        let open = open.sum::<usize>() as u64;
        if open == 0 {
            return Ok(());
        }
        let tokens = self.prompt.len() + self.arguments.tokens as usize;
        let index = common.index.parameters()?;
        let settings = settings(self.model, &common.machine, index, tokens)?;
        let progress = RunProgress::new(common.quiet || common.json);
        progress.begin_work(open * u64::from(self.arguments.tokens));
        progress.begin("loading the model");
        // No token ends the text, so that all are equally long.
        let session = Session::start(settings, &[], interrupts).await?;
        let mut session = session.with_sampling(self.sampling).with_progress(progress.clone());
        let outcome = self.decode(decoded, &mut session, &progress, interrupts).await;
        progress.finish();
        session.end(outcome).await
    }

    async fn decode(
        &self,
        decoded: &mut [Decoded],
        session: &mut Session,
        progress: &RunProgress,
        interrupts: &mut Interrupts,
    ) -> Result<(), Error> {
        for Decoded { attention, generated, .. } in decoded.iter_mut() {
            if generated.is_none() {
                progress.begin(format!("{attention} decodes"));
                let tokens = self.arguments.tokens;
                let text = session.generate(self.prompt, tokens, *attention, interrupts).await?;
                let new = Generated {
                    index: 0,
                    tokens: text.tokens,
                    decode_s: text.generated.decode_s,
                    link_bytes: text.link_bytes,
                };
                self.results.append(&generated_file(*attention), &new).map_err(unkept)?;
                *generated = Some(new);
            }
        }
        let reference = decoded.first().and_then(|first| first.generated.as_ref());
        let text = reference.map(|reference| reference.tokens.clone()).unwrap_or_default();
        for Decoded { attention, predicted, .. } in decoded {
            if predicted.is_none() {
                progress.begin(format!("{attention} is given the text"));
                let scores = session.score(self.prompt, &text, *attention, interrupts).await?;
                let new = scores.keep(0);
                self.results.append(&predicted_file(*attention), &new).map_err(unkept)?;
                *predicted = Some(new);
            }
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn print(json: bool, page: Option<&Output>, report: &GenerationReport) -> Result<(), Error> {
    if let Some(page) = page {
        let html = html(report).map_err(Error::internal)?;
        page.write(|file| file.write_all(html.as_bytes()))?;
    }
    if json {
        println!("{}", serde_json::to_string(report).map_err(Error::internal)?);
    } else {
        print!("{}", table(report));
    }
    Ok(())
}
