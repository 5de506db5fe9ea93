//! Attention over the arena: keys and values go in, the blocks that the policy names are attended on the device.

use std::time::{Duration, Instant};

use candle_core::Tensor;
use hindsight_protocol::arena::{Arena, TableError};
use hindsight_protocol::geometry::KvDtype;
use hindsight_protocol::profile::{Activity, Detail, Recorder};
use hindsight_protocol::records::{AttentionPolicy, Request, SelectedBlock};
use hindsight_protocol::telemetry::WorkerCounters;

use super::rehearsals::Rehearsals;
use super::{Attention, AttentionResult, Rehearsal};
use crate::device::{AttentionDevice, Chunk, DeviceError, Selections};
use crate::link::{IndexerLink, LinkError, Place};

/// The sequence that the worker uses: it serves one text at a time.
const SEQUENCE: u32 = 0;

/// What stops attention over the arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaAttentionError {
    /// The indexer refused or failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The block tables make no sense.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What a forward pass is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Reading a prompt of so many tokens.
    Prefill { prompt_tokens: usize },
    /// Decoding.
    Decode,
}

/// What a text attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Which keys.
    pub policy: AttentionPolicy,
    /// Keys that each KV head selects, besides sink and window.
    pub top_k: u32,
    /// Layers, from the first, that attend to every key whatever the policy, in contexts of up to `dense_layer_tokens`.
    pub dense_layers: usize,
    /// Tokens of a context up to which these layers attend to every key.
    pub dense_layer_tokens: usize,
    /// How many of the last prompt queries the indexer is shown.
    pub prompt_queries: usize,
    /// Contexts of up to so many tokens attend to every key, and the indexer is only told of them.
    pub dense_tokens: usize,
    /// Whether the indexer is told, with LFPS, which queries to expect.
    pub rehearses: bool,
}

/// Decoded tokens that the indexer may not know of yet: telling it of each would wake it at every layer.
const MOST_UNTOLD: usize = 64;

/// Attention of one sequence whose keys and values live in the arena.
#[derive(Debug)]
pub struct ArenaAttention<'a> {
    arena: &'a Arena,
    link: IndexerLink<'a>,
    device: Box<dyn AttentionDevice + 'a>,
    counters: &'a WorkerCounters,
    slabs: Vec<u32>,
    plan: Plan,
    phase: Phase,
    /// Tokens that the indexer has been told of, per layer.
    told: Vec<usize>,
    rehearsals: Rehearsals,
    pub(crate) recorder: Recorder,
    /// Queries on their way to the indexer.
    queries: Vec<f32>,
}

impl<'a> ArenaAttention<'a> {
    /// Prepares attention over `arena` on `device`; what it does when goes to `recorder`.
    #[must_use]
    pub fn new(
        arena: &'a Arena,
        device: Box<dyn AttentionDevice + 'a>,
        counters: &'a WorkerCounters,
        recorder: Recorder,
    ) -> Self {
        let plan = Plan {
            policy: AttentionPolicy::Full,
            top_k: 0,
            dense_layers: 0,
            dense_layer_tokens: 0,
            prompt_queries: 0,
            dense_tokens: 0,
            rehearses: false,
        };
        Self {
            arena,
            link: IndexerLink::new(arena),
            device,
            counters,
            slabs: Vec::new(),
            plan,
            phase: Phase::Decode,
            told: vec![0; arena.geometry().layers as usize],
            rehearsals: Rehearsals::new(arena.geometry().layers as usize),
            recorder,
            queries: Vec::new(),
        }
    }

    /// Bytes of one token's keys and values in all layers.
    #[must_use]
    pub fn token_bytes(&self) -> usize {
        self.arena.geometry().token_bytes()
    }

