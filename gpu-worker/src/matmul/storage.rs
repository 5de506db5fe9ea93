//! Memory for weights: aligned to a cache line, on huge pages where the system grants them.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One cache line.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed bytes that begin on a cache line.
pub(super) struct Storage {
    lines: Vec<Line>,
    bytes: usize,
}

impl Storage {
    /// `bytes` zero bytes.
    pub(super) fn zeroed(bytes: usize) -> Self {
        Self { lines: vec![Line([0; 64]); bytes.div_ceil(64)], bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.lines.as_bytes()[..self.bytes]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.lines.as_mut_bytes()[..self.bytes]
    }
}
