//! Both children at work on one arena.

use std::path::PathBuf;

use hindsight_cpu_indexer::parameters::{IndexParameters, Timing};
use hindsight_gpu_worker::sampling::SamplingParameters;
use hindsight_protocol::arena::{Arena, ArenaConfig, ArenaError, ArenaMemory, NodePolicy};
use hindsight_protocol::control::messages::{
    Failure, FromIndexer, FromWorker, Generate, Generated, Score, ToIndexer, ToWorker,
};
use hindsight_protocol::telemetry::TelemetryPage;

use super::child::{Child, Heard, Role};
use crate::error::{Error, Exit};
use crate::plan::{ChosenDevice, MeasuredOn};
use crate::profile::ProfileFolder;
use crate::topology::Choice;

/// The first indexer of an arena; each successor has the next number.
const FIRST_EPOCH: u32 = 1;

/// Last prompt queries that the indexer is shown: it calibrates its sketches with them, and the last of them seed the
/// history.
const PROMPT_QUERIES: u32 = 64;

/// What the processes are started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The model's GGUF file.
    pub model: PathBuf,
    /// Where the worker computes.
    pub device: ChosenDevice,
    /// The link that the mock driver shall model, if it drives the device.
    pub mock_link: Option<String>,
    /// The arena to make.
    pub arena: ArenaConfig,
    /// Where its memory comes from.
    pub memory: ArenaMemory,
    /// Who runs where.
    pub placement: Choice,
    /// Blocks per (layer, KV head) that the worker's cache holds.
    pub cache_blocks: u32,
    /// Parameters of the index.
    pub index: IndexParameters,
    /// Where the children record what they do, if the run is profiled.
    pub profile: Option<ProfileFolder>,
}

impl Settings {
    /// The device, as results name it.
    #[must_use]
    pub fn measured_on(&self) -> MeasuredOn {
        MeasuredOn { device: self.device.used, modelled_link: self.mock_link.clone() }
    }
}

/// What is heard while a text is generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// So many tokens of the prompt have been read.
    Prefilled(u64),
    /// The next token of the text.
    Token(u32),
    /// How the next token of a given text was predicted.
    Scored {
        /// Natural logarithm of its probability.
        log_probability: f32,
        /// The likeliest token in its place.
        likeliest: u32,
        /// By how much the logarithm of the likeliest token's probability exceeds the next one's.
        lead: f32,
    },
    /// The text has ended.
    Finished(Generated),
}

/// A gpu-worker and a cpu-indexer that share an arena.
#[derive(Debug)]
pub struct Processes {
    worker: Child<FromWorker>,
    indexer: Child<FromIndexer>,
    telemetry: TelemetryPage,
    indexer_cores: Vec<u32>,
    arena_refused: Option<String>,
}