    /// Starts a text with room for `tokens` tokens, `prompt_tokens` of which are its prompt. Its first `kept` tokens are
    /// those of the text before: their keys and values are there. The others must be given again.
    ///
    /// # Errors
    /// [`ArenaAttentionError::Link`] if the arena has no room.
    pub fn open(
        &mut self,
        plan: Plan,
        kept: usize,
        prompt_tokens: usize,
        tokens: usize,
    ) -> Result<(), ArenaAttentionError> {
        let Plan { policy, top_k, .. } = plan;
        let sequence = SEQUENCE;
        if kept > 0 {
            let tokens = kept as u64;
            self.arena.tables().publish(sequence, tokens)?;
            self.link.ask(&Request::Rewind { sequence, policy, top_k, tokens })?;
        } else {
            if !self.slabs.is_empty() {
                self.slabs.clear();
                self.device.close()?;
                self.link.ask(&Request::Close { sequence })?;
            }
            self.link.ask(&Request::Open { sequence, policy, top_k })?;
        }
        self.link.ask(&Request::Reserve { sequence: SEQUENCE, tokens: tokens as u64 })?;
        self.arena.tables().read_slabs(SEQUENCE, &mut self.slabs)?;
        self.device.open(&self.slabs, kept)?;
        self.device.record_timeline(&mut self.recorder)?;
        self.plan = plan;
        self.told.fill(kept);
        self.rehearsals.reset();
        self.phase = Phase::Prefill { prompt_tokens };
        Ok(())
    }

    /// States that `tokens` tokens of the text are complete in every layer, and that decoding goes on from here.
    ///
    /// # Errors
    /// [`ArenaAttentionError`].
    pub fn publish(&mut self, tokens: usize) -> Result<(), ArenaAttentionError> {
        let ended_prompt =
            matches!(self.phase, Phase::Prefill { prompt_tokens } if tokens >= prompt_tokens);
        if ended_prompt {
            self.phase = Phase::Decode;
        }
        self.device.settle()?;
        self.count_overflows(None);
        self.device.record_timeline(&mut self.recorder)?;
        self.tell_appended(tokens)?;
        self.arena.tables().publish(SEQUENCE, tokens as u64)?;
        if ended_prompt && self.plan.policy != AttentionPolicy::Full {
            self.wait_until_told(tokens)?;
        }
        Ok(())
    }

    /// Waits until the indexer knows all that it has been told: requests are dealt with in their order.
    fn wait_until_told(&mut self, tokens: usize) -> Result<(), LinkError> {
        self.link.ask(&Request::Reserve { sequence: SEQUENCE, tokens: tokens as u64 })
    }

    /// Repeats the keys and values of the first `tokens` tokens until there are `stretched_to`, as if so many had been read.
    /// Repeated keys keep the positions that they had.
    ///
    /// # Errors
    /// [`ArenaAttentionError`].
    pub fn stretch(
        &mut self,
        tokens: usize,
        stretched_to: usize,
    ) -> Result<(), ArenaAttentionError> {
        self.device.stretch(tokens, stretched_to)?;
        self.publish(stretched_to)?;
        Ok(self.wait_until_told(stretched_to)?)
    }

    /// Tells the indexer of all `tokens` tokens of the text, in the layers where it will be asked at the next step, or where there
    /// is much to tell.
    fn tell_appended(&mut self, tokens: usize) -> Result<(), LinkError> {
        for layer in 0..self.told.len() {
            let untold = tokens - self.told[layer];
            let is_due = untold >= MOST_UNTOLD || !self.is_short(layer, tokens);
            if untold > 0 && is_due && self.selects(layer) {
                self.tell_layer(layer, tokens)?;
            }
        }
        Ok(())
    }

    /// Tells the indexer of the tokens of `layer` up to `end` that it does not know of.
    fn tell_layer(&mut self, layer: usize, end: usize) -> Result<(), LinkError> {
        let told = std::mem::replace(&mut self.told[layer], end);
        self.link.tell(&Request::Appended {
            sequence: SEQUENCE,
            layer: index(layer),
            position: told as u64,
            tokens: (end - told) as u64,
        })
    }

    /// Whether the token at the position `start` attends to every key of `layer`, for there are few.
    const fn is_short(&self, layer: usize, start: usize) -> bool {
        start < self.plan.dense_tokens || self.is_dense(layer, start + 1)
    }

    /// Whether `layer` is one of those that attend to every key of a context of `tokens` tokens.
    const fn is_dense(&self, layer: usize, tokens: usize) -> bool {
        layer < self.plan.dense_layers && tokens <= self.plan.dense_layer_tokens
    }

