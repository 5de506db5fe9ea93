//! What travels through the rings: requests from the worker, replies from the indexer.
//!
//! A record is a header of fixed layout and a payload of `f32` or [`SelectedBlock`] values. Decoding copies the header
//! and checks the payload's size against it; whether sequences, layers and blocks exist is for the receiver to check.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::geometry::Geometry;

/// Which keys a sequence attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionPolicy {
    /// Every key.
    Full,
    /// The top-k keys, found by scanning every key.
    Exact,
    /// The top-k keys among the candidates that LFPS predicts.
    Lfps,
}

impl AttentionPolicy {
    const fn code(self) -> u32 {
        match self {
            Self::Full => 0,
            Self::Exact => 1,
            Self::Lfps => 2,
        }
    }

    const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Full),
            1 => Some(Self::Exact),
            2 => Some(Self::Lfps),
            _ => None,
        }
    }
}

impl std::fmt::Display for AttentionPolicy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Full => "full",
            Self::Exact => "exact",
            Self::Lfps => "lfps",
        })
    }
}

/// A record that does not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its header, or of another length than its header implies.
    #[error("a record of {length} bytes does not hold what its header says")]
    Length {
        /// Bytes received.
        length: usize,
    },
    /// The kind is unknown.
    #[error("a record of unknown kind {0}")]
    Kind(u32),
    /// A field has no meaning.
    #[error("a record's {field} is {value}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    sequence: u32,
    layer: u32,
    /// Meaning depends on the kind.
    detail: u32,
    position: u64,
    tokens: u64,
}

/// Part of the arena's fingerprint: changes when a record's layout does.
pub(crate) const FINGERPRINT: u64 =
    2 << 32 | (size_of::<Header>() as u64) << 16 | size_of::<SelectedBlock>() as u64;

/// Bytes of the longest request: a header and one query of every head.
pub(crate) const fn query_bytes(geometry: &Geometry) -> usize {
    size_of::<Header>() + geometry.heads as usize * geometry.head_dim as usize * size_of::<f32>()
}

/// Bytes of the longest reply: a header and the blocks of one KV head.
pub(crate) fn selection_bytes(max_blocks: u32) -> Option<usize> {
    (max_blocks as usize).checked_mul(size_of::<SelectedBlock>())?.checked_add(size_of::<Header>())
}

/// What the worker asks of the indexer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Request<'a> {
    /// Start a sequence. Answered by [`Reply::Done`] or [`Reply::Refused`].
    Open {
        /// The sequence.
        sequence: u32,
        /// What it attends to.
        policy: AttentionPolicy,
        /// Keys that each KV head selects, besides sink and window.
        top_k: u32,
    },
    /// Make room for `tokens` tokens in all. Answered like [`Request::Open`].
    Reserve {
        /// The sequence.
        sequence: u32,
        /// Tokens that it must be able to hold.
        tokens: u64,
    },
    /// Take a sequence back to its first `tokens` tokens, of which nothing is known any more but keys and values, and
    /// which are followed by others from now on. Answered like [`Request::Open`].
    Rewind {
        /// The sequence.
        sequence: u32,
        /// What it attends to from now on.
        policy: AttentionPolicy,
        /// Keys that each KV head selects, besides sink and window.
        top_k: u32,
        /// Tokens that stay, in every layer.
        tokens: u64,
    },
    /// End a sequence and free its blocks. Answered like [`Request::Open`].
    Close {
        /// The sequence.
        sequence: u32,
    },
    /// Keys and values are in the arena, for one layer: of prompt tokens, or of a decode step's token, after its
    /// [`Request::Query`]. Not answered.
    Appended {
        /// The sequence.
        sequence: u32,
        /// The layer.
        layer: u32,
        /// Position of the first of them.
        position: u64,
        /// How many.
        tokens: u64,
    },
    /// The query of one of the last prompt tokens, to learn from. A layer's seeds follow each other. Not answered.
    Seed {
        /// The sequence.
        sequence: u32,
        /// The layer.
        layer: u32,
        /// Seeds of this layer that are still to come.
        remaining: u32,
        /// Position of the token.
        position: u64,
        /// Its queries after RoPE: [heads, head_dim].
        query: &'a [f32],
    },
    /// The query that a decode step's token is expected to have in a layer that the worker has yet to come to. Everything
    /// before the token is in the arena, its own key is not. Not answered: what it proposes is chosen from when the
    /// [`Request::Query`] of the same token and layer follows.
    Rehearse {
        /// The sequence.
        sequence: u32,
        /// The layer.
        layer: u32,
        /// Position of the token.
        position: u64,
        /// Its expected queries after RoPE: [heads, head_dim].
        query: &'a [f32],
    },
    /// A decode step's query. Everything before the token is in the arena; its own key must be for
    /// [`AttentionPolicy::Exact`], and need not be for [`AttentionPolicy::Lfps`]. Answered by a [`Reply::Selection`] for each KV
    /// head, in their order.
    Query {
        /// The sequence.
        sequence: u32,
        /// The layer.
        layer: u32,
        /// Position of the token.
        position: u64,
        /// Its queries after RoPE: [heads, head_dim].
        query: &'a [f32],
    },
}

