//! `hindsight eval perplexity`: how well a text is predicted by decode steps.

use std::path::PathBuf;

use clap::Args;
use hindsight_protocol::records::AttentionPolicy;

use super::super::interrupt::Interrupts;
use super::super::pull::fetch;
use super::super::run::prompt::read_file;
use super::super::setup::{LocalModel, settings};
use super::arguments::EvalArguments;
use super::evaluation::{Setting, unkept};
use crate::command::session::Session;
use crate::error::{Error, Exit};
use crate::eval::perplexity::{PerplexityRow, Predicted, Window, windows};
use crate::eval::results::Results;
use crate::models::Specials;
use crate::plan::TrainedContext;
use crate::report::eval::perplexity_table;
use crate::report::progress::RunProgress;

/// Predict a text token by token, each by a decode step under the chosen attention
///
/// The text is cut into windows of --context tokens. The first tokens of a window are read as a prompt; the last --stride
/// are given to the model one by one, whatever it would have said itself, and the probability of each is noted.
#[derive(Debug, Args)]
pub(super) struct PerplexityArguments {
    /// The text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Tokens of a window
    #[arg(short, long)]
    context: usize,

    /// Tokens of a window that are predicted
    #[arg(long, default_value_t = 512)]
    stride: usize,

    /// Windows at most [default: as many as the text has]
    #[arg(long)]
    windows: Option<usize>,

    #[command(flatten)]
    pub(super) common: EvalArguments,
}

pub(super) async fn run(
    arguments: &PerplexityArguments,
    interrupts: &mut Interrupts,
) -> Result<(), Error> {
    let common = &arguments.common;
    common.index.parameters()?;
    let text = read_file(&arguments.text)?;
    let path = fetch(&common.model, common.quiet || common.json, interrupts).await?;
    let model = LocalModel::open(path)?;
    let mut tokens = model.tokenizer.encode(&text, Specials::Text)?;
    model.tokenizer.add_bos(&mut tokens);
    let trained = model.trained_context(common.allow_beyond_trained);
    let windows = plan(arguments, tokens.len(), trained)?;
    let prompts = serde_json::json!({
        "perplexity": arguments.text,
        "context": arguments.context,
        "stride": arguments.stride,
    });
    let setting = Setting::new(common, &model, prompts)?;
    let results = Results::open(&common.folder("perplexity"), &setting).map_err(unkept)?;
    let attentions = common.attentions();
    let mut predictions = Vec::new();
    for &attention in &attentions {
        let known = results.read(&results_file(attention), |window: &Predicted| window.index);
        predictions.push((attention, known.map_err(unkept)?));
    }
    let outcome =
        predict(arguments, &model, &tokens, &windows, &results, &mut predictions, interrupts).await;
    if let Err(error) = &outcome
        && error.exit != Exit::Interrupted
    {
        return outcome;
    }
    print(arguments, &windows, &predictions)?;
    outcome.map_err(|error| error.with_hint("run the same command again to go on from here"))
}

type Predictions = Vec<(AttentionPolicy, std::collections::HashMap<u64, Predicted>)>;

fn plan(
    arguments: &PerplexityArguments,
    tokens: usize,
    trained: TrainedContext,
) -> Result<Vec<Window>, Error> {
    let PerplexityArguments { context, stride, .. } = *arguments;
    let usage = |kind: &'static str, message| Error::new(Exit::Usage, kind, message);
    if stride == 0 || stride >= context {
        let message = format!("--stride {stride} must be at least 1 and below --context {context}");
        return Err(usage("stride", message));
    }
    trained.check(format_args!("--context {context}"), context)?;
    let windows = windows(tokens, context, stride, arguments.windows.unwrap_or(usize::MAX));
    if windows.is_empty() {
        let message =
            format!("{} has {tokens} tokens, less than one window", arguments.text.display());
        return Err(usage("text_too_short", message)
            .with_hint(format!("ask for --context {tokens} at most, or give a longer text")));
    }
    Ok(windows)
}

