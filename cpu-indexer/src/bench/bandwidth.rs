//! The core's memory bandwidth, measured while something else is.

use std::time::Instant;

use crate::kernels::Kernels;

/// Elements of the buffer: 256 MiB, several times what last-level caches hold for one core.
const WORDS: usize = 1 << 27;

/// Reads a large buffer: this empties the caches of what was measured before, as the other layers of a model would, and
/// says how fast the core reads memory at that moment.
#[derive(Debug)]
pub struct MemoryReader {
    kernels: Kernels,
    buffer: Vec<u16>,
    /// Bytes per second of each read.
    rates: Vec<f64>,
}

impl MemoryReader {
    /// Bytes of the buffer.
    pub const BYTES: usize = WORDS * size_of::<u16>();

    /// Takes the buffer's memory.
    #[must_use]
    pub fn new() -> Self {
        Self { kernels: Kernels::detect(), buffer: vec![1; WORDS], rates: Vec::new() }
    }

    /// Reads the buffer once, with the strongest loop there is: vectors of the widest kind, fetched ahead.
    pub fn read(&mut self) {
        let start = Instant::now();
        // A page and a half ahead is where the processor's own prefetcher, which stops at the end of a page, is not.
        const PIECE: usize = 4096;
        const AHEAD: usize = 6144;
        let mut sum = 0_u64;
        for (at, piece) in self.buffer.chunks(PIECE).enumerate() {
            let ahead = (at * PIECE + AHEAD).min(WORDS);
            let fetched = &self.buffer[ahead..(ahead + PIECE).min(WORDS)];
            sum = sum.wrapping_add(self.kernels.read(piece, fetched));
        }
        std::hint::black_box(sum);
        self.rates.push(Self::BYTES as f64 / start.elapsed().as_secs_f64());
    }

    /// The fastest read so far, in bytes per second; 0 before the first.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// The median of all reads so far, in bytes per second; 0 before the first.
    #[must_use]
    pub fn median(&self) -> f64 {
        super::numbers::median(&mut self.rates.clone())
    }
}

impl Default for MemoryReader {
    fn default() -> Self {
        Self::new()
    }
}