const OPEN: u32 = 1;
const RESERVE: u32 = 2;
const CLOSE: u32 = 3;
const APPENDED: u32 = 4;
const SEED: u32 = 5;
const REWIND: u32 = 6;
const REHEARSE: u32 = 7;
const QUERY: u32 = 8;

impl<'a> Request<'a> {
    /// Encodes the record as a header and a payload, and hands both to `send`.
    pub fn encode<R>(&self, send: impl FnOnce(&[&[u8]]) -> R) -> R {
        let empty: &[f32] = &[];
        let (header, payload) = match *self {
            Self::Open { sequence, policy, top_k } => {
                (header(OPEN, sequence, policy.code(), top_k, 0, 0), empty)
            }
            Self::Rewind { sequence, policy, top_k, tokens } => {
                (header(REWIND, sequence, policy.code(), top_k, 0, tokens), empty)
            }
            Self::Reserve { sequence, tokens } => {
                (header(RESERVE, sequence, 0, 0, 0, tokens), empty)
            }
            Self::Close { sequence } => (header(CLOSE, sequence, 0, 0, 0, 0), empty),
            Self::Appended { sequence, layer, position, tokens } => {
                (header(APPENDED, sequence, layer, 0, position, tokens), empty)
            }
            Self::Seed { sequence, layer, remaining, position, query } => {
                (header(SEED, sequence, layer, remaining, position, 1), query)
            }
            Self::Rehearse { sequence, layer, position, query } => {
                (header(REHEARSE, sequence, layer, 0, position, 1), query)
            }
            Self::Query { sequence, layer, position, query } => {
                (header(QUERY, sequence, layer, 0, position, 1), query)
            }
        };
        send(&[header.as_bytes(), payload.as_bytes()])
    }

    /// Decodes a record that was copied out of a ring. `query_elements` is heads × head_dim.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(record: &'a [u8], query_elements: usize) -> Result<Self, RecordError> {
        let length = record.len();
        let bad_length = RecordError::Length { length };
        let (header, payload) = Header::read_from_prefix(record).map_err(|_| bad_length.clone())?;
        let query = <[f32]>::ref_from_bytes(payload).map_err(|_| bad_length.clone())?;
        let expected =
            if matches!(header.kind, SEED | QUERY | REHEARSE) { query_elements } else { 0 };
        if query.len() != expected {
            return Err(bad_length);
        }
        let Header { kind, sequence, layer, detail, position, tokens } = header;
        let policy = || {
            let field = RecordError::Field { field: "attention policy", value: layer.into() };
            AttentionPolicy::from_code(layer).ok_or(field)
        };
        Ok(match kind {
            OPEN => Self::Open { sequence, policy: policy()?, top_k: detail },
            REWIND => Self::Rewind { sequence, policy: policy()?, top_k: detail, tokens },
            RESERVE => Self::Reserve { sequence, tokens },
            CLOSE => Self::Close { sequence },
            APPENDED => Self::Appended { sequence, layer, position, tokens },
            SEED => Self::Seed { sequence, layer, remaining: detail, position, query },
            REHEARSE => Self::Rehearse { sequence, layer, position, query },
            QUERY => Self::Query { sequence, layer, position, query },
            kind => return Err(RecordError::Kind(kind)),
        })
    }
}

/// One block of a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SelectedBlock {
    /// Number of the block within its head's text.
    pub block: u32,
    /// Slot of the worker's block cache, and in the top bit whether the block must travel there first.
    slot: u32,
    /// Which of the block's tokens are attended to, the first in the lowest bit. A device that attends to whole blocks
    /// leaves them out of account.
    pub tokens: u64,
}

