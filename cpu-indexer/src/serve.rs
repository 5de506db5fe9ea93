//! The indexer process: requests from the worker's ring in, selections out.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hindsight_protocol::arena::Arena;
use hindsight_protocol::control::codec;
use hindsight_protocol::control::messages::{Failure, FromIndexer, ToIndexer};
use hindsight_protocol::geometry::KvDtype;
use hindsight_protocol::profile::{Activity, Detail, Moment, Recorder};
use hindsight_protocol::records::{AttentionPolicy, Reply, Request, SelectedBlock};
use hindsight_protocol::ring::{Patience, Receiver, RingFault, Sender};
use hindsight_protocol::scheduling::{self, Priority};
use hindsight_protocol::telemetry::{IndexerCounters, TelemetryPage};

use crate::ahead::{Ahead, Asked};
use crate::audit::AuditTurn;
use crate::kernels::Kernels;
use crate::parameters::{IndexParameters, Timing};
use crate::placement;
use crate::residency::Placed;
use crate::selection::{Masks, Selection};
use crate::store::{LayerState, Store, StoreError};

type Message = ToIndexer<IndexParameters>;

/// How long the worker may leave an answer lying in the ring. A dead worker is noticed by the launcher much earlier.
const SILENCE: Duration = Duration::from_secs(120);

/// An indexer that shares its core sleeps whenever it has nothing to do: the thread that borrows the core wakes it.
const SHARING: Patience = Patience { spins: 0, sleep: Duration::from_millis(100) };

/// Runs the indexer until the launcher ends it or goes away.
///
/// `control` is the connection to the launcher, `arena` the shared memory file.
///
/// # Errors
/// The failure that ends the process; the launcher has been told.
pub fn run(mut control: UnixStream, arena: OwnedFd) -> Result<(), Failure> {
    let outcome = start(&mut control, arena);
    if let Err(failure) = &outcome {
        // If the launcher cannot be told, it has gone, and nobody is left to tell.
        let _ = codec::write(&mut control, &FromIndexer::Failed(failure.clone()));
    }
    outcome
}

fn start(control: &mut UnixStream, arena: OwnedFd) -> Result<(), Failure> {
    let Some(message) = codec::read::<Message>(control).map_err(Failure::internal)? else {
        return Ok(());
    };
    let ToIndexer::Start {
        core,
        shares_core,
        priority,
        epoch,
        cache_blocks,
        pages,
        parameters,
        telemetry,
        profile,
    } = message
    else {
        return Err(Failure::internal("the first message is not a start"));
    };
    // Before anything large is allocated: memory comes from the node of the core that touches it first.
    placement::pin(core).map_err(|error| Failure::new("no_such_core", error))?;
    take_priority(priority)?;
    let ended = listen(control.try_clone().map_err(Failure::internal)?, telemetry.clone());
    parameters.validate().map_err(|error| Failure::new("index_parameters", error))?;
    let mut arena = Arena::attach(arena).map_err(Failure::internal)?;
    arena.take_in(pages);
    let telemetry = TelemetryPage::open(&telemetry).map_err(Failure::internal)?;
    let ready = FromIndexer::Ready {
        cores: placement::allowed_cores(),
        kernels: Kernels::detect().isa().name().to_owned(),
    };
    let store = Store::new(&arena, epoch, parameters, cache_blocks as usize)
        .map_err(|error| Failure::new("block_cache", error))?;
    let mut indexer = Indexer {
        store,
        replies: arena.selection_ring().producer(),
        counters: &telemetry.indexer,
        arena: &arena,
        scratch: Scratch::default(),
        ahead: Ahead::default(),
        answered: Answered::default(),
        audit: AuditTurn::default(),
        shares_core,
        recorder: Recorder::new(profile.as_deref())
            .map_err(|error| Failure::new("profile_unwritable", error))?,
    };
    codec::write(control, &ready).map_err(Failure::internal)?;
    indexer.serve(&mut arena.query_ring().consumer(), &ended)?;
    indexer.recorder.finish().map_err(|error| Failure::new("profile_unwritable", error))
}