impl Processes {
    /// Makes the arena and the telemetry page, starts both children, and waits until both are ready.
    ///
    /// # Errors
    /// The system refuses memory or processes, or a child fails to start.
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let (arena, arena_refused) = create_arena(&settings)?;
        let telemetry = create_telemetry()?;
        // For weights in formats that candle multiplies: its threads, too, keep off the indexer's core.
        let candle_threads = settings.placement.worker_cpus.value.len().to_string();
        let mut environment = vec![("CANDLE_NUM_THREADS", candle_threads)];
        environment.extend(settings.mock_link.iter().map(|link| ("MOCK_LINK", link.clone())));
        let indexer = Child::start(Role::CpuIndexer, &arena, &[]).map_err(no_process)?;
        let worker = Child::start(Role::GpuWorker, &arena, &environment).map_err(no_process)?;
        let mut processes =
            Self { worker, indexer, telemetry, indexer_cores: Vec::new(), arena_refused };
        match processes.configure(settings).await {
            Ok(()) => Ok(processes),
            Err(error) => {
                processes.abort().await;
                Err(error)
            }
        }
    }

    async fn configure(&mut self, settings: Settings) -> Result<(), Error> {
        let Settings { profile, model, device, placement, cache_blocks, index, memory, .. } =
            settings;
        if let Some(cpus) = &placement.prefill_cpus {
            self.worker.keep_to(cpus)?;
        }
        let on_gpu = device.used.is_cuda();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let start: ToWorker<SamplingParameters> = ToWorker::Start {
            model,
            device: device.used,
            cache_blocks,
            prefill_threads: count(placement.prefill_threads),
            decode_cores: placement.worker_cpus.value.as_slice().to_vec(),
            lent_core: placement.lent_core(),
            dense_layers: count(index.dense_layers),
            dense_layer_tokens: index.dense_layer_tokens as u64,
            // A GPU holds the whole context in dense layers alone, and its queries are read once a layer.
            dense_tokens: if on_gpu { 0 } else { index.dense_tokens as u64 },
            rehearses: !on_gpu && index.timing == Timing::Rehearsed,
            prompt_queries: PROMPT_QUERIES,
            telemetry: self.telemetry.name().to_owned(),
            profile: profile.as_ref().map(|folder| folder.events(Role::GpuWorker)),
        };
        self.worker.send(&start).await?;
        let start = ToIndexer::Start {
            core: placement.indexer_core.value,
            shares_core: placement.lends_core,
            priority: placement.indexer_priority,
            epoch: FIRST_EPOCH,
            pages: memory.pages,
            cache_blocks,
            parameters: index,
            telemetry: self.telemetry.name().to_owned(),
            profile: profile.map(|folder| folder.events(Role::CpuIndexer)),
        };
        self.indexer.send(&start).await?;
        let mut worker_ready = false;
        while !worker_ready || self.indexer_cores.is_empty() {
            tokio::select! {
                heard = self.worker.hear() => match heard.map_err(Error::internal)? {
                    Heard::Message(FromWorker::Ready) => worker_ready = true,
                    other => return Err(worker_error(other)),
                },
                heard = self.indexer.hear() => match heard.map_err(Error::internal)? {
                    Heard::Message(FromIndexer::Ready { cores, kernels }) => {
                        tracing::debug!(?cores, kernels, "the indexer is ready");
                        self.indexer_cores = cores;
                    }
                    other => return Err(indexer_error(other)),
                },
            }
        }
        Ok(())
    }

    /// Asks the worker for a text. What becomes of it is heard from [`Self::next_event`].
    ///
    /// # Errors
    /// The prompt is too long to send.
    pub async fn generate(&mut self, request: Generate<SamplingParameters>) -> Result<(), Error> {
        self.worker.send(&ToWorker::Generate(request)).await
    }

    /// Asks the worker how well it predicts a text. What becomes of it is heard from [`Self::next_event`].
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub async fn score(&mut self, request: Score) -> Result<(), Error> {
        self.worker.send(&ToWorker::<SamplingParameters>::Score(request)).await
    }

    /// Asks the worker to stop at the next token.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub async fn cancel(&mut self) -> Result<(), Error> {
        self.worker.send(&ToWorker::<SamplingParameters>::Cancel).await
    }

    /// Waits for what happens next. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A child failed or died: the error says which, and how.
    pub async fn next_event(&mut self) -> Result<Event, Error> {
        tokio::select! {
            heard = self.worker.hear() => match heard.map_err(Error::internal)? {
                Heard::Message(FromWorker::Prefilled { done, .. }) => Ok(Event::Prefilled(done)),
                Heard::Message(FromWorker::Token(token)) => Ok(Event::Token(token)),
                Heard::Message(FromWorker::Scored { log_probability, likeliest, lead }) => {
                    Ok(Event::Scored { log_probability, likeliest, lead })
                }
                Heard::Message(FromWorker::Finished(end)) => Ok(Event::Finished(end)),
                other => Err(worker_error(other)),
            },
            heard = self.indexer.hear() => Err(indexer_error(heard.map_err(Error::internal)?)),
        }
    }

    /// The counters of the run.
    #[must_use]
    pub const fn telemetry(&self) -> &TelemetryPage {
        &self.telemetry
    }

    /// The cores that the indexer may run on, as the kernel told it.
    #[must_use]
    pub fn indexer_cores(&self) -> &[u32] {
        &self.indexer_cores
    }

    /// Why the arena's memory does not come from the node that was chosen for it, if the system refused.
    #[must_use]
    pub fn arena_refused(&self) -> Option<&str> {
        self.arena_refused.as_deref()
    }

    /// Process ids by role.
    #[must_use]
    pub const fn pids(&self) -> [(Role, u32); 2] {
        [(Role::GpuWorker, self.worker.pid()), (Role::CpuIndexer, self.indexer.pid())]
    }

    /// Ends both children at once: one of them has failed, and the other may wait for it.
    pub async fn abort(self) {
        tokio::join!(self.worker.abort(), self.indexer.abort());
    }

    /// Ends both children.
    pub async fn end(mut self) {
        // Whoever does not hear it is ended by force.
        let _ = self.worker.send(&ToWorker::<SamplingParameters>::Shutdown).await;
        let _ = self.indexer.send(&ToIndexer::<IndexParameters>::Shutdown).await;
        tokio::join!(self.worker.end(), self.indexer.end());
    }
}

