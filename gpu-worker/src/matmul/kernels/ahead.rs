//! Asking for weights before they are needed.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

/// Bytes between the weights that are multiplied and those that are fetched meanwhile. The processor's own prefetcher stops
/// at each page of 4 KiB, also within huge ones.
const DISTANCE: usize = 16 << 10;
const LINE: usize = 64;

/// Fetches as many bytes as `block` has, [`DISTANCE`] after it: of the same matrix, or of the one that lies behind it, which is
/// the next to be read in most cases.
#[inline(always)]
pub(super) fn fetch_behind(block: &[u8]) {
    let start = block.as_ptr().wrapping_add(DISTANCE);
    for line in (0..block.len()).step_by(LINE) {
        // SAFETY: fetching neither reads nor writes as far as the program can tell, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line).cast()) };
    }
}
