//! `hindsight bench prefill`: reading prompts of several lengths.

use std::path::PathBuf;

use clap::Args;
use hindsight_protocol::records::AttentionPolicy;

use super::text::DepthText;
use crate::command::index_arguments::IndexArguments;
use crate::command::interrupt::Interrupts;
use crate::command::pull::fetch;
use crate::command::run::arguments::{Attention, MachineArguments};
use crate::command::runtime::block_on;
use crate::command::session::Session;
use crate::command::setup::{LocalModel, settings};
use crate::error::Error;
use crate::report::progress::RunProgress;
use crate::report::speed::{PrefillRow, prefill_table};
use crate::report::spread::Spread;

/// Time reading prompts of several lengths, under several attentions
///
/// Prefill attends to every key under any attention; what differs is that the index learns from the prompt. All run in
/// one pair of processes, in turns; no prompt begins like the one before. Tokens per second are medians over the repeats.
#[derive(Debug, Args)]
pub(super) struct PrefillBenchArguments {
    /// Model: a name that `hindsight pull` knows, a GGUF file, or hf:owner/repo/file.gguf
    #[arg(short, long, env = "HINDSIGHT_MODEL", default_value = "smollm2-135m")]
    model: String,

    /// Tokens of the prompt, one or several
    #[arg(long, value_delimiter = ',', default_value = "512,4096")]
    tokens: Vec<usize>,

    /// Attentions to compare
    #[arg(short, long, value_enum, value_delimiter = ',', default_value = "full,lfps")]
    attention: Vec<Attention>,

    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,

    /// Text to read [default: the first chapters of Alice in Wonderland, over and over]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// The index's parameters.
    #[command(flatten)]
    index: IndexArguments,

    /// Where it runs.
    #[command(flatten)]
    machine: MachineArguments,

    /// Print one JSON array instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
///
/// # Errors
/// The model cannot be had, memory or cores do not suffice, or a process failed.
pub(super) fn run(arguments: &PrefillBenchArguments) -> Result<(), Error> {
    block_on(measure(arguments))
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
async fn measure(arguments: &PrefillBenchArguments) -> Result<(), Error> {
    let mut interrupts = Interrupts::listen()?;
    let path = fetch(&arguments.model, arguments.json, &mut interrupts).await?;
    let model = LocalModel::open(path)?;
    let text = DepthText::read(arguments.text.as_deref(), &model.tokenizer)?;
    let longest = arguments.tokens.iter().copied().max().unwrap_or(1).max(1);
    let settings =
        settings(&model, &arguments.machine, arguments.index.parameters()?, longest + 1)?;
    let threads = settings.placement.prefill_threads;
    let progress = RunProgress::new(arguments.json);
    progress.begin_work(arguments.tokens.len() as u64 * u64::from(arguments.repeats));
    progress.begin("loading the model");
    let mut session = Session::start(settings, &[], &mut interrupts).await?;
    let mut rows = Vec::new();
    let mut start = 0;
    for &tokens in &arguments.tokens {
        let mut measured = vec![Vec::new(); arguments.attention.len()];
        for _ in 0..arguments.repeats {
            progress.begin(format!("{tokens} tokens"));
            for (&attention, measured) in arguments.attention.iter().zip(&mut measured) {
                // Another beginning: nothing is known of it from the prompt before.
                start += 1;
                let prompt = text.part(start, tokens.max(1));
                let policy = AttentionPolicy::from(attention);
                let read = match session.generate(&prompt, 1, policy, &mut interrupts).await {
                    Ok(text) => text.generated,
                    Err(error) => {
                        progress.finish();
                        session.abort().await;
                        return Err(error);
                    }
                };
                #[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
                measured.push(read.prefilled_tokens as f64 / read.prefill_s);
            }
            progress.advance(1);
        }
        rows.extend(arguments.attention.iter().zip(&measured).map(|(&attention, measured)| {
            let Spread { median, least, most } = Spread::of(measured);
            PrefillRow {
                model: arguments.model.clone(),
                attention: attention.into(),
                tokens,
                threads,
                repeats: arguments.repeats,
                tokens_per_s: median,
                tokens_per_s_min: least,
                tokens_per_s_max: most,
            }
        }));
    }
    progress.finish();
    session.end().await;
    if arguments.json {
        println!("{}", serde_json::to_string(&rows).map_err(Error::internal)?);
    } else {
        print!("{}", prefill_table(&rows));
    }
    Ok(())
}