/// Makes the arena. A node that the user did not name is not insisted on: then memory comes from the node of whoever
/// touches it, and the second part says why.
fn create_arena(settings: &Settings) -> Result<(Arena, Option<String>), Error> {
    let Settings { arena, memory, .. } = *settings;
    match Arena::create_in(arena, memory) {
        Ok(arena) => Ok((arena, None)),
        Err(error @ ArenaError::Placement { .. }) => match memory.node {
            Some(NodePolicy::Bind(_)) => Err(Error::new(Exit::Placement, "arena_node", error)
                .with_hint("where a sandbox forbids it, allow it: docker run --cap-add SYS_NICE")),
            _ => {
                let memory = ArenaMemory { node: None, ..memory };
                let arena = Arena::create_in(arena, memory).map_err(no_arena)?;
                tracing::warn!(%error, "memory comes from the node of the core that touches it");
                Ok((arena, Some(error.to_string())))
            }
        },
        Err(error) => Err(no_arena(error)),
    }
}

fn no_arena(error: ArenaError) -> Error {
    Error::new(Exit::DoesNotFit, "arena", error)
}

/// Creates the telemetry page of this process. A page of that name can only be the remains of a dead process.
fn create_telemetry() -> Result<TelemetryPage, Error> {
    TelemetryPage::sweep();
    let name = TelemetryPage::name_of(std::process::id());
    TelemetryPage::remove(&name);
    TelemetryPage::create(&name).map_err(Error::internal)
}

fn no_process(error: std::io::Error) -> Error {
    Error::internal(format!("cannot start a child process: {error}"))
}

fn worker_error(heard: Heard<FromWorker>) -> Error {
    match heard {
        Heard::Message(FromWorker::Failed(failure)) => failed(Role::GpuWorker, failure),
        Heard::Message(message) => unexpected(Role::GpuWorker, &message),
        Heard::Garbled(error) => unexpected(Role::GpuWorker, &error),
        Heard::Ended(ending) => died(Role::GpuWorker, &ending),
    }
}

fn indexer_error(heard: Heard<FromIndexer>) -> Error {
    match heard {
        Heard::Message(FromIndexer::Failed(failure)) => failed(Role::CpuIndexer, failure),
        Heard::Message(message) => unexpected(Role::CpuIndexer, &message),
        Heard::Garbled(error) => unexpected(Role::CpuIndexer, &error),
        Heard::Ended(ending) => died(Role::CpuIndexer, &ending),
    }
}

fn failed(role: Role, failure: Failure) -> Error {
    let Failure { kind, message, hint } = failure;
    let error = if kind == Failure::PRIORITY_REFUSED {
        Error::new(Exit::Placement, kind, message)
    } else {
        Error::new(role.exit(), kind, format!("the {role} failed: {message}"))
    };
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

fn died(role: Role, ending: &super::Ending) -> Error {
    Error::new(
        role.exit(),
        format!("{}_died", role.name().replace('-', "_")),
        format!("the {role} {ending}"),
    )
}

fn unexpected(role: Role, what: &dyn std::fmt::Debug) -> Error {
    Error::new(role.exit(), "protocol", format!("the {role} said something unexpected: {what:?}"))
}
