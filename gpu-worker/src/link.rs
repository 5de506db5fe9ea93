//! The worker's line to the indexer: requests out, selections in.

use std::time::{Duration, Instant};

use hindsight_protocol::arena::Arena;
use hindsight_protocol::records::{
    RecordError, Refusal, Reply, Request, SelectedBlock, token_mask,
};
use hindsight_protocol::ring::{Doorbell, Patience, Receiver, RingFault, Sender};

use crate::threads::Lender;

/// How long the indexer may stay silent. A dead one is noticed by the launcher much earlier.
const SILENCE: Duration = Duration::from_secs(120);

/// Looks for an answer before the indexer is woken that nobody has woken yet.
const LOOKS: u32 = 1_000;

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

/// One KV head of one layer, at the step of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The sequence.
    pub sequence: u32,
    /// The layer.
    pub layer: u32,
    /// The KV head.
    pub kv_head: u32,
    /// Position of the token.
    pub position: u64,
}

/// The indexer sleeps while it has nothing to do.
impl Lender for Arena {
    fn bell(&self) -> &Doorbell {
        self.query_ring().bell()
    }
}

/// Both rings, seen from the worker.
#[derive(Debug)]
pub struct IndexerLink<'a> {
    requests: Sender<'a>,
    replies: Receiver<'a>,
    block_tokens: usize,
}

