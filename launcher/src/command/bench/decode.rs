//! `hindsight bench decode`: decode steps after contexts of several lengths.

use std::path::PathBuf;

use clap::Args;
use hindsight_protocol::records::AttentionPolicy;
use hindsight_protocol::telemetry::Telemetry;

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
    /// Model: a name that `hindsight pull` knows, a GGUF file, or hf:owner/repo/file.gguf
    #[arg(short, long, env = "HINDSIGHT_MODEL", default_value = "smollm2-135m")]
    model: String,

    /// Tokens of context before the first step, one or several
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "0,1024,4096,8000")]
    depth: Vec<usize>,

    /// Attentions to compare
    #[arg(short, long, value_enum, value_delimiter = ',', default_value = "full,exact,lfps")]
    attention: Vec<Attention>,

    /// Tokens to decode in each repeat
    #[arg(short = 'n', long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    tokens: u32,

    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,

    /// Text to read [default: the first chapters of Alice in Wonderland, over and over]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Read 2,048 tokens at most, and repeat their keys and values up to the depth: fast, also for depths that no model
    /// was trained for
    #[arg(long)]
    synthetic_kv: bool,

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
pub(super) fn run(arguments: &DecodeBenchArguments) -> Result<(), Error> {
    block_on(measure(arguments))
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
async fn measure(arguments: &DecodeBenchArguments) -> Result<(), Error> {
    let mut interrupts = Interrupts::listen()?;
    let path = fetch(&arguments.model, arguments.json, &mut interrupts).await?;
    let model = LocalModel::open(path)?;
    let text = DepthText::read(arguments.text.as_deref(), &model.tokenizer)?;
    let mut depths = arguments.depth.clone();
    depths.sort_unstable();
    depths.dedup();
    let deepest = depths.last().copied().unwrap_or(0);
    let context = deepest.max(1) + arguments.tokens as usize;
    let settings = settings(&model, &arguments.machine, arguments.index.parameters()?, context)?;
    let placement = &settings.placement;
    let threads = placement.worker_cpus.value.len() + usize::from(placement.lends_core);
    let progress = RunProgress::new(arguments.json);
    progress.begin_work(depths.len() as u64);
    progress.begin("loading the model");
    let mut session = Session::start(settings, &[], &mut interrupts).await?;
    let mut rows = Vec::new();
    for &depth in &depths {
        progress.begin(format!("{depth} tokens"));
        match at_depth(arguments, depth, &text, threads, &mut session, &mut interrupts).await {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                progress.finish();
                session.abort().await;
                return Err(error);
            }
        }
        progress.advance(1);
    }
    progress.finish();
    session.end().await;
    if arguments.json {
        println!("{}", serde_json::to_string(&rows).map_err(Error::internal)?);
    } else {
        print!("{}", decode_table(&rows));
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
    for _ in 0..arguments.repeats {
        for (&attention, measured) in arguments.attention.iter().zip(&mut measured) {
            let before = Counted::of(session.telemetry());
            let policy = AttentionPolicy::from(attention);
            let decoded = session
                .generate_stretched(&prompt, stretched_to, arguments.tokens, policy, interrupts)
                .await?;
            let steps = decoded.generated.decode_steps;
            #[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
            measured.tokens_per_s.push(steps as f64 / decoded.generated.decode_s);
            measured.steps += steps;
            measured.link_bytes += decoded.link_bytes;
            measured.times += Counted::of(session.telemetry()).since(before);
        }
    }
    let rows = arguments.attention.iter().zip(measured).map(|(&attention, measured)| {
        #[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
        let steps = measured.steps as f64;
        let Spread { median, least, most } = Spread::of(&measured.tokens_per_s);
        DecodeRow {
            model: arguments.model.clone(),
            attention: attention.into(),
            depth,
            synthetic_kv: synthetic,
            threads,
            tokens: arguments.tokens,
            repeats: arguments.repeats,
            tokens_per_s: median,
            tokens_per_s_min: least,
            tokens_per_s_max: most,
            step_us: measured.times / steps,
            link_bytes_per_token: measured.link_bytes / steps,
        }
    });
    Ok(rows.collect())
}

/// Counters of the stages, in nanoseconds.
#[derive(Clone, Copy)]
struct Counted {
    attention: u64,
    selection: u64,
    waiting: u64,
    sampling: u64,
    total: u64,
}

impl Counted {
    fn of(telemetry: &Telemetry) -> Self {
        let Telemetry { indexer, worker, .. } = telemetry;
        Self {
            attention: worker.attention_ns.get(),
            selection: indexer.select_ns.get(),
            waiting: worker.waiting_ns.get(),
            sampling: worker.sampling_ns.get(),
            total: worker.decode_ns.get(),
        }
    }

    fn since(self, before: Self) -> StepTimes {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds become means of a few digits")]
        let us = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e3;
        let (attention, waiting, sampling, total) = (
            us(self.attention, before.attention),
            us(self.waiting, before.waiting),
            us(self.sampling, before.sampling),
            us(self.total, before.total),
        );
        StepTimes {
            projections: total - attention - waiting - sampling,
            attention,
            selection: us(self.selection, before.selection),
            waiting,
            sampling,
            total,
        }
    }
}