async fn predict(
    arguments: &PerplexityArguments,
    model: &LocalModel,
    tokens: &[u32],
    windows: &[Window],
    results: &Results,
    predictions: &mut Predictions,
    interrupts: &mut Interrupts,
) -> Result<(), Error> {
    let common = &arguments.common;
    let missing = |window: u64, predictions: &Predictions| {
        predictions.iter().any(|(_, known)| !known.contains_key(&window))
    };
    let open: Vec<(u64, &Window)> =
        (0..).zip(windows).filter(|(index, _)| missing(*index, predictions)).collect();
    if open.is_empty() {
        return Ok(());
    }
    let index = common.index.parameters()?;
    let settings = settings(model, &common.machine, index, arguments.context)?;
    let progress = RunProgress::new(common.quiet || common.json);
    progress.begin_work(open.len() as u64);
    progress.begin("loading the model");
    let mut session = Session::start(settings, model.tokenizer.stop_ids(), interrupts).await?;
    let outcome = async {
        for (index, &Window { start, predicted, end }) in open {
            let (prompt, text) = (&tokens[start..predicted], &tokens[predicted..end]);
            for (attention, known) in predictions.iter_mut() {
                if known.contains_key(&index) {
                    continue;
                }
                progress.begin(format!("window {index} {attention}"));
                let scores = session.score(prompt, text, *attention, interrupts).await?;
                let window = scores.keep(index);
                results.append(&results_file(*attention), &window).map_err(unkept)?;
                known.insert(index, window);
            }
            progress.advance(1);
        }
        Ok(())
    };
    let outcome = outcome.await;
    progress.finish();
    session.end(outcome).await
}

fn results_file(attention: AttentionPolicy) -> String {
    format!("{attention}/perplexity.jsonl")
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn print(
    arguments: &PerplexityArguments,
    windows: &[Window],
    predictions: &Predictions,
) -> Result<(), Error> {
    let in_order: Vec<(AttentionPolicy, Vec<Predicted>)> = predictions
        .iter()
        .map(|(attention, known)| {
            let of = |index: u64| known.get(&index).cloned();
            (*attention, (0..windows.len() as u64).filter_map(of).collect())
        })
        .collect();
    let reference = in_order.first().map(|(attention, windows)| (*attention, windows.as_slice()));
    let rows: Vec<PerplexityRow> = in_order
        .iter()
        .filter(|(_, windows)| !windows.is_empty())
        .map(|(attention, windows)| {
            let other = reference.filter(|(other, _)| other != attention);
            PerplexityRow::new(*attention, arguments.context, windows, other)
        })
        .collect();
    if arguments.common.json {
        let json = serde_json::json!({
            "model": arguments.common.model,
            "top_k": arguments.common.index.top_k,
            "windows": windows.len(),
            "rows": rows,
        });
        println!("{json}");
    } else {
        print!("{}", perplexity_table(&rows));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        perplexity: PerplexityArguments,
    }

    fn plan(arguments: &[&str], tokens: usize) -> Result<Vec<Window>, Error> {
        let common = ["test", "--text", "book.txt"];
        let arguments = Command::parse_from(common.iter().chain(arguments)).perplexity;
        super::plan(&arguments, tokens, TrainedContext { tokens: 8192, beyond: false })
    }

    #[test]
    fn windows_that_make_no_sense_are_refused() {
        let kind = |arguments: &[&str], tokens| plan(arguments, tokens).unwrap_err().kind;
        assert_eq!(kind(&["--context", "100", "--stride", "100"], 1000), "stride");
        assert_eq!(kind(&["--context", "100", "--stride", "0"], 1000), "stride");
        assert_eq!(kind(&["--context", "9000"], 10_000), "context_beyond_trained");
        assert_eq!(kind(&["--context", "2048"], 1000), "text_too_short");
    }

    #[test]
    fn as_many_windows_as_asked_for_or_as_there_are() {
        let arguments = ["--context", "1000", "--stride", "500"];
        assert_eq!(plan(&arguments, 3000).unwrap().len(), 5);
        let few = [&arguments[..], &["--windows", "2"]].concat();
        assert_eq!(plan(&few, 3000).unwrap().len(), 2);
    }
}