impl SelectedBlock {
    const MISS: u32 = 1 << 31;

    /// The most tokens that a block may hold.
    pub const MOST_TOKENS: usize = u64::BITS as usize;

    /// A block that lies, or must be put, in `slot`, of which `tokens` are attended to.
    ///
    /// # Panics
    /// If `slot` is 2³¹ or more.
    #[must_use]
    pub const fn new(block: u32, slot: u32, miss: bool, tokens: u64) -> Self {
        assert!(slot < Self::MISS);
        Self { block, slot: if miss { slot | Self::MISS } else { slot }, tokens }
    }

    /// Slot of the worker's block cache.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot & !Self::MISS
    }

    /// Whether the block must travel.
    #[must_use]
    pub const fn is_miss(self) -> bool {
        self.slot & Self::MISS != 0
    }
}

/// The bits of the tokens `start..end` of a block.
///
/// # Panics
/// If `end` is more than 64.
#[must_use]
pub const fn token_mask(start: usize, end: usize) -> u64 {
    assert!(end <= SelectedBlock::MOST_TOKENS);
    if start >= end {
        return 0;
    }
    (u64::MAX >> (SelectedBlock::MOST_TOKENS - (end - start))) << start
}

/// What the indexer answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reply<'a> {
    /// The request was carried out.
    Done,
    /// The request could not be carried out.
    Refused(Refusal),
    /// The blocks that one KV head attends to, in one layer of one step.
    Selection {
        /// The sequence.
        sequence: u32,
        /// The layer.
        layer: u32,
        /// The KV head.
        kv_head: u32,
        /// Position of the token whose query was asked.
        position: u64,
        /// Whether a [`Request::Rehearse`] proposed in vain, as its queries were too unlike the true ones.
        misled: bool,
        /// Its blocks, ascending.
        blocks: &'a [SelectedBlock],
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The arena holds no more tokens.
    #[error("the KV cache is full: {available} tokens fit, {asked} were asked for")]
    ArenaFull {
        /// Tokens asked for.
        asked: u64,
        /// Tokens that fit.
        available: u64,
    },
    /// The machine has no memory for another slab of the arena.
    #[error("no memory for more of the KV cache ({bytes} bytes were asked for)")]
    NoMemory {
        /// Bytes of the slab.
        bytes: u64,
    },
    /// The request makes no sense, such as a sequence that is not open.
    #[error("the indexer does not accept this request")]
    Invalid,
}

const DONE: u32 = 0x101;
const REFUSED: u32 = 0x102;
const SELECTION: u32 = 0x103;

const ARENA_FULL: u32 = 1;
const NO_MEMORY: u32 = 2;
const INVALID: u32 = 3;

impl<'a> Reply<'a> {
    /// Encodes the record and hands its parts to `send`.
    pub fn encode<R>(&self, send: impl FnOnce(&[&[u8]]) -> R) -> R {
        match *self {
            Self::Done => send(&[header(DONE, 0, 0, 0, 0, 0).as_bytes()]),
            Self::Refused(refusal) => {
                let (code, first, second) = match refusal {
                    Refusal::ArenaFull { asked, available } => (ARENA_FULL, asked, available),
                    Refusal::NoMemory { bytes } => (NO_MEMORY, bytes, 0),
                    Refusal::Invalid => (INVALID, 0, 0),
                };
                send(&[header(REFUSED, 0, 0, code, first, second).as_bytes()])
            }
            Self::Selection { sequence, layer, kv_head, position, misled, blocks } => {
                let header =
                    header(SELECTION, sequence, layer, kv_head, position, u64::from(misled));
                send(&[header.as_bytes(), blocks.as_bytes()])
            }
        }
    }