    /// Whether the indexer may be asked for the blocks of `layer` before the arena is full.
    fn selects(&self, layer: usize) -> bool {
        self.plan.policy != AttentionPolicy::Full
            && !self.is_dense(layer, self.arena.layout().capacity())
    }

    /// Whether the indexer is asked for the blocks that the token at the position `start` attends to in `layer`.
    fn asks(&self, layer: usize, start: usize) -> bool {
        self.phase == Phase::Decode && self.selects(layer) && !self.is_short(layer, start)
    }

    fn append(&mut self, chunk: Chunk, k: &Tensor, v: &Tensor) -> Result<(), DeviceError> {
        let since = self.recorder.now();
        self.device.append(chunk, k, v)?;
        let bytes = (2 * k.elem_count() * KvDtype::BYTES) as u64;
        self.counters.appended_bytes.add(bytes);
        self.count_overflows(Some(chunk.layer));
        if self.phase == Phase::Decode {
            let appended = Detail { bytes, ..chunk.detail() };
            self.recorder.record(Activity::Append, since, appended);
        }
        Ok(())
    }

    /// Counts the keys and values out of range that the device has found, and warns of the first, which were found in `layer`.
    fn count_overflows(&mut self, layer: Option<usize>) {
        let overflows = self.device.take_overflows();
        if overflows > 0 && self.counters.overflows.get() == 0 {
            tracing::warn!(
                layer,
                dtype = %self.arena.geometry().dtype,
                "keys or values exceed the KV cache's element type; run with --kv-dtype bf16"
            );
        }
        self.counters.overflows.add(overflows);
    }

    /// Tells the indexer about prompt tokens: their keys, and the last of their queries.
    fn teach(
        &mut self,
        chunk: Chunk,
        prompt_tokens: usize,
        q: &Tensor,
    ) -> Result<(), ArenaAttentionError> {
        let Chunk { start, tokens, .. } = chunk;
        let end = start + tokens;
        let first_seed = prompt_tokens.saturating_sub(self.plan.prompt_queries).clamp(start, end);
        self.queries.clear();
        if first_seed < end {
            self.device.read_queries(q, first_seed - start..tokens, &mut self.queries)?;
        } else {
            // Attention may go on meanwhile.
            self.device.settle()?;
        }
        self.tell_layer(chunk.layer, end)?;
        let (sequence, layer) = (SEQUENCE, index(chunk.layer));
        let geometry = self.arena.geometry();
        let width = (geometry.heads * geometry.head_dim) as usize;
        for (position, query) in (first_seed..end).zip(self.queries.chunks_exact(width)) {
            self.link.tell(&Request::Seed {
                sequence,
                layer,
                remaining: index(prompt_tokens - 1 - position),
                position: position as u64,
                query,
            })?;
        }
        Ok(())
    }

    /// Attends one token's queries.
    fn decode(&mut self, chunk: Chunk, q: &Tensor) -> Result<Tensor, ArenaAttentionError> {
        let began = Instant::now();
        let selects = self.selects(chunk.layer);
        let (out, waited) = if self.asks(chunk.layer, chunk.start) {
            self.attend_selected(chunk, q)?
        } else {
            let since = self.recorder.now();
            let out = self.device.attend_all(chunk, q)?;
            self.recorder.record(Activity::Attend, since, chunk.detail());
            let is_last = chunk.layer + 1 == self.arena.geometry().layers as usize;
            if selects && is_last {
                self.counters.dense_steps.add(1);
            }
            (out, Duration::ZERO)
        };
        self.counters.waiting_ns.add(nanoseconds(waited));
        self.counters.attention_ns.add(nanoseconds(began.elapsed().saturating_sub(waited)));
        Ok(out)
    }

    /// Whether a token's queries are sent before its own key is there: an exact scan wants that, too.
    fn asks_early(&self) -> bool {
        self.plan.policy == AttentionPolicy::Lfps && self.device.reads_queries_early()
    }

