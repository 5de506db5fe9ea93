//! A random text on a device, compared as it grows.

use candle_core::Tensor;
use hindsight_protocol::arena::{Arena, TableOwner};
use hindsight_protocol::geometry::Geometry;
use hindsight_protocol::profile::Recorder;
use hindsight_protocol::records::{SelectedBlock, token_mask};
use hindsight_protocol::telemetry::WorkerCounters;
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use super::reference::{Rows, attend, narrow, widen};
use super::{CACHE_BLOCKS, CAPACITY, Case, ConformanceError, Outcome, SELECTED, tensor};
use crate::device::{AttentionDevice, Backend, Chunk, Demand, Selections};
use crate::link::LinkError;
use crate::threads::Pools;

const SEQUENCE: u32 = 0;
/// Layers that are dense.
const DENSE: usize = 1;

/// The text, its device, and what has been compared so far.
pub(super) struct Text<'a> {
    backend: &'a Backend,
    arena: &'a Arena,
    device: Box<dyn AttentionDevice + 'a>,
    slabs: Vec<u32>,
    random: Pcg64Mcg,
    /// `[layers, kv_heads]`.
    rows: Vec<Rows>,
    mirrors: Vec<Mirror>,
    tokens: usize,
    results: usize,
    worst_error: f64,
}

impl<'a> Text<'a> {
    pub(super) fn new(
        backend: &'a Backend,
        arena: &'a Arena,
        counters: &'a WorkerCounters,
        pools: &'a Pools,
    ) -> Result<Self, ConformanceError> {
        let owner = TableOwner::new(arena.tables(), 1);
        owner.open(SEQUENCE)?;
        owner.reserve(SEQUENCE, CAPACITY as u64, |slab| {
            arena.populate_slab(slab).map_err(ConformanceError::from)
        })?;
        let mut slabs = Vec::new();
        arena.tables().read_slabs(SEQUENCE, &mut slabs)?;
        let demand = Demand { dense_layers: DENSE, cache_blocks: CACHE_BLOCKS, weights: 0 };
        let mut device = backend.attention(arena, counters, pools, demand)?;
        device.open(&slabs, 0)?;
        let Geometry { layers, kv_heads, .. } = *arena.geometry();
        let heads = (layers * kv_heads) as usize;
        Ok(Self {
            backend,
            arena,
            device,
            slabs,
            random: Pcg64Mcg::new(0x5eed_0f7e_27d0_0d1e),
            rows: vec![Rows::default(); heads],
            mirrors: vec![Mirror::default(); heads],
            tokens: 0,
            results: 0,
            worst_error: 0.0,
        })
    }

    /// Reads a chunk of a prompt.
    pub(super) fn read(&mut self, tokens: usize) -> Result<(), ConformanceError> {
        for layer in 0..self.arena.geometry().layers as usize {
            let chunk = Chunk { layer, start: self.tokens, tokens };
            let queries = self.append(chunk)?;
            let of_queries = self.queries_tensor(&queries, tokens)?;
            let out = self.device.prefill(chunk, &of_queries)?;
            // Rows in the midst are like their neighbours.
            for row in (0..tokens).filter(|row| row % 13 == 0 || row + 2 > tokens) {
                let end = self.tokens + row + 1;
                self.compare(layer, &queries, &out, row, |_| (0..end).collect())?;
            }
        }
        self.tokens += tokens;
        Ok(())
    }

    /// Decodes a token; in the layers that select, too, it attends to the whole text if `to_all`.
    pub(super) fn step(&mut self, to_all: bool) -> Result<(), ConformanceError> {
        for layer in 0..self.arena.geometry().layers as usize {
            let chunk = Chunk { layer, start: self.tokens, tokens: 1 };
            let queries = self.append(chunk)?;
            let of_queries = self.queries_tensor(&queries, 1)?;
            let end = self.tokens + 1;
            if layer < DENSE || to_all {
                let out = self.device.attend_all(chunk, &of_queries)?;
                self.compare(layer, &queries, &out, 0, |_| (0..end).collect())?;
                continue;
            }
            let mut read = Vec::new();
            self.device.read_queries(&of_queries, 0..1, &mut read)?;
            if read != queries {
                self.worst_error = f64::INFINITY;
            }
            let mut selections = self.select(layer);
            let out = self.device.attend_selected(chunk, &of_queries, &mut selections)?;
            let block_tokens = self.arena.geometry().block_tokens as usize;
            self.compare(layer, &queries, &out, 0, |head| {
                let blocks = selections.heads[head].iter().map(|block| block.block as usize);
                blocks
                    .flat_map(|block| block * block_tokens..((block + 1) * block_tokens).min(end))
                    .collect()
            })?;
        }
        self.tokens += 1;
        Ok(())
    }