    /// Decodes a record that was copied out of a ring.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(record: &'a [u8]) -> Result<Self, RecordError> {
        let length = record.len();
        let bad_length = || RecordError::Length { length };
        let (header, payload) = Header::read_from_prefix(record).map_err(|_| bad_length())?;
        let Header { kind, sequence, layer, detail, position, tokens } = header;
        match kind {
            DONE => Ok(Self::Done),
            REFUSED => Ok(Self::Refused(match detail {
                ARENA_FULL => Refusal::ArenaFull { asked: position, available: tokens },
                NO_MEMORY => Refusal::NoMemory { bytes: position },
                INVALID => Refusal::Invalid,
                code => {
                    return Err(RecordError::Field { field: "refusal", value: code.into() });
                }
            })),
            SELECTION => {
                let misled = match tokens {
                    0 => false,
                    1 => true,
                    value => return Err(RecordError::Field { field: "misled", value }),
                };
                let blocks =
                    <[SelectedBlock]>::ref_from_bytes(payload).map_err(|_| bad_length())?;
                Ok(Self::Selection { sequence, layer, kv_head: detail, position, misled, blocks })
            }
            kind => Err(RecordError::Kind(kind)),
        }
    }
}

const fn header(
    kind: u32,
    sequence: u32,
    layer: u32,
    detail: u32,
    position: u64,
    tokens: u64,
) -> Header {
    Header { kind, sequence, layer, detail, position, tokens }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Copies a record into memory that is aligned like a ring's receive buffer.
    fn with_copy<R>(parts: &[&[u8]], check: impl FnOnce(&[u8]) -> R) -> R {
        let bytes = parts.concat();
        let mut buffer = vec![0_u64; bytes.len().div_ceil(8)];
        buffer.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
        check(&buffer.as_bytes()[..bytes.len()])
    }

    #[test]
    fn requests_come_back_as_they_were_sent() {
        let query = [1.0, -2.5, 3.25, 0.0];
        let requests = [
            Request::Open { sequence: 3, policy: AttentionPolicy::Lfps, top_k: 256 },
            Request::Rewind { sequence: 3, policy: AttentionPolicy::Exact, top_k: 9, tokens: 77 },
            Request::Reserve { sequence: 3, tokens: 1 << 40 },
            Request::Close { sequence: 3 },
            Request::Appended { sequence: 3, layer: 29, position: 512, tokens: 256 },
            Request::Seed { sequence: 3, layer: 1, remaining: 2, position: 7, query: &query },
            Request::Rehearse { sequence: 3, layer: 2, position: 8, query: &query },
            Request::Query { sequence: 3, layer: 1, position: 8, query: &query },
        ];
        for request in requests {
            request.encode(|parts| {
                with_copy(parts, |record| assert_eq!(Request::decode(record, 4), Ok(request)));
            });
        }
    }

    #[test]
    fn replies_come_back_as_they_were_sent() {
        let blocks = [
            SelectedBlock::new(0, 5, false, 0xffff),
            SelectedBlock::new(9, 6, true, 1 << 63),
            SelectedBlock::new(0, 0, true, 0),
        ];
        let refusal = Refusal::ArenaFull { asked: 9, available: 8 };
        fn selection(misled: bool, blocks: &[SelectedBlock]) -> Reply<'_> {
            Reply::Selection { sequence: 1, layer: 2, kv_head: 7, position: 3, misled, blocks }
        }
        let [some, none] = [selection(false, &blocks), selection(true, &[])];
        let replies = [Reply::Done, Reply::Refused(refusal), some, none];
        for reply in replies {
            reply.encode(|parts| {
                with_copy(parts, |record| assert_eq!(Reply::decode(record), Ok(reply)));
            });
        }
        assert!(blocks[1].is_miss() && blocks[1].slot() == 6);
        let neither = header(SELECTION, 1, 2, 7, 3, 2);
        with_copy(&[neither.as_bytes()], |record| {
            let refused = RecordError::Field { field: "misled", value: 2 };
            assert_eq!(Reply::decode(record), Err(refused));
        });
    }

    #[test]
    fn masks_hold_the_tokens_of_a_range() {
        assert_eq!([token_mask(0, 0), token_mask(5, 5), token_mask(0, 64)], [0, 0, u64::MAX]);
        assert_eq!([token_mask(2, 5), token_mask(63, 64)], [0b11100, 1 << 63]);
    }

    proptest! {
        /// Bytes from a hostile peer decode to a record or an error, never to a panic.
        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..128), kind in 0..=QUERY) {
            with_copy(&[&kind.to_le_bytes(), &bytes], |record| {
                let _ = Request::decode(record, 4);
                let _ = Reply::decode(record);
            });
            with_copy(&[&(kind + 0x100).to_le_bytes(), &bytes], |record| {
                let _ = Reply::decode(record);
            });
        }
    }
}
