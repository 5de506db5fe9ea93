//! `hindsight bench prefill`: reading prompts of several lengths.

use clap::Args;
use hindsight_protocol::records::AttentionPolicy;

use super::common::BenchCommon;
use crate::command::interrupt::Interrupts;
use crate::command::run::arguments::Attention;
use crate::command::runtime::block_on;
use crate::command::session::Session;
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
    /// Tokens of the prompt, one or several
    #[arg(long, value_delimiter = ',', default_value = "512,4096")]
    tokens: Vec<usize>,

    /// Attentions to compare
    #[arg(short, long, value_enum, value_delimiter = ',', default_value = "full,lfps")]
    attention: Vec<Attention>,

    /// What it shares with other measurements.
    #[command(flatten)]
    pub(super) common: BenchCommon,
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
    let common = &arguments.common;
    let (model, text) = common.open(&mut interrupts).await?;
    let longest = arguments.tokens.iter().copied().max().unwrap_or(1).max(1);
    let settings = common.settings(&model, longest + 1)?;
    let threads = settings.placement.prefill_threads;
    let progress = RunProgress::new(common.json);
    progress.begin_work(arguments.tokens.len() as u64 * u64::from(common.repeats));
    progress.begin("loading the model");
    let measured_on = settings.measured_on();
    let mut session = Session::start(settings, &[], &mut interrupts).await?;
    // Each prompt has another beginning: nothing is known of it from the one before.
    let mut start = 0;
    let outcome = async {
        let mut rows = Vec::new();
        for &tokens in &arguments.tokens {
            let mut measured = vec![Vec::new(); arguments.attention.len()];
            for _ in 0..common.repeats {
                progress.begin(format!("{tokens} tokens"));
                for (&attention, measured) in arguments.attention.iter().zip(&mut measured) {
                    start += 1;
                    let prompt = text.part(start, tokens.max(1));
                    let policy = AttentionPolicy::from(attention);
                    let read =
                        session.generate(&prompt, 1, policy, &mut interrupts).await?.generated;
                    #[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
                    measured.push(read.prefilled_tokens as f64 / read.prefill_s);
                }
                progress.advance(1);
            }
            let measured = arguments.attention.iter().zip(&measured);
            rows.extend(measured.map(|(&attention, measured)| {
                let Spread { median, least, most } = Spread::of(measured);
                PrefillRow {
                    model: common.model.clone(),
                    measured_on: measured_on.clone(),
                    attention: attention.into(),
                    tokens,
                    threads,
                    repeats: common.repeats,
                    tokens_per_s: median,
                    tokens_per_s_min: least,
                    tokens_per_s_max: most,
                }
            }));
        }
        Ok(rows)
    };
    let outcome = outcome.await;
    progress.finish();
    let rows = session.end(outcome).await?;
    if common.json {
        println!("{}", serde_json::to_string(&rows).map_err(Error::internal)?);
    } else {
        print!("{}", prefill_table(&rows));
        measured_on.note().iter().for_each(|note| println!("{note}"));
    }
    Ok(())
}