    /// Goes back to the first `tokens` tokens.
    pub(super) fn rewind(&mut self, tokens: usize) -> Result<(), ConformanceError> {
        let dim = self.arena.geometry().head_dim as usize;
        for rows in &mut self.rows {
            rows.keys.truncate(tokens * dim);
            rows.values.truncate(tokens * dim);
        }
        self.mirrors.fill(Mirror::default());
        self.tokens = tokens;
        Ok(self.device.open(&self.slabs, tokens)?)
    }

    /// Looks at what is in the arena, and says how it went.
    pub(super) fn finish(
        mut self,
        case: Case,
        counters: &WorkerCounters,
    ) -> Result<Outcome, ConformanceError> {
        self.device.settle()?;
        let Geometry { kv_heads, dtype, .. } = *self.arena.geometry();
        let mut wrong_stored = 0;
        for (index, rows) in self.rows.iter().enumerate() {
            let (layer, head) = (index / kv_heads as usize, index % kv_heads as usize);
            let stored = self.arena.head(&self.slabs, layer, head, self.tokens);
            for block in 0..stored.blocks() {
                let dim = case.head_dim as usize;
                let first = block * case.block_tokens as usize * dim;
                for (bits, given) in [
                    (stored.keys(block), &rows.keys[first..]),
                    (stored.values(block), &rows.values[first..]),
                ] {
                    let differ = |(&bits, &given): (&u16, &f32)| {
                        widen(dtype, bits).to_bits() != given.to_bits()
                    };
                    wrong_stored += bits.iter().zip(given).filter(|&pair| differ(pair)).count();
                }
            }
        }
        let overflows_counted = self.overflow()?;
        self.device.close()?;
        let Self { results, worst_error, .. } = self;
        let miss_bytes = counters.miss_bytes.get();
        Ok(Outcome { case, results, worst_error, wrong_stored, overflows_counted, miss_bytes })
    }

    /// Gives keys and values to the device that the element type does not have, and reads them as a prompt; returns whether as
    /// many were counted each time, and none before.
    fn overflow(&mut self) -> Result<bool, ConformanceError> {
        let Geometry { kv_heads, head_dim, .. } = *self.arena.geometry();
        let shape = [1, kv_heads as usize, head_dim as usize];
        let beyond = tensor(self.backend, shape, &vec![f32::MAX; (kv_heads * head_dim) as usize])?;
        let queries = vec![0.0; (self.arena.geometry().heads * head_dim) as usize];
        let queries = self.queries_tensor(&queries, 1)?;
        let mut counted = vec![self.device.take_overflows()];
        for (layer, start) in [(0, self.tokens), (DENSE, self.tokens), (DENSE, self.tokens + 1)] {
            let chunk = Chunk { layer, start, tokens: 1 };
            self.device.append(chunk, &beyond, &beyond)?;
            self.device.settle()?;
            counted.push(self.device.take_overflows());
            self.device.prefill(chunk, &queries)?;
        }
        Ok(counted[0] == 0 && counted[1] > 0 && counted[1..].iter().all(|&it| it == counted[1]))
    }

    /// Gives new keys and values to the device; returns new queries.
    fn append(&mut self, chunk: Chunk) -> Result<Vec<f32>, ConformanceError> {
        let Geometry { heads, kv_heads, head_dim, dtype, .. } = *self.arena.geometry();
        let dim = head_dim as usize;
        let elements = chunk.tokens * kv_heads as usize * dim;
        let keys = self.normals(elements, 1.5);
        let values = self.normals(elements, 1.0);
        let shape = [chunk.tokens, kv_heads as usize, dim];
        let [of_keys, of_values] =
            [&keys, &values].map(|elements| tensor(self.backend, shape, elements));
        self.device.append(chunk, &of_keys?, &of_values?)?;
        let stored = |&element: &f32| widen(dtype, narrow(dtype, element));
        let pairs = keys.chunks_exact(dim).zip(values.chunks_exact(dim));
        for (row, (key, value)) in pairs.enumerate() {
            let head = row % kv_heads as usize;
            let rows = &mut self.rows[chunk.layer * kv_heads as usize + head];
            rows.keys.extend(key.iter().map(stored));
            rows.values.extend(value.iter().map(stored));
        }
        Ok(self.normals(chunk.tokens * heads as usize * dim, 1.5))
    }

