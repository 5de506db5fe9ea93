//! Which kernel serves a shape, and how it is launched.

use std::fmt;

/// Heads that share a KV head, at most.
pub const MAX_GROUP: u32 = 16;

/// The head sizes that attention is compiled for.
pub const HEAD_DIMS: [u32; 3] = [64, 128, 256];

/// Threads of every kernel's blocks.
const THREADS: u32 = 128;
/// Elements of a 16-byte access.
const PIECE: u32 = 8;
/// Elements of the keys that a block of decode attention takes in at a time.
const DECODE_TILE_ELEMENTS: u32 = 8192;
/// Elements of the queries that a block of prefill attention works on.
const PREFILL_TILE_ELEMENTS: u32 = 4096;
/// Heads that one thread of decode attention works on at a time; shared memory is for whole chunks.
const CHUNK: u32 = 4;

/// The element type of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// A kernel's name and launch configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's name in the module.
    pub name: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer to memory that the device can reach; 0 is null.
    Address(u64),
    /// An `unsigned`.
    U32(u32),
    /// A `float`.
    F32(f32),
}

impl Argument {
    /// Its size in bytes, as the kernel's type has it.
    pub fn bytes(self) -> usize {
        match self {
            Self::Address(_) => 8,
            Self::U32(_) | Self::F32(_) => 4,
        }
    }

    /// Its bits, in the low bytes.
    pub fn bits(self) -> u64 {
        match self {
            Self::Address(address) => address,
            Self::U32(value) => value.into(),
            Self::F32(value) => value.to_bits().into(),
        }
    }
}

/// A shape that no kernel serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedShape {
    /// Attention is compiled for a few head sizes.
    #[error(
        "no CUDA kernel serves heads of {0} elements, only of 64, 128 and 256: run this model with --device cpu"
    )]
    HeadDim(u32),
    /// Rows are read 16 bytes at a time.
    #[error(
        "rows of {0} elements cannot be read 16 bytes at a time: the head size must be a multiple of 8"
    )]
    RowLength(u32),
    /// Too many or no heads share a KV head.
    #[error(
        "{0} query heads share a KV head; the CUDA kernels serve 1 to 16: run this model with --device cpu"
    )]
    Group(u32),
    /// Blocks are too small, too large or odd.
    #[error("blocks of {0} tokens: the CUDA kernels serve multiples of 8 from 8 to 64")]
    BlockTokens(u32),
    /// Nothing to launch.
    #[error("{0} must be at least 1")]
    Empty(&'static str),
    /// Blocks are copied 16 bytes at a time.
    #[error("blocks of {0} bytes cannot be copied 16 bytes at a time")]
    BlockBytes(u32),
    /// More thread blocks than a grid holds.
    #[error(
        "{0} thread blocks are more than one launch holds: launch fewer tokens or splits at a time"
    )]
    Grid(u64),
}

/// Attention of one token's queries, split over each KV head's block list (`decode_attention_{element}_d{head_dim}`).
///
/// # Errors
///
/// If no kernel serves the shape.
pub fn decode_attention(
    element: Element,
    head_dim: u32,
    kv_heads: u32,
    group: u32,
    block_tokens: u32,
    splits: u32,
) -> Result<Launch, UnsupportedShape> {
    check_attention(head_dim, kv_heads, group, block_tokens)?;
    at_least_one("splits", splits)?;
    if splits > u32::from(u16::MAX) {
        return Err(UnsupportedShape::Grid(splits.into()));
    }
    let chunks = group.div_ceil(CHUNK);
    // Queries, and scores whose stride is odd in chunks.
    let floats = CHUNK * (chunks * head_dim + (chunks | 1) * decode_tile(head_dim));
    Ok(Launch {
        name: format!("decode_attention_{element}_d{head_dim}"),
        grid: [kv_heads, splits, 1],
        block: [THREADS, 1, 1],
        shared_bytes: floats * size_of::<f32>() as u32,
    })
}

