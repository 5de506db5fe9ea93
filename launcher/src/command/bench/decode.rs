//! `hindsight bench decode`: decode steps after contexts of several lengths.

use clap::Args;
use hindsight_protocol::records::AttentionPolicy;

use super::common::BenchCommon;
use super::text::DepthText;
use crate::command::interrupt::Interrupts;
use crate::command::run::arguments::Attention;
use crate::command::runtime::block_on;
use crate::command::session::Session;
use crate::error::Error;
use crate::metrics::Sample;
use crate::report::progress::RunProgress;
use crate::report::speed::{DecodeRow, StepTimes, decode_table};
use crate::report::spread::Spread;

/// Tokens of the prompt whose keys and values `--synthetic-kv` repeats.
const SYNTHETIC_PROMPT: usize = 2048;

/// Time decode steps after contexts of several lengths, under several attentions
///
/// All run in one pair of processes, in turns: each repeat decodes the same number of tokens after the same text, greedily,
/// never stopping early. Tokens per second are medians over the repeats, stages of a step are means over all of them. The
/// indexer selects on a core of its own, so selection overlaps attention: what of it the worker waits for is `waiting`.
#[derive(Debug, Args)]
pub(super) struct DecodeBenchArguments {
    /// Tokens of context before the first step, one or several
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "0,1024,4096,8000")]
    depth: Vec<usize>,

    /// Attentions to compare
    #[arg(short, long, value_enum, value_delimiter = ',', default_value = "full,exact,lfps")]
    attention: Vec<Attention>,

    /// Tokens to decode in each repeat
    #[arg(short = 'n', long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    tokens: u32,

    /// Read 2,048 tokens at most, and repeat their keys and values up to the depth: fast, also for depths that no model
    /// was trained for
    #[arg(long)]
    synthetic_kv: bool,

    /// What it shares with other measurements.
    #[command(flatten)]
    pub(super) common: BenchCommon,
}

/// Runs the command.
///
/// # Errors
/// The model cannot be had, memory or cores do not suffice, or a process failed.
pub(super) fn run(arguments: &DecodeBenchArguments) -> Result<(), Error> {
    block_on(measure(arguments))
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
async fn measure(arguments: &DecodeBenchArguments) -> Result<(), Error> {
    let mut interrupts = Interrupts::listen()?;
    let common = &arguments.common;
    let (model, text) = common.open(&mut interrupts).await?;
    let mut depths = arguments.depth.clone();
    depths.sort_unstable();
    depths.dedup();
    let deepest = depths.last().copied().unwrap_or(0);
    let context = deepest.max(1) + arguments.tokens as usize;
    let settings = common.settings(&model, context)?;
    let placement = &settings.placement;
    let threads = placement.worker_cpus.value.len() + usize::from(placement.lends_core);
    let progress = RunProgress::new(common.json);
    progress.begin_work(depths.len() as u64);
    progress.begin("loading the model");
    let measured_on = settings.measured_on();
    let mut session = Session::start(settings, &[], &mut interrupts).await?;
    let outcome = async {
        let mut rows = Vec::new();
        for &depth in &depths {
            progress.begin(format!("{depth} tokens"));
            let session = &mut session;
            rows.extend(
                at_depth(arguments, depth, &text, threads, session, &mut interrupts).await?,
            );
            progress.advance(1);
        }
        Ok(rows)
    };
    let outcome = outcome.await;
    progress.finish();
    let rows: Vec<DecodeRow> = session.end(outcome).await?;
    if common.json {
        println!("{}", serde_json::to_string(&rows).map_err(Error::internal)?);
    } else {
        print!("{}", decode_table(&rows));
        measured_on.note().iter().for_each(|note| println!("{note}"));
        if rows.iter().any(|row| row.depth > model.config.trained_context) {
            println!("the model was trained on {} tokens", model.config.trained_context);
        }
    }
    Ok(())
}

/// What was measured of one attention.
#[derive(Default)]
struct Measured {
    tokens_per_s: Vec<f64>,
    steps: u64,
    times: StepTimes,
    link_bytes: f64,
}

/// One row for each attention.
async fn at_depth(
    arguments: &DecodeBenchArguments,
    depth: usize,
    text: &DepthText,
    threads: usize,
    session: &mut Session,
    interrupts: &mut Interrupts,
) -> Result<Vec<DecodeRow>, Error> {
    let synthetic = arguments.synthetic_kv && depth > SYNTHETIC_PROMPT;
    let read = if synthetic { SYNTHETIC_PROMPT } else { depth.max(1) };
    let stretched_to = synthetic.then_some(depth as u64);
    let prompt = text.part(0, read);
    let mut measured: Vec<Measured> = Vec::new();
    measured.resize_with(arguments.attention.len(), Measured::default);
    for _ in 0..arguments.common.repeats {
        for (&attention, measured) in arguments.attention.iter().zip(&mut measured) {
            let before = Sample::of(session.telemetry());
            let policy = AttentionPolicy::from(attention);
            let decoded = session
                .generate_stretched(&prompt, stretched_to, arguments.tokens, policy, interrupts)
                .await?;
            let steps = decoded.generated.decode_steps;
            #[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
            measured.tokens_per_s.push(steps as f64 / decoded.generated.decode_s);
            measured.steps += steps;
            measured.link_bytes += decoded.link_bytes;
            measured.times += StepTimes::of(&Sample::of(session.telemetry()).since(&before));
        }
    }
    let rows = arguments.attention.iter().zip(measured).map(|(&attention, measured)| {
        #[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
        let steps = measured.steps as f64;
        let Spread { median, least, most } = Spread::of(&measured.tokens_per_s);
        DecodeRow {
            model: arguments.common.model.clone(),
            measured_on: session.measured_on().clone(),
            attention: attention.into(),
            depth,
            synthetic_kv: synthetic,
            threads,
            tokens: arguments.tokens,
            repeats: arguments.common.repeats,
            tokens_per_s: median,
            tokens_per_s_min: least,
            tokens_per_s_max: most,
            step_us: measured.times / steps,
            link_bytes_per_token: measured.link_bytes / steps,
        }
    });
    Ok(rows.collect())
}