/// Has the calling thread, which serves, scheduled as it was asked for.
fn take_priority(priority: Priority) -> Result<(), Failure> {
    match priority {
        Priority::Normal => {
            if let Err(error) = scheduling::take_short_turns() {
                tracing::warn!(%error, "the system keeps the length of the indexer's turns");
            }
            Ok(())
        }
        Priority::High => scheduling::run_first().map_err(|error| {
            let message = format!("--indexer-priority high: the system refuses it: {error}");
            Failure {
                hint: "allow real-time priorities: ulimit -r 1 (/etc/security/limits.d: rtprio), or CAP_SYS_NICE \
                       (docker run --cap-add SYS_NICE)"
                    .to_owned(),
                ..Failure::new(Failure::PRIORITY_REFUSED, message)
            }
        }),
    }
}

/// Reads messages on a thread of its own, and ends the process if the launcher goes away, whatever the indexer is doing.
fn listen(mut reader: UnixStream, telemetry: String) -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    std::thread::spawn(move || {
        loop {
            match codec::read::<Message>(&mut reader) {
                Ok(Some(ToIndexer::Shutdown)) => {
                    flag.store(true, Ordering::Relaxed);
                    return;
                }
                Ok(Some(ToIndexer::Start { .. })) => tracing::warn!("a second start is ignored"),
                Ok(None) | Err(_) => {
                    TelemetryPage::remove(&telemetry);
                    std::process::exit(0);
                }
            }
        }
    });
    ended
}

/// What a request may need besides the store; kept so that a step allocates nothing.
#[derive(Debug, Default)]
struct Scratch {
    blocks: Vec<SelectedBlock>,
    /// One selection per KV head.
    selections: Vec<Selection>,
    /// Seeds of the layer at hand, per KV head: [queries, group, head_dim].
    seeds: Vec<Vec<f32>>,
    seed_queries: u64,
}

/// The last query that was answered: [heads, head_dim].
#[derive(Debug, Default)]
struct Answered {
    asked: Option<Asked>,
    query: Vec<f32>,
}

/// The serving loop's state.
struct Indexer<'a> {
    store: Store<'a>,
    replies: Sender<'a>,
    counters: &'a IndexerCounters,
    arena: &'a Arena,
    scratch: Scratch,
    ahead: Ahead,
    answered: Answered,
    audit: AuditTurn,
    shares_core: bool,
    recorder: Recorder,
}

