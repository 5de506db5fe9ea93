//! The worker's line to the indexer: requests out, selections in.

use std::time::{Duration, Instant};

use hindsight_protocol::arena::Arena;
use hindsight_protocol::records::{RecordError, Refusal, Reply, Request, SelectedBlock};
use hindsight_protocol::ring::{Patience, Receiver, RingFault, Sender};

/// How long the indexer may stay silent. A dead one is noticed by the launcher much earlier.
const SILENCE: Duration = Duration::from_secs(120);

/// What can go wrong on the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The indexer refused a request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The ring was broken by the indexer.
    #[error("the indexer broke the ring: {0}")]
    Ring(#[from] RingFault),
    /// The indexer sent something that is no record.
    #[error("the indexer sent a bad record: {0}")]
    Record(#[from] RecordError),
    /// The indexer answered something else than was asked.
    #[error("the indexer's answer does not fit the question: {0}")]
    Answer(String),
    /// The indexer does not answer.
    #[error("the indexer has been silent for {} s", SILENCE.as_secs())]
    Silent,
}

/// The blocks to attend to in one layer, per KV head, in ascending order.
#[derive(Debug, Default)]
pub struct Selection {
    blocks: Vec<SelectedBlock>,
    /// End of each KV head's blocks.
    ends: Vec<usize>,
}

impl Selection {
    /// Blocks of one KV head.
    #[must_use]
    pub fn head(&self, kv_head: usize) -> &[SelectedBlock] {
        let start = kv_head.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.blocks[start..self.ends[kv_head]]
    }
}

/// Both rings, seen from the worker.
#[derive(Debug)]
pub struct IndexerLink<'a> {
    requests: Sender<'a>,
    replies: Receiver<'a>,
    kv_heads: usize,
    block_tokens: usize,
}

impl<'a> IndexerLink<'a> {
    /// Takes the worker's ends of the arena's rings.
    #[must_use]
    pub fn new(arena: &'a Arena) -> Self {
        let geometry = arena.geometry();
        Self {
            requests: arena.query_ring().producer(),
            replies: arena.selection_ring().consumer(),
            kv_heads: geometry.kv_heads as usize,
            block_tokens: geometry.block_tokens as usize,
        }
    }

    /// Sends a request that is not answered.
    ///
    /// # Errors
    /// [`LinkError::Ring`] or [`LinkError::Silent`].
    pub fn tell(&mut self, request: &Request<'_>) -> Result<(), LinkError> {
        let since = Instant::now();
        while !request.encode(|parts| self.requests.send(parts, Patience::default()))? {
            if since.elapsed() > SILENCE {
                return Err(LinkError::Silent);
            }
        }
        Ok(())
    }

    /// Sends a request and waits until the indexer says that it is done.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn ask(&mut self, request: &Request<'_>) -> Result<(), LinkError> {
        self.tell(request)?;
        self.reply(|reply| match reply {
            Reply::Done => Ok(()),
            Reply::Refused(refusal) => Err(refusal.into()),
            Reply::Selection { .. } => Err(LinkError::Answer("a selection".to_owned())),
        })
    }

    /// Asks which blocks the token at `position` attends to in `layer`, and fills `selection`.
    ///
    /// `query` is [heads, head_dim], after RoPE. Nothing of the answer is used before it has been checked: the blocks of
    /// a head are ascending, exist, and end with the token's own.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn select(
        &mut self,
        sequence: u32,
        layer: u32,
        position: u64,
        query: &[f32],
        selection: &mut Selection,
    ) -> Result<(), LinkError> {
        self.tell(&Request::Select { sequence, layer, position, query })?;
        let last_block = position / self.block_tokens as u64;
        self.reply(|reply| match reply {
            Reply::Selection { sequence: s, layer: l, position: p, heads }
                if (s, l, p) == (sequence, layer, position) =>
            {
                selection.blocks.clear();
                selection.ends.clear();
                for head in heads.iter() {
                    check_blocks(head, last_block)?;
                    selection.blocks.extend_from_slice(head);
                    selection.ends.push(selection.blocks.len());
                }
                Ok(())
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => Err(LinkError::Answer(format!(
                "asked about layer {layer} at {position}, got {other:?}"
            ))),
        })
    }

    fn reply<R>(
        &mut self,
        take: impl FnOnce(Reply<'_>) -> Result<R, LinkError>,
    ) -> Result<R, LinkError> {
        let since = Instant::now();
        loop {
            if let Some(record) = self.replies.receive(Patience::default())? {
                return take(Reply::decode(record, self.kv_heads)?);
            }
            if since.elapsed() > SILENCE {
                return Err(LinkError::Silent);
            }
        }
    }
}

fn check_blocks(blocks: &[SelectedBlock], last_block: u64) -> Result<(), LinkError> {
    let ascending = blocks.windows(2).all(|pair| pair[0].block < pair[1].block);
    let complete = blocks.last().is_some_and(|last| u64::from(last.block) == last_block);
    if ascending && complete {
        Ok(())
    } else {
        Err(LinkError::Answer(format!("blocks that are not ascending up to {last_block}")))
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::arena::ArenaConfig;
    use hindsight_protocol::geometry::{Geometry, KvDtype};
    use hindsight_protocol::records::SelectedHeads;

    use super::*;

    fn arena() -> Arena {
        let geometry = Geometry {
            layers: 2,
            heads: 2,
            kv_heads: 2,
            head_dim: 16,
            block_tokens: 16,
            dtype: KvDtype::F16,
        };
        Arena::create(ArenaConfig { geometry, capacity_tokens: 1024, max_selected_blocks: 8 })
            .unwrap()
    }

    /// What the worker makes of an indexer that answers its question with `blocks` for the first head and block 3 for
    /// the second, at position 63.
    fn selected(blocks: &[u32], answered_layer: u32) -> Result<Vec<usize>, LinkError> {
        let arena = arena();
        let blocks: Vec<_> =
            blocks.iter().chain(&[3]).map(|&block| SelectedBlock::new(block, 0, false)).collect();
        let count = u32::try_from(blocks.len()).unwrap() - 1;
        let counts = [count, 1];
        let heads = SelectedHeads::new(&counts, &blocks).unwrap();
        let (layer, position) = (answered_layer, 63);
        Reply::Selection { sequence: 0, layer, position, heads }
            .encode(|parts| arena.selection_ring().producer().send(parts, Patience::default()))
            .unwrap();
        let mut selection = Selection::default();
        IndexerLink::new(&arena).select(0, 1, 63, &[0.0; 32], &mut selection)?;
        Ok((0..2).map(|head| selection.head(head).len()).collect())
    }

    #[test]
    fn a_sound_answer_is_taken() {
        assert_eq!(selected(&[0, 2, 3], 1), Ok(vec![3, 1]));
    }

    #[test]
    fn an_answer_that_would_read_beyond_the_text_or_miss_the_token_is_refused() {
        for blocks in [&[0, 4][..], &[0, 3, 3], &[3, 2], &[0, 2], &[]] {
            assert!(matches!(selected(blocks, 1), Err(LinkError::Answer(_))), "{blocks:?}");
        }
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        assert!(matches!(selected(&[3], 0), Err(LinkError::Answer(_))));
    }
}