    /// Asks the indexer by one token's queries.
    fn send_queries(&mut self, chunk: Chunk, q: &Tensor) -> Result<(), ArenaAttentionError> {
        let since = self.recorder.now();
        self.device.read_queries(q, 0..1, &mut self.queries)?;
        let query = self.queries.as_slice();
        let (sequence, layer, position) = (SEQUENCE, index(chunk.layer), chunk.start as u64);
        self.link.tell(&Request::Query { sequence, layer, position, query })?;
        let bytes = size_of_val(query) as u64;
        self.recorder.record(Activity::Query, since, Detail { bytes, ..chunk.detail() });
        Ok(())
    }

    /// Attends one token's queries to the blocks that the indexer selects; says how long it was waited for.
    fn attend_selected(
        &mut self,
        chunk: Chunk,
        q: &Tensor,
    ) -> Result<(Tensor, Duration), ArenaAttentionError> {
        if !self.asks_early() {
            self.send_queries(chunk, q)?;
        }
        self.tell_layer(chunk.layer, chunk.start + 1)?;
        let Self { link, recorder, device, .. } = self;
        let mut answers = Answers { chunk, link, recorder, misled: 0, waited: Duration::ZERO };
        let out = device.attend_selected(chunk, q, &mut answers)?;
        let Answers { misled, waited, .. } = answers;
        let kv_heads = self.arena.geometry().kv_heads as usize;
        self.rehearsals.judge(chunk.layer, misled as f32 / kv_heads as f32);
        Ok((out, waited))
    }
}

/// The indexer's answers to one question.
struct Answers<'s, 'a> {
    chunk: Chunk,
    link: &'s mut IndexerLink<'a>,
    recorder: &'s mut Recorder,
    /// KV heads for which queries that were told ahead of time have misled.
    misled: usize,
    waited: Duration,
}

impl Selections for Answers<'_, '_> {
    fn next(&mut self, head: usize, blocks: &mut Vec<SelectedBlock>) -> Result<(), LinkError> {
        let (began, since) = (Instant::now(), self.recorder.now());
        let place = Place {
            sequence: SEQUENCE,
            layer: index(self.chunk.layer),
            kv_head: index(head),
            position: self.chunk.start as u64,
        };
        self.misled += usize::from(self.link.selection(place, blocks)?);
        self.waited += began.elapsed();
        let of_head = Detail { kv_head: Some(index(head)), ..self.chunk.detail() };
        self.recorder.record(Activity::Wait, since, of_head);
        Ok(())
    }

    fn recorder(&mut self) -> &mut Recorder {
        self.recorder
    }
}

impl Attention for ArenaAttention<'_> {
    fn forward(
        &mut self,
        layer: usize,
        start: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> AttentionResult {
        let chunk = Chunk { layer, start, tokens: q.dim(0)? };
        self.append(chunk, k, v).map_err(ArenaAttentionError::from)?;
        match self.phase {
            Phase::Prefill { prompt_tokens } => {
                let out = self.device.prefill(chunk, q).map_err(ArenaAttentionError::from)?;
                if self.selects(layer) {
                    self.teach(chunk, prompt_tokens, q)?;
                }
                Ok(out)
            }
            Phase::Decode => Ok(self.decode(chunk, q)?),
        }
    }

    fn rehearses(&self, layer: usize, start: usize) -> Option<Rehearsal> {
        let wanted = self.plan.rehearses && self.plan.policy == AttentionPolicy::Lfps;
        if wanted && self.asks(layer, start) { self.rehearsals.of(layer) } else { None }
    }

    fn announce(&mut self, layer: usize, start: usize, q: &Tensor) -> AttentionResult<()> {
        if self.asks(layer, start) && self.asks_early() {
            self.send_queries(Chunk { layer, start, tokens: 1 }, q)?;
        }
        Ok(())
    }

    fn rehearse(&mut self, layer: usize, start: usize, q: &Tensor) -> AttentionResult<()> {
        self.device.read_queries(q, 0..1, &mut self.queries)?;
        let (sequence, layer, position) = (SEQUENCE, index(layer), start as u64);
        let query = self.queries.as_slice();
        Ok(self.link.tell(&Request::Rehearse { sequence, layer, position, query })?)
    }
}

/// A layer or token count as it travels; arenas hold fewer than 2³² of either.
fn index(number: usize) -> u32 {
    u32::try_from(number).expect("arenas hold fewer than 2^32 tokens and layers")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