    fn queries_tensor(&self, queries: &[f32], tokens: usize) -> candle_core::Result<Tensor> {
        let Geometry { heads, head_dim, .. } = *self.arena.geometry();
        tensor(self.backend, [tokens, heads as usize, head_dim as usize], queries)
    }

    /// Compares one token's result with attention to the positions that `attended` gives for each KV head.
    fn compare(
        &mut self,
        layer: usize,
        queries: &[f32],
        out: &Tensor,
        row: usize,
        attended: impl Fn(usize) -> Vec<usize>,
    ) -> Result<(), ConformanceError> {
        let Geometry { heads, kv_heads, head_dim, .. } = *self.arena.geometry();
        let (dim, width) = (head_dim as usize, (heads * head_dim) as usize);
        let scale = 1.0 / f64::from(head_dim).sqrt();
        let out: Vec<f32> = out.narrow(0, row, 1)?.flatten_all()?.to_vec1()?;
        let query_heads = queries[row * width..][..width].chunks_exact(dim);
        for (head, (query, out)) in query_heads.zip(out.chunks_exact(dim)).enumerate() {
            let kv_head = head / (heads / kv_heads) as usize;
            let rows = &self.rows[layer * kv_heads as usize + kv_head];
            let (expected, _) = attend(rows, query, scale, attended(kv_head));
            let largest = rows.values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
            for (&out, expected) in out.iter().zip(expected) {
                let error = (f64::from(out) - expected).abs() / f64::from(largest);
                // Not-a-number is the worst, and stays.
                if error.is_nan() || error > self.worst_error {
                    self.worst_error = error;
                }
            }
        }
        self.results += 1;
        Ok(())
    }

    /// Chooses blocks at random, among them the newest, and says where in the cache they lie or must be put.
    fn select(&mut self, layer: usize) -> Chosen {
        let Geometry { kv_heads, block_tokens, .. } = *self.arena.geometry();
        let newest = u32::try_from(self.tokens).unwrap_or(u32::MAX) / block_tokens;
        let mut heads = Vec::new();
        for head in 0..kv_heads as usize {
            // Some of the blocks before are wanted again.
            let mut blocks: Vec<u32> = (0..self.random.next_u32() % SELECTED)
                .map(|_| self.random.next_u32())
                .map(|draw| if draw % 2 == 0 { draw % 12 } else { draw % (newest + 1) })
                .collect();
            blocks.push(newest);
            blocks.sort_unstable();
            blocks.dedup();
            let mirror = &mut self.mirrors[layer * kv_heads as usize + head];
            let held = mirror.place(&blocks, newest).into_iter();
            // Whole blocks, as every device can attend to them.
            let tokens = |block: u32| {
                let first = (block * block_tokens) as usize;
                token_mask(0, (self.tokens + 1 - first).min(block_tokens as usize))
            };
            let whole = |(block, slot, miss)| SelectedBlock::new(block, slot, miss, tokens(block));
            heads.push(held.map(whole).collect());
        }
        Chosen { heads, recorder: Recorder::default() }
    }

    /// Random numbers about 0, none beyond three times `scale`.
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
    fn normals(&mut self, count: usize, scale: f32) -> Vec<f32> {
        let mut uniform = || (self.random.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
        (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * scale).collect()
    }
}

/// What lies in the slots of one KV head, the longest unused first.
#[derive(Debug, Clone, Default)]
struct Mirror {
    held: Vec<(u32, u32)>,
}

impl Mirror {
    /// Slot of each block, and whether it must travel there.
    fn place(&mut self, blocks: &[u32], newest: u32) -> Vec<(u32, u32, bool)> {
        let place = |&block: &u32| {
            let found = self.held.iter().position(|&(held, _)| held == block);
            let slot = match found {
                Some(index) => self.held.remove(index).1,
                None if self.held.len() < CACHE_BLOCKS as usize => {
                    u32::try_from(self.held.len()).unwrap_or(u32::MAX)
                }
                None => self.held.remove(0).1,
            };
            self.held.push((block, slot));
            (block, slot, found.is_none() && block != newest)
        };
        blocks.iter().map(place).collect()
    }
}

/// Answers that are known.
struct Chosen {
    heads: Vec<Vec<SelectedBlock>>,
    recorder: Recorder,
}

impl Selections for Chosen {
    fn next(&mut self, head: usize, blocks: &mut Vec<SelectedBlock>) -> Result<(), LinkError> {
        blocks.clone_from(&self.heads[head]);
        Ok(())
    }

    fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }
}
