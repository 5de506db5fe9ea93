//! `hindsight run`: one prompt, one text.

pub mod arguments;
pub(super) mod prompt;
mod stream;

use hindsight_cpu_indexer::parameters::IndexParameters;
use hindsight_gpu_worker::device::transfer::TransferPlan;
use hindsight_protocol::control::messages::{Generate, Generated, StopReason};
use hindsight_protocol::records::AttentionPolicy;

use arguments::PromptArguments;
pub use arguments::RunArguments;
use stream::TextStream;

use super::interrupt::{Interrupts, interrupted};
use super::pull::fetch;
use super::runtime::block_on;
use super::setup::{LocalModel, settings};
use crate::error::{Error, Exit};
use crate::link::{self, LinkReport};
use crate::models::{ChatTemplate, Message, Role, Specials, TemplateError, encode_chat};
use crate::plan::{Context, ContextRequest};
use crate::profile::{LinkOfRun, ProfileFolder, ProfiledGpu, ProfiledRun, Watch};
use crate::report::placement::PlacementReport;
use crate::report::progress::RunProgress;
use crate::report::run::{ProcessReport, RunReport, RunSetting};
use crate::supervise::{Event, Processes, Settings};
use crate::topology::{Observed, Root, Topology};

impl RunArguments {
    /// Whether results and errors are printed as JSON.
    #[must_use]
    pub const fn json(&self) -> bool {
        self.output.json
    }
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the input, what does not fit, or which process failed.
pub fn run(arguments: RunArguments) -> Result<(), Error> {
    block_on(answer(arguments))
}

/// A copy that no cache holds, in bytes.
const BEYOND_CACHES: usize = 64 << 20;

/// Everything that is decided before a process is started.
struct Plan {
    model: LocalModel,
    prompt: Vec<u32>,
    context: Context,
    settings: Settings,
}

async fn answer(arguments: RunArguments) -> Result<(), Error> {
    let mut interrupts = Interrupts::listen()?;
    let quiet = arguments.output.quiet || arguments.output.json;
    let index = arguments.attention.index.parameters()?;
    arguments
        .sampling
        .parameters()
        .validate()
        .map_err(|error| Error::new(Exit::Usage, error.kind(), error))?;
    let text = prompt::read(&arguments.prompt)?;
    let path = fetch(&arguments.model, quiet, &mut interrupts).await?;
    let mut plan = plan(&arguments, LocalModel::open(path)?, &text, index)?;
    plan.settings.profile =
        arguments.output.profile.as_deref().map(ProfileFolder::create).transpose()?;
    let progress = RunProgress::new(quiet);
    progress.begin("starting the processes and loading the model");
    let started = Processes::start(plan.settings.clone());
    let mut processes = tokio::select! {
        started = started => started?,
        () = interrupts.next() => return Err(interrupted()),
    };
    progress.begin_prefill(plan.prompt.len() as u64);
    let watch = plan.settings.profile.is_some().then(|| Watch::start(&plan.settings.device));
    let outcome = generate(&arguments, &plan, &mut processes, &mut interrupts, &progress).await;
    progress.finish();
    let (generated, tokens, text) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            processes.abort().await;
            return Err(error);
        }
    };
    let setting = setting(&arguments, &plan, &processes);
    let placement = placement(&arguments, &plan, &processes);
    let report =
        RunReport::new(setting, placement, &generated, tokens, text, processes.telemetry());
    processes.end().await;
    if let Some((folder, watch)) = plan.settings.profile.as_ref().zip(watch) {
        let counters = watch.finish();
        let link = LinkOfRun { report: measure_link(&plan), counters };
        folder.finish(profiled(&arguments, &plan)?, &link)?;
    }
    finish(&arguments, &report)
}

/// Measures the link that the run has used, or says why that cannot be done.
fn measure_link(plan: &Plan) -> Result<LinkReport, String> {
    let Settings { device, mock_link, placement, arena, .. } = &plan.settings;
    let block_bytes = arena.geometry.block_bytes();
    let transfers = TransferPlan {
        sizes: vec![block_bytes, BEYOND_CACHES / block_bytes * block_bytes],
        block_bytes,
        repeats: 3,
        limit_only: true,
    };
    link::measure(device, mock_link.as_deref(), placement, &transfers).map_err(|error| {
        tracing::warn!(%error, "the profile does not know what the link carries");
        error.to_string()
    })
}

/// What a profile says of the run.
fn profiled(arguments: &RunArguments, plan: &Plan) -> Result<ProfiledRun, Error> {
    let geometry = &plan.settings.arena.geometry;
    Ok(ProfiledRun {
        model: arguments.model.clone(),
        attention: arguments.attention.attention.into(),
        top_k: plan.settings.index.top_k,
        prompt_tokens: plan.prompt.len(),
        token_bytes: geometry.token_bytes() as u64,
        block_bytes: geometry.block_bytes() as u64,
        layers: geometry.layers,
        weight_bytes: std::fs::metadata(&plan.model.path).map_err(Error::internal)?.len(),
        gpu: plan.settings.device.used.is_cuda().then(|| ProfiledGpu {
            name: plan.settings.device.name.clone(),
            modelled_link: plan.settings.mock_link.clone(),
        }),
    })
}