/// Keys that a block of decode attention takes in at a time: no split should be shorter.
pub fn decode_tile(head_dim: u32) -> u32 {
    DECODE_TILE_ELEMENTS / head_dim
}

/// Merges partial results (`merge_partials`).
///
/// # Errors
///
/// If there are no heads.
pub fn merge_partials(heads: u32) -> Result<Launch, UnsupportedShape> {
    at_least_one("heads", heads)?;
    Ok(Launch {
        name: "merge_partials".to_owned(),
        grid: [heads, 1, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
    })
}

/// Copies `blocks` blocks of `block_bytes` into a pool (`gather_blocks`).
///
/// # Errors
///
/// If there are no blocks, or if they are not a multiple of 16 bytes.
pub fn gather_blocks(blocks: u32, block_bytes: u32) -> Result<Launch, UnsupportedShape> {
    at_least_one("blocks", blocks)?;
    if block_bytes == 0 || !block_bytes.is_multiple_of(16) {
        return Err(UnsupportedShape::BlockBytes(block_bytes));
    }
    Ok(Launch {
        name: "gather_blocks".to_owned(),
        grid: [blocks, 1, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
    })
}

/// Rounds and stores the keys and values of `tokens` tokens (`append_{element}`).
///
/// # Errors
///
/// If there is nothing to store, or if no kernel serves the shape.
pub fn append(
    element: Element,
    tokens: u32,
    kv_heads: u32,
    head_dim: u32,
    block_tokens: u32,
) -> Result<Launch, UnsupportedShape> {
    at_least_one("tokens", tokens)?;
    at_least_one("KV heads", kv_heads)?;
    check_block_tokens(block_tokens)?;
    if head_dim == 0 || !head_dim.is_multiple_of(PIECE) {
        return Err(UnsupportedShape::RowLength(head_dim));
    }
    let pieces = u64::from(tokens) * u64::from(kv_heads) * 2 * u64::from(head_dim / PIECE);
    Ok(Launch {
        name: format!("append_{element}"),
        grid: [grid_size(pieces.div_ceil(THREADS.into()))?, 1, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
    })
}

/// Causal attention of `tokens` tokens to a part of the keys (`prefill_attention_{element}_d{head_dim}`).
///
/// # Errors
///
/// If there are no tokens, or if no kernel serves the shape.
pub fn prefill_attention(
    element: Element,
    head_dim: u32,
    tokens: u32,
    kv_heads: u32,
    group: u32,
    block_tokens: u32,
) -> Result<Launch, UnsupportedShape> {
    check_attention(head_dim, kv_heads, group, block_tokens)?;
    at_least_one("tokens", tokens)?;
    let tile_rows = PREFILL_TILE_ELEMENTS / head_dim;
    Ok(Launch {
        name: format!("prefill_attention_{element}_d{head_dim}"),
        grid: [tokens.div_ceil(tile_rows / group), kv_heads, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
    })
}

fn check_attention(
    head_dim: u32,
    kv_heads: u32,
    group: u32,
    block_tokens: u32,
) -> Result<(), UnsupportedShape> {
    if !HEAD_DIMS.contains(&head_dim) {
        return Err(UnsupportedShape::HeadDim(head_dim));
    }
    if !(1..=MAX_GROUP).contains(&group) {
        return Err(UnsupportedShape::Group(group));
    }
    at_least_one("KV heads", kv_heads)?;
    if kv_heads > u32::from(u16::MAX) {
        return Err(UnsupportedShape::Grid(kv_heads.into()));
    }
    check_block_tokens(block_tokens)
}

fn check_block_tokens(block_tokens: u32) -> Result<(), UnsupportedShape> {
    if !(8..=64).contains(&block_tokens) || !block_tokens.is_multiple_of(8) {
        return Err(UnsupportedShape::BlockTokens(block_tokens));
    }
    Ok(())
}

fn at_least_one(what: &'static str, count: u32) -> Result<(), UnsupportedShape> {
    if count == 0 { Err(UnsupportedShape::Empty(what)) } else { Ok(()) }
}

/// A grid's x dimension holds 2^31 - 1 blocks.
fn grid_size(blocks: u64) -> Result<u32, UnsupportedShape> {
    u32::try_from(blocks)
        .ok()
        .filter(|&blocks| blocks <= i32::MAX as u32)
        .ok_or(UnsupportedShape::Grid(blocks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_has_a_block_for_each_head_and_split() {
        let launch =
            decode_attention(Element::Bf16, 128, 8, 4, 16, 6).expect("a shape that is served");
        assert_eq!(launch.name, "decode_attention_bf16_d128");
        assert_eq!((launch.grid, launch.block), ([8, 6, 1], [128, 1, 1]));
        // Four queries of 128 floats, and as many scores for each of 64 keys.
        assert_eq!(launch.shared_bytes, 4 * (4 * 128 + 4 * 64));
    }

    #[test]
    fn every_launch_fits_the_shared_memory_that_needs_no_opting_in() {
        // What ptxas reports of the kernels' own arrays, at most.
        const STATIC_BYTES: u32 = 21 * 1024;
        for head_dim in HEAD_DIMS {
            for group in 1..=MAX_GROUP {
                let launch = decode_attention(Element::F16, head_dim, 1, group, 16, 1)
                    .expect("a shape that is served");
                assert!(
                    launch.shared_bytes + STATIC_BYTES <= 48 * 1024,
                    "{head_dim}, {group}: {}",
                    launch.shared_bytes
                );
            }
        }
    }

    #[test]
    fn prefill_tiles_hold_whole_tokens() {
        let blocks = |head_dim, tokens, group| {
            prefill_attention(Element::F16, head_dim, tokens, 2, group, 16)
                .map(|launch| launch.grid)
        };
        assert_eq!(blocks(64, 512, 1), Ok([8, 2, 1]));
        // 64 rows are 21 tokens of three heads.
        assert_eq!(blocks(64, 43, 3), Ok([3, 2, 1]));
        assert_eq!(blocks(256, 5, 16), Ok([5, 2, 1]));
    }

    #[test]
    fn append_has_a_thread_for_each_piece_of_each_row() {
        let launch = append(Element::F16, 3, 2, 64, 16).expect("a shape that is served");
        assert_eq!((launch.name.as_str(), launch.grid), ("append_f16", [1, 1, 1]));
        assert_eq!(
            append(Element::F16, 512, 8, 128, 16).map(|launch| launch.grid),
            Ok([1024, 1, 1])
        );
        assert!(matches!(
            append(Element::F16, u32::MAX, 64, 256, 16),
            Err(UnsupportedShape::Grid(_))
        ));
    }

    #[test]
    fn shapes_without_a_kernel_are_named() {
        let decode = |head_dim, group, block_tokens, splits| {
            decode_attention(Element::F16, head_dim, 2, group, block_tokens, splits)
                .map(|launch| launch.name)
        };
        assert_eq!(decode(96, 1, 16, 1), Err(UnsupportedShape::HeadDim(96)));
        assert_eq!(decode(64, 0, 16, 1), Err(UnsupportedShape::Group(0)));
        assert_eq!(decode(64, 17, 16, 1), Err(UnsupportedShape::Group(17)));
        assert_eq!(decode(64, 1, 12, 1), Err(UnsupportedShape::BlockTokens(12)));
        assert_eq!(decode(64, 1, 72, 1), Err(UnsupportedShape::BlockTokens(72)));
        assert_eq!(decode(64, 1, 16, 0), Err(UnsupportedShape::Empty("splits")));
        assert_eq!(decode(64, 1, 16, 70_000), Err(UnsupportedShape::Grid(70_000)));
        assert_eq!(
            gather_blocks(1, 24).map(|launch| launch.name),
            Err(UnsupportedShape::BlockBytes(24))
        );
        assert_eq!(
            append(Element::F16, 1, 1, 60, 16).map(|launch| launch.name),
            Err(UnsupportedShape::RowLength(60))
        );
    }
}
