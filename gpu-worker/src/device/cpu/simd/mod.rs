//! The vector kernels: all `unsafe` of the CPU device lies in here.
//!
//! A kernel is written once over [`Simd`], a token that proves that the CPU has an instruction set, and compiled once
//! for each set in [`dispatch`].

mod avx2;
mod avx512;
mod causal_tile;
mod decode_tile;
mod dispatch;
mod exp2;
mod scalar;
mod vector;
mod widen;

pub(super) use causal_tile::{CausalTile, KEY_TILE};
pub(super) use decode_tile::{DecodeTile, TILE_TOKENS};
pub use dispatch::Isa;
pub(super) use dispatch::Kernels;