/// Prints the summary; an interrupted run has its own exit code.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the command's output")]
fn finish(arguments: &RunArguments, report: &RunReport) -> Result<(), Error> {
    if arguments.output.json {
        println!("{}", serde_json::to_string(report).map_err(Error::internal)?);
    } else if !arguments.output.quiet {
        eprint!("\n{report}");
        if let Some(folder) = &arguments.output.profile {
            eprintln!("profile    {}", folder.join("report.html").display());
        }
    }
    if report.stop_reason() == StopReason::Cancelled { Err(interrupted()) } else { Ok(()) }
}

fn plan(
    arguments: &RunArguments,
    model: LocalModel,
    text: &str,
    index: IndexParameters,
) -> Result<Plan, Error> {
    let prompt = encode(&arguments.prompt, &model, text)?;
    let context = ContextRequest {
        asked: arguments.context,
        prompt_tokens: prompt.len(),
        max_tokens: arguments.max_tokens as usize,
        trained: model.trained_context(arguments.allow_beyond_trained),
    }
    .decide()?;
    let settings = settings(&model, &arguments.machine, index, context.tokens)?;
    Ok(Plan { model, prompt, context, settings })
}

/// Turns the prompt's text into tokens, in the model's chat template unless the user wants it raw.
fn encode(arguments: &PromptArguments, model: &LocalModel, text: &str) -> Result<Vec<u32>, Error> {
    let LocalModel { gguf, tokenizer, .. } = model;
    let template = match &arguments.chat_template {
        _ if arguments.raw => None,
        Some(path) => Some(ChatTemplate::from_file(path, gguf)?),
        None => match ChatTemplate::from_gguf(gguf) {
            Err(TemplateError::Missing { .. }) if !arguments.chat && arguments.system.is_none() => {
                None
            }
            template => Some(template?),
        },
    };
    let Some(template) = template else {
        let mut tokens = tokenizer.encode(text, Specials::Parse)?;
        tokenizer.add_bos(&mut tokens);
        return Ok(tokens);
    };
    let mut messages = Vec::new();
    if let Some(system) = &arguments.system {
        messages.push(Message::new(Role::System, system));
    }
    messages.push(Message::new(Role::User, text));
    Ok(encode_chat(tokenizer, &template, &messages)?)
}

/// Has the text generated and printed; returns how it went, its tokens, and the text itself.
async fn generate(
    arguments: &RunArguments,
    plan: &Plan,
    processes: &mut Processes,
    interrupts: &mut Interrupts,
    progress: &RunProgress,
) -> Result<(Generated, Vec<u32>, String), Error> {
    let request = Generate {
        prompt: plan.prompt.clone(),
        stretched_to: None,
        max_tokens: arguments.max_tokens,
        stop: plan.model.tokenizer.stop_ids().to_vec(),
        policy: arguments.attention.attention.into(),
        top_k: u32::try_from(plan.settings.index.top_k).map_err(Error::internal)?,
        sampling: arguments.sampling.parameters(),
    };
    processes.generate(request).await?;
    let mut stream = TextStream::new(!arguments.output.json);
    let mut pieces = plan.model.tokenizer.stream();
    let mut tokens = Vec::new();
    let mut cancelling = false;
    loop {
        let event = tokio::select! {
            event = processes.next_event() => event?,
            () = interrupts.next() => {
                if cancelling {
                    return Err(interrupted());
                }
                cancelling = true;
                processes.cancel().await?;
                continue;
            }
        };
        match event {
            Event::Prefilled(done) => progress.prefilled(done),
            Event::Token(token) => {
                progress.finish();
                tokens.push(token);
                let piece = pieces.push(token);
                if !stream.push(piece.as_deref().unwrap_or_default()) && !cancelling {
                    cancelling = true;
                    processes.cancel().await?;
                }
            }
            Event::Scored { .. } => {}
            Event::Finished(generated) => {
                stream.push(&pieces.finish().unwrap_or_default());
                return Ok((generated, tokens, stream.finish()));
            }
        }
    }
}

/// What was asked of the machine and what the run has got, while its processes are still there to be looked at.
fn placement(arguments: &RunArguments, plan: &Plan, processes: &Processes) -> PlacementReport {
    let root = Root::machine();
    let [worker, indexer] = processes.pids().map(|(_, pid)| pid);
    PlacementReport::new(
        (arguments.machine.request(), arguments.machine.hugepages),
        plan.settings.placement.clone(),
        &Topology::read(&root),
        Observed::read(&root, indexer, worker),
        processes.arena_refused().map(str::to_owned),
    )
}

fn setting(arguments: &RunArguments, plan: &Plan, processes: &Processes) -> RunSetting {
    let geometry = plan.settings.arena.geometry;
    let layers = geometry.layers as usize;
    let dense = plan.settings.index.dense_layers.min(layers);
    let policy = AttentionPolicy::from(arguments.attention.attention);
    let heads = (layers - dense) * geometry.kv_heads as usize;
    let cached = if policy == AttentionPolicy::Full { 0 } else { heads };
    let token_bytes = geometry.token_bytes() as u64;
    RunSetting {
        model: arguments.model.clone(),
        attention: policy,
        top_k: plan.settings.index.top_k,
        context: plan.context.tokens,
        prompt_tokens: plan.prompt.len(),
        token_bytes,
        dense_token_bytes: token_bytes / layers as u64 * dense as u64,
        device: plan.settings.device.clone(),
        modelled_link: plan.settings.mock_link.clone(),
        cache_bytes: (cached * geometry.block_bytes()) as u64
            * u64::from(plan.settings.cache_blocks),
        indexer_cores: processes.indexer_cores().to_vec(),
        processes: processes
            .pids()
            .into_iter()
            .map(|(role, pid)| ProcessReport { role, pid })
            .collect(),
    }
}
