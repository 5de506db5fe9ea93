//! Attention to selected blocks: those that the block cache holds, while those that it lacks travel.

use std::iter;

use candle_core::Tensor;
use hindsight_protocol::profile::{Activity, Detail};
use hindsight_protocol::records::SelectedBlock;

use super::error::{CudaError, mark, wait_for};
use super::kernels::{KeyLists, Targets};
use super::{CudaDevice, NO_SLOT, number};
use crate::device::{Chunk, DeviceError, Selections};

/// The blocks that the KV heads of a layer attend to at one step, by where they are.
#[derive(Debug, Default)]
pub(super) struct Selection {
    answer: Vec<SelectedBlock>,
    /// Slots of blocks that are there, per KV head.
    hits: Vec<Vec<u32>>,
    /// Slots of blocks that travel, per KV head.
    misses: Vec<Vec<u32>>,
    /// What travels: KV head and block.
    travelling: Vec<(usize, u32)>,
    /// The newest block's slot of each KV head, if it is among the hits: its new token is stored in it.
    tails: Vec<u32>,
}

/// The newest block of a layer's KV heads.
#[derive(Debug, Clone, Copy)]
struct Tail {
    block: usize,
    /// Where the new token stands in it.
    row: usize,
    /// Whether it holds all tokens before the new one, where it is there.
    is_whole: bool,
}

impl CudaDevice<'_> {
    pub(super) fn attend_selection(
        &mut self,
        chunk: Chunk,
        queries: &Tensor,
        selections: &mut dyn Selections,
    ) -> Result<Tensor, DeviceError> {
        let Chunk { layer, start, .. } = chunk;
        let block_tokens = self.sizes.block_tokens;
        let row = start % block_tokens;
        let tail =
            Tail { block: start / block_tokens, row, is_whole: self.cache.advance(layer, start) };
        for head in 0..self.sizes.kv_heads {
            selections.next(head, &mut self.selection.answer)?;
            self.sort(layer, head, tail)?;
        }
        let queries = self.uploads[0].elements(&self.compute, queries)?.address;

        let sources = self.host.sources(layer, &self.selection.travelling)?;
        let Selection { hits, misses, tails, .. } = &self.selection;
        let lists = &mut self.lists;
        lists.begin()?;
        let full = number(block_tokens);
        let last = |is_last: bool| if is_last { number(row + 1) } else { full };
        let sources = lists.add_addresses(sources);
        let gathered = lists.add(misses.iter().flatten().copied());
        let tail_slots = lists.add(tails.iter().copied());
        let mut keys = [hits, misses].map(|blocks| {
            let stride = blocks.iter().map(Vec::len).max().unwrap_or(0);
            let padded = blocks.iter().flat_map(|list| {
                list.iter().copied().chain(iter::repeat_n(0, stride - list.len()))
            });
            let slots = lists.add(padded);
            let lengths = lists.add(blocks.iter().map(|list| number(list.len())));
            (KeyLists { pool: 0, slots, stride: number(stride) }, lengths, stride)
        });
        let last_tokens = [true, false]
            .map(|of_hits| lists.add(tails.iter().map(|&tail| last((tail != NO_SLOT) == of_hits))));
        lists.send(&self.compute)?;
        let pool = self.cache.pool.slot(0);
        keys.iter_mut().for_each(|(keys, ..)| keys.pool = pool);

        let travelling = number(self.selection.travelling.len());
        let arrived = if travelling == 0 {
            None
        } else {
            // After the lists, and after earlier kernels that read what makes room.
            wait_for(&self.copy, &mark(&self.compute)?)?;
            let began = self.timeline.point(&self.copy)?;
            self.host.bring(&self.copy)?;
            self.kernels.gather(&self.copy, sources, gathered, pool, travelling)?;
            let bytes = u64::from(travelling) * self.geometry.block_bytes() as u64;
            let gathered = Detail { bytes, miss_blocks: travelling, ..chunk.detail() };
            self.timeline.span(&self.copy, began, Activity::GpuGather, gathered)?;
            self.counters.miss_bytes.add(bytes);
            Some(mark(&self.copy)?)
        };
        self.store(chunk, row, Targets { pool, slots: tail_slots, ..Targets::default() }, 0)?;
        let mut first_split = 0;
        for (index, &(keys, lengths, longest)) in keys.iter().enumerate() {
            let travelled = index == 1;
            match &arrived {
                Some(arrived) if travelled => wait_for(&self.compute, arrived)?,
                None if travelled => continue,
                _ => {}
            }
            let splits = number(self.sizes.splits_of(longest));
            let activity =
                if travelled { Activity::GpuAttendMisses } else { Activity::GpuAttendHits };
            let lengths = [lengths, last_tokens[index]];
            let parts = [first_split, splits];
            self.attend_listed(chunk, activity, queries, keys, lengths, parts)?;
            first_split += splits;
        }
        self.lists.end(&self.compute)?;
        self.merge_partials(first_split)
    }

    /// Sorts the blocks of one KV head's answer by whether they are there. The newest block is not sent anew if what precedes
    /// the new token in it is there.
    fn sort(&mut self, layer: usize, head: usize, tail: Tail) -> Result<(), CudaError> {
        let selection = &mut self.selection;
        let heads = self.sizes.kv_heads;
        if head == 0 {
            selection.travelling.clear();
            selection.tails.clear();
            selection.hits.resize_with(heads, Vec::new);
            selection.misses.resize_with(heads, Vec::new);
        }
        selection.hits[head].clear();
        selection.misses[head].clear();
        let mut tail_slot = NO_SLOT;
        for &selected in &selection.answer {
            let (slot, is_there) = self.cache.place(layer, head, selected)?;
            let is_tail = selected.block as usize == tail.block;
            let is_there = match is_tail {
                true => tail.row == 0 || (is_there && tail.is_whole),
                false => is_there,
            };
            if is_there {
                selection.hits[head].push(number(slot));
                if is_tail {
                    tail_slot = number(slot);
                }
            } else {
                if !selected.is_miss() && !is_tail {
                    self.counters.cache_mismatches.add(1);
                }
                selection.misses[head].push(number(slot));
                selection.travelling.push((head, selected.block));
            }
        }
        selection.tails.push(tail_slot);
        Ok(())
    }
}