impl<'a> IndexerLink<'a> {
    /// Takes the worker's ends of the arena's rings.
    #[must_use]
    pub fn new(arena: &'a Arena) -> Self {
        Self {
            requests: arena.query_ring().producer(),
            replies: arena.selection_ring().consumer(),
            block_tokens: arena.geometry().block_tokens as usize,
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

    /// Waits for the blocks that one KV head attends to, after a [`Request::Query`]; KV heads are answered in their order.
    /// Fills `blocks`, and says whether queries that were told ahead of time misled the indexer.
    ///
    /// Nothing of the answer is used before it has been checked: blocks are ascending, exist, and end with the token's own;
    /// of each some tokens are attended to, which exist, and of the last the newest.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn selection(
        &mut self,
        place: Place,
        blocks: &mut Vec<SelectedBlock>,
    ) -> Result<bool, LinkError> {
        let block_tokens = self.block_tokens;
        self.reply(|reply| match reply {
            Reply::Selection { sequence, layer, kv_head, position, misled, blocks: selected }
                if place == (Place { sequence, layer, kv_head, position }) =>
            {
                check_blocks(selected, place.position, block_tokens)?;
                blocks.clear();
                blocks.extend_from_slice(selected);
                Ok(misled)
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => Err(LinkError::Answer(format!("asked about {place:?}, got {other:?}"))),
        })
    }

    fn reply<R>(
        &mut self,
        take: impl FnOnce(Reply<'_>) -> Result<R, LinkError>,
    ) -> Result<R, LinkError> {
        let answered = |_| {
            std::hint::spin_loop();
            self.replies.has_record()
        };
        if !(0..LOOKS).any(answered) {
            self.requests.insist();
        }
        let since = Instant::now();
        loop {
            if let Some(record) = self.replies.receive(Patience::default())? {
                return take(Reply::decode(record)?);
            }
            if since.elapsed() > SILENCE {
                return Err(LinkError::Silent);
            }
        }
    }
}

fn check_blocks(
    blocks: &[SelectedBlock],
    position: u64,
    block_tokens: usize,
) -> Result<(), LinkError> {
    let last_block = position / block_tokens as u64;
    let ascending = blocks.windows(2).all(|pair| pair[0].block < pair[1].block);
    let complete = blocks.last().is_some_and(|last| u64::from(last.block) == last_block);
    if !(ascending && complete) {
        return Err(LinkError::Answer(format!("blocks that are not ascending up to {last_block}")));
    }
    let beyond = !token_mask(0, block_tokens);
    let newest = 1_u64 << (position % block_tokens as u64);
    let unwritten = !(newest | (newest - 1));
    let sound = blocks.iter().all(|selected| selected.tokens != 0 && selected.tokens & beyond == 0)
        && blocks.last().is_some_and(|last| last.tokens & (newest | unwritten) == newest);
    if sound {
        Ok(())
    } else {
        Err(LinkError::Answer("tokens that their block has not".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::arena::ArenaConfig;
    use hindsight_protocol::geometry::{Geometry, KvDtype};

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

    const PLACE: Place = Place { sequence: 0, layer: 1, kv_head: 1, position: 63 };

    /// What the worker makes of an indexer that answers about `answered` with `blocks` when asked about [`PLACE`].
    fn selected(blocks: &[u32], answered: Place) -> Result<usize, LinkError> {
        let blocks: Vec<_> =
            blocks.iter().map(|&block| SelectedBlock::new(block, 0, false, 0xffff)).collect();
        selected_of(&blocks, answered)
    }

    /// What the worker makes of these blocks.
    fn selected_of(blocks: &[SelectedBlock], answered: Place) -> Result<usize, LinkError> {
        let arena = arena();
        let Place { sequence, layer, kv_head, position } = answered;
        Reply::Selection { sequence, layer, kv_head, position, misled: true, blocks }
            .encode(|parts| arena.selection_ring().producer().send(parts, Patience::default()))
            .unwrap();
        let mut selection = Vec::new();
        assert!(IndexerLink::new(&arena).selection(PLACE, &mut selection)?);
        Ok(selection.len())
    }

    #[test]
    fn a_sound_answer_is_taken() {
        assert_eq!(selected(&[0, 2, 3], PLACE), Ok(3));
    }

    #[test]
    fn an_answer_that_would_read_beyond_the_text_or_miss_the_token_is_refused() {
        for blocks in [&[0, 4][..], &[0, 3, 3], &[3, 2], &[0, 2], &[]] {
            assert!(matches!(selected(blocks, PLACE), Err(LinkError::Answer(_))), "{blocks:?}");
        }
    }

    #[test]
    fn tokens_that_are_none_or_not_in_their_block_or_without_the_newest_are_refused() {
        let at = |position| Place { position, ..PLACE };
        let blocks = |first, last| {
            [(1, first), (3, last)]
                .map(|(block, tokens)| SelectedBlock::new(block, 0, false, tokens))
        };
        let (newest, all) = (1 << 15, 0xffff);
        assert_eq!(selected_of(&blocks(1, newest), PLACE), Ok(2));
        for [first, last] in
            [[0, all], [1 << 16, all], [1, 0], [1, newest | 1 << 16], [1, all >> 1]]
        {
            let answer = selected_of(&blocks(first, last), PLACE);
            assert!(matches!(answer, Err(LinkError::Answer(_))), "{first:x} {last:x}");
        }
        // The question was about the token at 63; one at 60 sees no tokens after it.
        let link_of = |tokens| check_blocks(&blocks(1, tokens), at(60).position, 16);
        assert_eq!(link_of(1 << 12), Ok(()));
        assert!(link_of(1 << 12 | 1 << 13).is_err());
    }

    #[test]
    fn an_indexer_that_nobody_wakes_is_woken_by_whoever_waits_for_it() {
        let arena = arena();
        let (request, since) = (Request::Close { sequence: 0 }, Instant::now());
        std::thread::scope(|scope| {
            let _never_looks = arena.bell().watch();
            scope.spawn(|| {
                let patience = Patience { spins: 0, sleep: SILENCE };
                let received = arena.query_ring().consumer().receive(patience).unwrap().is_some();
                assert!(received);
                Reply::Done.encode(|parts| arena.selection_ring().producer().send(parts, patience))
            });
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(IndexerLink::new(&arena).ask(&request), Ok(()));
        });
        assert!(since.elapsed() < SILENCE / 2);
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        for answered in [Place { layer: 0, ..PLACE }, Place { kv_head: 0, ..PLACE }] {
            assert!(matches!(selected(&[3], answered), Err(LinkError::Answer(_))));
        }
    }
}
