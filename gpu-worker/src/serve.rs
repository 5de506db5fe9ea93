//! The worker process: control messages in, tokens out.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};

use hindsight_protocol::arena::Arena;
use hindsight_protocol::control::codec;
use hindsight_protocol::control::messages::{Failure, FromWorker, Generate, Score, ToWorker};
use hindsight_protocol::device::Device;
use hindsight_protocol::geometry::Geometry;
use hindsight_protocol::profile::Recorder;
use hindsight_protocol::records::AttentionPolicy;
use hindsight_protocol::telemetry::TelemetryPage;

use crate::attention::arena::{ArenaAttention, Plan};
use crate::device::{Backend, Demand, DeviceError};
use crate::engine::{Engine, EngineError, Event};
use crate::model::{ModelConfig, Transformer};
use crate::sampling::SamplingParameters;
use crate::threads::{Lender, Pools, Threads};

type Message = ToWorker<SamplingParameters>;

/// Something to do.
enum Task {
    Generate(Generate<SamplingParameters>),
    Score(Score),
}

/// Everything that the launcher says at the start.
struct Start {
    model: std::path::PathBuf,
    device: Device,
    cache_blocks: u32,
    threads: Threads,
    dense_layers: u32,
    dense_layer_tokens: u64,
    dense_tokens: u64,
    rehearses: bool,
    prompt_queries: u32,
    telemetry: String,
    profile: Option<std::path::PathBuf>,
}

/// Runs the worker until the launcher ends it or goes away.
///
/// `control` is the connection to the launcher, `arena` the shared memory file.
///
/// # Errors
/// The failure that ends the process; the launcher has been told.
pub fn run(mut control: UnixStream, arena: OwnedFd) -> Result<(), Failure> {
    let outcome = serve(&mut control, arena);
    if let Err(failure) = &outcome {
        // If the launcher cannot be told, it has gone, and nobody is left to tell.
        let _ = codec::write(&mut control, &FromWorker::Failed(failure.clone()));
    }
    outcome
}

fn serve(control: &mut UnixStream, arena: OwnedFd) -> Result<(), Failure> {
    let Some(message) = codec::read::<Message>(control).map_err(Failure::internal)? else {
        return Ok(());
    };
    let ToWorker::Start {
        model,
        device,
        cache_blocks,
        prefill_threads,
        decode_cores,
        lent_core,
        dense_layers,
        dense_layer_tokens,
        dense_tokens,
        rehearses,
        prompt_queries,
        telemetry,
        profile,
    } = message
    else {
        return Err(Failure::internal("the first message is not a start"));
    };
    let threads = Threads { prefill: prefill_threads, decode_cores, lent_core };
    let start = Start {
        model,
        device,
        cache_blocks,
        threads,
        dense_layers,
        dense_layer_tokens,
        dense_tokens,
        rehearses,
        prompt_queries,
        telemetry,
        profile,
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    let reader = control.try_clone().map_err(Failure::internal)?;
    let requests = listen(reader, start.telemetry.clone(), Arc::clone(&cancelled));
    work(control, arena, &start, &requests, &cancelled)
}

/// Reads messages on a thread of its own, so that a generation can be cancelled. Ends the process if the launcher goes
/// away, whatever the worker is doing.
fn listen(mut reader: UnixStream, telemetry: String, cancelled: Arc<AtomicBool>) -> Receiver<Task> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let task = match codec::read::<Message>(&mut reader) {
                Ok(Some(ToWorker::Generate(request))) => Task::Generate(request),
                Ok(Some(ToWorker::Score(request))) => Task::Score(request),
                Ok(Some(ToWorker::Cancel)) => {
                    cancelled.store(true, Ordering::Relaxed);
                    continue;
                }
                Ok(Some(ToWorker::Shutdown)) => return,
                Ok(Some(ToWorker::Start { .. })) => {
                    tracing::warn!("a second start is ignored");
                    continue;
                }
                Ok(None) | Err(_) => {
                    TelemetryPage::remove(&telemetry);
                    std::process::exit(0);
                }
            };
            if sender.send(task).is_err() {
                return;
            }
        }
    });
    receiver
}

