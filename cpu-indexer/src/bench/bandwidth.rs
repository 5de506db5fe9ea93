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
    /// Bytes per second of each read, fetched ahead and not.
    rates: [Vec<f64>; 2],
}

impl MemoryReader {
    /// Bytes of the buffer.
    pub const BYTES: usize = WORDS * size_of::<u16>();

    /// Takes the buffer's memory.
    #[must_use]
    pub fn new() -> Self {
        Self { kernels: Kernels::detect(), buffer: vec![1; WORDS], rates: [Vec::new(), Vec::new()] }
    }

    /// Reads the buffer once, with the strongest loops there are: vectors of the widest kind, one half of the buffer fetched ahead
    /// and the other not, for on some processors the one is faster and on some the other.
    pub fn read(&mut self) {
        let (first, second) = self.buffer.split_at(WORDS / 2);
        // A page and a half ahead is where the processor's own prefetcher, which stops at the end of a page, is not.
        let fetched = rate_of(self.kernels, first, 6144);
        let plain = rate_of(self.kernels, second, WORDS);
        self.rates[0].push(fetched);
        self.rates[1].push(plain);
    }

    /// The fastest read so far, in bytes per second; 0 before the first.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.rates.iter().flatten().copied().fold(0.0, f64::max)
    }

    /// The median of all reads so far of the faster kind, in bytes per second; 0 before the first.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.rates
            .iter()
            .map(|rates| super::numbers::median(&mut rates.clone()))
            .fold(0.0, f64::max)
    }
}

/// Bytes per second of reading `words`, those fetched meanwhile that lie `ahead` words further on.
fn rate_of(kernels: Kernels, words: &[u16], ahead: usize) -> f64 {
    const PIECE: usize = 4096;
    let start = Instant::now();
    let mut sum = 0_u64;
    for (at, piece) in words.chunks(PIECE).enumerate() {
        let ahead = (at * PIECE + ahead).min(words.len());
        let fetched = &words[ahead..(ahead + PIECE).min(words.len())];
        sum = sum.wrapping_add(kernels.read(piece, fetched));
    }
    std::hint::black_box(sum);
    size_of_val(words) as f64 / start.elapsed().as_secs_f64()
}

impl Default for MemoryReader {
    fn default() -> Self {
        Self::new()
    }
}