impl Indexer<'_> {
    fn serve(&mut self, requests: &mut Receiver<'_>, ended: &AtomicBool) -> Result<(), Failure> {
        let geometry = *self.arena.geometry();
        let elements = (geometry.heads * geometry.head_dim) as usize;
        let patience = if self.shares_core { SHARING } else { Patience::default() };
        while !ended.load(Ordering::Relaxed) {
            if let Some((asked, head)) = self.ahead.next()
                && !requests.has_record()
            {
                let began = Instant::now();
                self.propose(asked, head)?;
                self.counters.select_ns.add(nanoseconds(began));
                continue;
            }
            let record = requests.receive(patience).map_err(ring_broken)?;
            let Some(record) = record else { continue };
            let request = Request::decode(record, elements)
                .map_err(|error| Failure::new("bad_record", format!("the worker sent {error}")))?;
            self.handle(&request)?;
        }
        Ok(())
    }

    fn handle(&mut self, request: &Request<'_>) -> Result<(), Failure> {
        let outcome = match *request {
            Request::Open { sequence, policy, top_k } => self.store.open(sequence, policy, top_k),
            Request::Rewind { sequence, policy, top_k, tokens } => {
                self.rewind(sequence, policy, top_k, tokens)
            }
            Request::Reserve { sequence, tokens } => self.store.reserve(sequence, tokens),
            Request::Close { sequence } => self.store.close(sequence),
            Request::Appended { sequence, layer, position, tokens: 1 } => {
                return self.store_own(Asked { sequence, layer, position }).map_err(rejected);
            }
            Request::Appended { sequence, layer, position, tokens } => {
                return self.append(sequence, layer, position, tokens).map_err(rejected);
            }
            Request::Seed { sequence, layer, remaining, position, query } => {
                return self.seed(sequence, layer, remaining, position, query).map_err(rejected);
            }
            Request::Rehearse { sequence, layer, position, query } => {
                let asked = Asked { sequence, layer, position };
                return self.expect(asked, query).map_err(rejected);
            }
            Request::Query { sequence, layer, position, query } => {
                return self.select(Asked { sequence, layer, position }, query);
            }
        };
        // Positions may come again, with other tokens.
        self.ahead.forget();
        self.answered.asked = None;
        let slab_bytes =
            self.arena.geometry().token_bytes() * hindsight_protocol::arena::SLAB_TOKENS;
        match outcome {
            Ok(()) => self.reply(&Reply::Done),
            Err(error) => {
                tracing::debug!(%error, "refused");
                self.reply(&Reply::Refused(error.refusal(slab_bytes as u64)))
            }
        }
    }

    /// Begins to learn anew from the tokens that stay.
    fn rewind(
        &mut self,
        sequence: u32,
        policy: AttentionPolicy,
        top_k: u32,
        tokens: u64,
    ) -> Result<(), StoreError> {
        self.store.forget(sequence, policy, top_k)?;
        if policy != AttentionPolicy::Full && tokens > 0 {
            for layer in 0..self.arena.geometry().layers {
                self.append(sequence, layer, 0, tokens)?;
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        sequence: u32,
        layer: u32,
        position: u64,
        tokens: u64,
    ) -> Result<(), StoreError> {
        let end = position.saturating_add(tokens);
        let mut state = self.store.layer(sequence, layer, end)?;
        let start = state.tokens.saturating_sub(usize::try_from(tokens).unwrap_or(usize::MAX));
        let since = self.recorder.now();
        append(&mut state, start);
        let detail = Detail { position, layer: Some(layer), ..Detail::default() };
        self.recorder.record(Activity::Learn, since, detail);
        Ok(())
    }

    /// Collects the seeds of a layer, and learns from them when the last has come.
    fn seed(
        &mut self,
        sequence: u32,
        layer: u32,
        remaining: u32,
        position: u64,
        query: &[f32],
    ) -> Result<(), StoreError> {
        let state = self.store.layer(sequence, layer, position.saturating_add(1))?;
        let Scratch { seeds, seed_queries, .. } = &mut self.scratch;
        let kv_heads = state.residency.len();
        seeds.resize_with(kv_heads, Vec::new);
        for (seeds, query) in seeds.iter_mut().zip(query.chunks_exact(query.len() / kv_heads)) {
            seeds.extend_from_slice(query);
        }
        *seed_queries += 1;
        if remaining == 0 {
            let since = self.recorder.now();
            for (head, seeds) in seeds.iter_mut().enumerate() {
                state.index.seed(state.layer, head, state.view(head), seeds);
                seeds.clear();
            }
            self.counters.seeds.add(std::mem::take(seed_queries));
            let detail = Detail { position, layer: Some(layer), ..Detail::default() };
            self.recorder.record(Activity::Learn, since, detail);
        }
        Ok(())
    }

    /// Takes note of an expected query.
    fn expect(&mut self, asked: Asked, query: &[f32]) -> Result<(), StoreError> {
        let kv_heads = self.before(asked)?.residency.len();
        self.ahead.expect(asked, kv_heads, query);
        Ok(())
    }

    /// A layer as it is before the step of a token, which may come.
    fn before(&mut self, asked: Asked) -> Result<LayerState<'_>, StoreError> {
        let Asked { sequence, layer, position } = asked;
        self.store.layer(sequence, layer, position.saturating_add(1))?;
        self.store.layer(sequence, layer, position)
    }

    /// Lets the expected queries of a KV head propose.
    fn propose(&mut self, asked: Asked, head: usize) -> Result<(), Failure> {
        let since = self.recorder.now();
        let Asked { sequence, layer, position } = asked;
        let state = self.store.layer(sequence, layer, position).map_err(rejected)?;
        let expected = self.ahead.expected(head);
        let useful = state.index.rehearse(state.layer, head, state.view(head), expected);
        self.ahead.proposed(useful);
        let kv_head = Some(count(head as u64));
        let detail = Detail { position, layer: Some(layer), kv_head, ..Detail::default() };
        self.recorder.record(Activity::Prepare, since, detail);
        Ok(())
    }

    /// Answers a query, KV head by KV head.
    fn select(&mut self, asked: Asked, query: &[f32]) -> Result<(), Failure> {
        let began = Instant::now();
        let Asked { sequence, layer, position } = asked;
        let heads = self.before(asked).map_err(rejected)?.residency.len();
        self.scratch.selections.resize_with(heads, Selection::default);
        let in_time = self.ahead.ready(asked);
        for (head, query) in query.chunks_exact(query.len() / heads).enumerate() {
            // What has not been done in time is done now: what is chosen does not depend on who was faster.
            while let Some(late) = self.ahead.next_of(asked, head) {
                self.propose(asked, late)?;
            }
            let since = self.recorder.now();
            let state = self.store.layer(sequence, layer, position + 1).map_err(rejected)?;
            let selection = &mut self.scratch.selections[head];
            state.index.select(state.layer, head, state.view(head), query, selection);
            let misled = selection.effort.misled;
            self.counters.misled.add(u64::from(misled));
            self.counters.rehearsed.add(u64::from(head < in_time && !misled));
            self.answer(asked, head, since)?;
        }
        // The worker has all that it waits for.
        self.ahead.forget();
        let state = self.store.layer(sequence, layer, position + 1).map_err(rejected)?;
        (0..heads).for_each(|head| state.index.learn(head));
        self.counters.select_ns.add(nanoseconds(began));
        self.answered.asked = Some(asked);
        self.answered.query.clear();
        self.answered.query.extend_from_slice(query);
        Ok(())
    }

    /// Takes note of the key and value of a single token: that of the query answered last, in a decode step.
    fn store_own(&mut self, asked: Asked) -> Result<(), StoreError> {
        let Asked { sequence, layer, position } = asked;
        let mut state = self.store.layer(sequence, layer, position.saturating_add(1))?;
        let tokens = state.tokens;
        append(&mut state, tokens - 1);
        if self.answered.asked == Some(asked) { self.look_back(asked) } else { Ok(()) }
    }

    /// Does what can wait until a query has been answered and the key of its token is there: the worker is busy with the answer.
    fn look_back(&mut self, asked: Asked) -> Result<(), StoreError> {
        let Asked { sequence, layer, position } = asked;
        let geometry = *self.arena.geometry();
        let state = self.store.layer(sequence, layer, position + 1)?;
        let query = &self.answered.query;
        let of_head = |head: usize| {
            let length = query.len() / geometry.kv_heads as usize;
            &query[head * length..][..length]
        };
        let detail = Detail { position, layer: Some(layer), ..Detail::default() };
        if state.index.parameters().timing == Timing::Ahead {
            let (began, since) = (Instant::now(), self.recorder.now());
            for head in 0..geometry.kv_heads as usize {
                state.index.prepare(state.layer, head, state.view(head), of_head(head));
            }
            self.recorder.record(Activity::Prepare, since, detail);
            self.counters.select_ns.add(nanoseconds(began));
        }
        if let Some(head) = self.audit.turn(layer, position, &geometry) {
            let since = self.recorder.now();
            let view = state.view(head);
            let bytes = (view.tokens() * view.head_dim() * KvDtype::BYTES) as u64;
            let selection = &self.scratch.selections[head];
            let audit = state.index.audit(state.layer, view, of_head(head), selection);
            self.counters.audits.add(1);
            self.counters.audit_key_bytes.add(bytes);
            self.counters.audit_recall.add(f64::from(audit.recall));
            self.counters.audit_mass.add(f64::from(audit.mass));
            let detail = Detail { kv_head: u32::try_from(head).ok(), bytes, ..detail };
            self.recorder.record(Activity::Audit, since, detail);
        }
        Ok(())
    }

    /// Tells the worker what has been selected for a KV head, since a moment of the profile.
    fn answer(&mut self, asked: Asked, head: usize, since: Moment) -> Result<(), Failure> {
        let Asked { sequence, layer, position } = asked;
        let geometry = *self.arena.geometry();
        let state = self.store.layer(sequence, layer, position + 1).map_err(rejected)?;
        let tokens = state.tokens;
        let (zones, grain) = (state.index.zones(tokens), state.index.parameters().grain);
        let Scratch { blocks, selections, .. } = &mut self.scratch;
        let selection = &selections[head];
        // A block that begins with the newest token is filled by the worker itself, so it never travels.
        let block_tokens = geometry.block_tokens as usize;
        let begun = (tokens % block_tokens == 1).then_some(tokens / block_tokens);
        let (mut hits, mut misses) = (0, 0);
        let mut masks = Masks::new(selection, zones, block_tokens, grain);
        blocks.clear();
        let placed = |Placed { block, slot, miss }| {
            let travels = miss && Some(block as usize) != begun;
            hits += u64::from(!travels);
            misses += u64::from(travels);
            blocks.push(SelectedBlock::new(block, slot, travels, masks.of(block)));
        };
        // A GPU holds the first layers whole: nothing of them would travel, and no cache is asked.
        let evictions = if state.layer < state.index.parameters().dense_layers {
            let resident = |&block| SelectedBlock::new(block, block, false, masks.of(block));
            blocks.extend(selection.blocks.iter().map(resident));
            0
        } else {
            state.residency[head]
                .place(&selection.blocks, placed)
                .map_err(|error| rejected(error.into()))?
        };
        let kv_head = count(head as u64);
        let misled = selection.effort.misled;
        let reply = Reply::Selection { sequence, layer, kv_head, position, misled, blocks };
        send(&mut self.replies, &reply)?;
        let counters = self.counters;
        counters.evictions.add(evictions as u64);
        counters.miss_blocks.add(misses);
        counters.hit_blocks.add(hits);
        let bytes = misses * geometry.block_bytes() as u64;
        counters.shipped_bytes.add(bytes);
        count_effort(counters, selection);
        let detail = Detail {
            position,
            layer: Some(layer),
            kv_head: Some(kv_head),
            bytes,
            hit_blocks: count(hits),
            miss_blocks: count(misses),
            repaired: selection.effort.repaired,
        };
        self.recorder.record(Activity::Select, since, detail);
        Ok(())
    }

    fn reply(&mut self, reply: &Reply<'_>) -> Result<(), Failure> {
        send(&mut self.replies, reply)
    }
}