fn work(
    control: &mut UnixStream,
    arena: OwnedFd,
    start: &Start,
    requests: &Receiver<Task>,
    cancelled: &AtomicBool,
) -> Result<(), Failure> {
    let arena = Arc::new(Arena::attach(arena).map_err(Failure::internal)?);
    let telemetry = TelemetryPage::open(&start.telemetry).map_err(Failure::internal)?;
    let lender = Arc::clone(&arena) as Arc<dyn Lender>;
    let pools = Pools::new(&start.threads, Some(lender)).map_err(Failure::internal)?;
    let backend = Backend::open(start.device).map_err(device_failure)?;
    let demand = Demand {
        dense_layers: start.dense_layers as usize,
        cache_blocks: start.cache_blocks,
        weights: file_bytes(&start.model),
    };
    backend.check(arena.layout(), demand).map_err(device_failure)?;
    let model = load(&start.model, arena.geometry(), backend.model())?;
    let counters = &telemetry.worker;
    let recorder = Recorder::new(start.profile.as_deref())
        .map_err(|error| Failure::new("profile_unwritable", error))?;
    let device = backend.attention(&arena, counters, &pools, demand).map_err(device_failure)?;
    let attention = ArenaAttention::new(&arena, device, counters, recorder);
    let plan = Plan {
        policy: AttentionPolicy::Full,
        top_k: 0,
        dense_layers: start.dense_layers as usize,
        prompt_queries: start.prompt_queries as usize,
        dense_layer_tokens: usize::try_from(start.dense_layer_tokens).unwrap_or(usize::MAX),
        dense_tokens: usize::try_from(start.dense_tokens).unwrap_or(usize::MAX),
        rehearses: start.rehearses,
    };
    let mut engine =
        Engine::new(&model, attention, &pools, counters, arena.layout().capacity(), plan);
    codec::write(control, &FromWorker::Ready).map_err(Failure::internal)?;
    while let Ok(task) = requests.recv() {
        cancelled.store(false, Ordering::Relaxed);
        let total = match &task {
            Task::Generate(request) => request.prompt.len(),
            Task::Score(request) => request.prompt.len(),
        } as u64;
        let listener = &mut |event| {
            let message = match event {
                Event::Prefilled(done) => FromWorker::Prefilled { done: done as u64, total },
                Event::Token(token) => FromWorker::Token(token),
                Event::Scored { log_probability, likeliest, lead } => {
                    FromWorker::Scored { log_probability, likeliest, lead }
                }
            };
            codec::write(control, &message)
                .map_err(|error| EngineError::Launcher(error.to_string()))
        };
        let outcome = match &task {
            Task::Generate(request) => engine.generate(request, cancelled, listener),
            Task::Score(request) => engine.score(request, cancelled, listener),
        };
        let generated = outcome.map_err(|error| Failure::new(error.kind(), error))?;
        codec::write(control, &FromWorker::Finished(generated)).map_err(Failure::internal)?;
    }
    engine.recorder().finish().map_err(|error| Failure::new("profile_unwritable", error))
}

fn device_failure(error: DeviceError) -> Failure {
    Failure { hint: error.hint().to_owned(), ..Failure::new(error.kind(), error) }
}

/// Bytes of the model's file, of which its weights are nearly all; 0 if it cannot be looked at, which loading it will report.
fn file_bytes(path: &Path) -> usize {
    std::fs::metadata(path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX))
}

/// Loads the model onto `device`. It must have the shape that the arena was made for.
fn load(
    path: &Path,
    geometry: &Geometry,
    device: &candle_core::Device,
) -> Result<Transformer, Failure> {
    let model = Transformer::load(path, device).map_err(|error| {
        let hint = error.hint().unwrap_or_default().into_owned();
        Failure { hint, ..Failure::new(error.kind(), error) }
    })?;
    let ModelConfig { layers, heads, kv_heads, head_dim, .. } = *model.config();
    let found = [layers, heads, kv_heads, head_dim];
    let Geometry { layers, heads, kv_heads, head_dim, .. } = *geometry;
    let expected = [layers, heads, kv_heads, head_dim].map(|number| number as usize);
    if found == expected {
        Ok(model)
    } else {
        let message = format!(
            "{} has changed since the launcher read it: layers, heads, KV heads and head size are {found:?}, not \
             {expected:?}",
            path.display(),
        );
        Err(Failure::new("model_changed", message))
    }
}
