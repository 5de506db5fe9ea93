//! `hindsight trace record`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use hindsight_cpu_indexer::replay::RecordedAttention;
use hindsight_gpu_worker::model::{RopeStyle, Transformer};
use hindsight_gpu_worker::record::{
    Continuation, Progress, RecordError, Recording, Request, record,
};
use hindsight_gpu_worker::threads::Pools;
use indicatif::HumanBytes;
use serde::Serialize;

use super::RecordArguments;
use super::plan::Plan;
use crate::command::interrupt::Interrupts;
use crate::command::output::Output;
use crate::command::pull::fetch;
use crate::command::run::prompt::read_file;
use crate::command::runtime::block_on;
use crate::command::setup::LocalModel;
use crate::error::{Error, Exit};
use crate::report::progress::RunProgress;

/// What was recorded.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    path: PathBuf,
    model: String,
    text: PathBuf,
    prompt_tokens: usize,
    steps: usize,
    layers: Vec<usize>,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the input, what does not fit, or what failed.
pub(super) fn run(arguments: &RecordArguments) -> Result<(), Error> {
    let report = block_on(async {
        let mut interrupts = Interrupts::listen()?;
        record_text(arguments, || read_file(&arguments.text), &mut interrupts).await
    })?;
    print(arguments.json, &report)
}

/// Records what `arguments` ask for; `text` is what the file has that they name.
///
/// # Errors
/// What is wrong with the input, what does not fit, or what failed.
pub(super) async fn record_text(
    arguments: &RecordArguments,
    text: impl FnOnce() -> Result<String, Error>,
    interrupts: &mut Interrupts,
) -> Result<Report, Error> {
    let quiet = arguments.quiet || arguments.json;
    let output = Output::new(arguments.output.clone(), arguments.force)?;
    let text = text()?;
    let model = fetch(&arguments.model, quiet, interrupts).await?;
    let plan = Arc::new(Plan::new(arguments, LocalModel::open(model)?, &text)?);
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut recording = tokio::task::spawn_blocking({
        let (plan, cancelled) = (Arc::clone(&plan), Arc::clone(&cancelled));
        let (steps, progress) = (arguments.steps, RunProgress::new(quiet));
        move || {
            let recorded = record_plan(&plan, steps, &progress, &cancelled);
            progress.finish();
            recorded
        }
    });
    let recording = loop {
        tokio::select! {
            recorded = &mut recording => break recorded.map_err(Error::internal)??,
            () = interrupts.next() => cancelled.store(true, Ordering::Relaxed),
        }
    };
    let bytes = write(&output, arguments, &plan, &recording)?;
    Ok(Report {
        path: output.path().to_owned(),
        model: arguments.model.clone(),
        text: arguments.text.clone(),
        prompt_tokens: plan.prompt.len(),
        steps: recording.steps,
        layers: plan.layers.clone(),
        bytes,
    })
}

/// Loads the model and records; may be cancelled after any chunk of the prompt and any step.
fn record_plan(
    plan: &Plan,
    steps: u32,
    progress: &RunProgress,
    cancelled: &AtomicBool,
) -> Result<Recording, Error> {
    progress.begin("loading the model");
    let pools = Pools::new(&plan.threads, None).map_err(Error::internal)?;
    let model = Transformer::load(&plan.model, &Device::Cpu).map_err(|error| {
        Error::new(Exit::Model, error.kind(), format!("{}: {error}", plan.model.display()))
    })?;
    let continuation = match &plan.continuation {
        Some(tokens) => Continuation::Text(tokens),
        None => Continuation::Greedy { steps: steps as usize, stop: &plan.stop },
    };
    let request = Request { prompt: &plan.prompt, continuation, layers: &plan.layers };
    progress.begin_prefill(plan.prompt.len() as u64);
    let recorded = record(&model, &pools, &request, &mut |reached| {
        match reached {
            Progress::Prefilled(tokens) => {
                progress.prefilled(tokens as u64);
                if tokens == plan.prompt.len() {
                    progress.begin_steps(steps.into());
                }
            }
            Progress::Stepped(steps) => progress.stepped(steps as u64),
        }
        if cancelled.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    recorded.map_err(|error| {
        let exit = match error {
            RecordError::Cancelled => Exit::Interrupted,
            RecordError::NoSteps => Exit::Prompt,
            _ => Exit::Model,
        };
        Error::new(exit, error.kind(), error)
    })
}

fn write(
    output: &Output,
    arguments: &RecordArguments,
    plan: &Plan,
    recording: &Recording,
) -> Result<u64, Error> {
    let layers = plan.layers.iter().map(|&layer| i32::try_from(layer));
    let layers = layers.collect::<Result<Vec<_>, _>>().map_err(Error::internal)?;
    let name = |part: Option<&std::ffi::OsStr>| {
        part.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let recorded = RecordedAttention {
        model: &name(plan.model.file_stem()),
        text: &name(arguments.text.file_name()),
        continuation: if arguments.free_running { "greedy" } else { "text" },
        rope: match plan.config.rope.style {
            RopeStyle::Interleaved => "interleaved",
            RopeStyle::Halves => "neox",
        },
        softmax_scale: recording.softmax_scale,
        heads: plan.config.heads,
        kv_heads: plan.config.kv_heads,
        head_dim: plan.config.head_dim,
        layers: &layers,
        prompt_tokens: plan.prompt.len(),
        steps: recording.steps,
        queries: &recording.queries,
        prompt_queries: &recording.prompt_queries,
        keys: &recording.keys,
        values: &recording.values,
    };
    output.write(|file| recorded.write(file))
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn print(json: bool, report: &Report) -> Result<(), Error> {
    if json {
        println!("{}", serde_json::to_string(report).map_err(Error::internal)?);
        return Ok(());
    }
    let Report { path, prompt_tokens, steps, layers, bytes, .. } = report;
    println!(
        "{}: {steps} steps after {prompt_tokens} prompt tokens, {} layers, {}",
        path.display(),
        layers.len(),
        HumanBytes(*bytes)
    );
    Ok(())
}