/// Nanoseconds since a moment.
fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A number of blocks of one head.
fn count(blocks: u64) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

fn send(replies: &mut Sender<'_>, reply: &Reply<'_>) -> Result<(), Failure> {
    let since = Instant::now();
    while !reply.encode(|parts| replies.send(parts, Patience::default())).map_err(ring_broken)? {
        if since.elapsed() > SILENCE {
            return Err(Failure::new("worker_silent", "the worker does not take its answers"));
        }
    }
    Ok(())
}

/// Makes the tokens from `start` on known to the index.
fn append(state: &mut LayerState<'_>, start: usize) {
    for head in 0..state.residency.len() {
        let view = state.view(head);
        state.index.append(state.layer, head, view, start..state.tokens);
    }
}

fn count_effort(counters: &IndexerCounters, selection: &Selection) {
    let effort = &selection.effort;
    counters.selections.add(1);
    counters.candidates.add(effort.candidates as u64);
    counters.key_bytes.add(effort.key_bytes as u64);
    counters.sketch_bytes.add((effort.sketch_bytes + effort.history_bytes) as u64);
    counters.repairs.add(u64::from(effort.repaired));
}

fn ring_broken(fault: RingFault) -> Failure {
    Failure::new("ring_broken", format!("the worker broke the ring: {fault}"))
}

fn rejected(error: StoreError) -> Failure {
    Failure::new(
        "bad_request",
        format!("the worker asked for something that is not there: {error}"),
    )
}
