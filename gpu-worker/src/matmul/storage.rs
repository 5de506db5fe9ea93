//! Memory for weights, on huge pages where the system grants them.
//!
//! A decode step reads every weight once, in order, and with 4 KiB pages the page walks cost a third of the memory
//! bandwidth. A single matrix is often smaller than a huge page, so matrices share regions.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A huge page.
const PAGE: usize = 2 << 20;
/// Bytes of a region. Only what matrices take of it becomes resident.
const REGION: usize = 64 << 20;
/// Pieces begin on a cache line.
const LINE: usize = 64;

/// The region that the next small matrix goes to, and how much of it is taken.
static OPEN: Mutex<(Weak<Region>, usize)> = Mutex::new((Weak::new(), 0));

/// Memory that several matrices lie in.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a region is plain memory, freed by whoever drops it last.
unsafe impl Send for Region {}
// SAFETY: its bytes are reached only through `Storage`s, which have disjoint ranges of it.
unsafe impl Sync for Region {}

impl Region {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(REGION).next_multiple_of(PAGE), PAGE)
            .expect("weights fit into the address space");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        #[cfg(target_os = "linux")]
        {
            use rustix::mm::{Advice, madvise};
            // SAFETY: the range was just allocated, and this advice does not change its contents.
            let advised =
                unsafe { madvise(start.as_ptr().cast(), layout.size(), Advice::LinuxHugepage) };
            if let Err(error) = advised {
                tracing::warn!(%error, "weights are not on huge pages: decoding will be slower");
            }
        }
        Self { start, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `start` was allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Bytes of a matrix.
pub(super) struct Storage {
    region: Arc<Region>,
    range: Range<usize>,
}

impl Storage {
    /// `bytes` zero bytes that begin on a cache line.
    pub(super) fn zeroed(bytes: usize) -> Self {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (region, taken) = &mut *open;
        let fits = |region: &Arc<Region>| bytes <= region.layout.size() - *taken;
        let region = region.upgrade().filter(fits).unwrap_or_else(|| {
            let new = Arc::new(Region::new(bytes));
            (*region, *taken) = (Arc::downgrade(&new), 0);
            new
        });
        let range = *taken..*taken + bytes;
        *taken = range.end.next_multiple_of(LINE);
        drop(open);
        // SAFETY: the range lies in the region, and as `taken` only grows, no other storage has any of it.
        unsafe { region.start.add(range.start).write_bytes(0, bytes) };
        Self { region, range }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in the region, which lives as long as `self`; it was set by `zeroed`, and is this
        // storage's alone, so whoever could write it would need `&mut self`.
        unsafe {
            std::slice::from_raw_parts(
                self.region.start.add(self.range.start).as_ptr(),
                self.range.len(),
            )
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` makes this the only reference.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.region.start.add(self.range.start).as_ptr(),
                self.range.len(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_zeroed_aligned_and_apart() {
        let mut storages: Vec<Storage> =
            [1, 64, 1000, REGION + 1, 0, 3 * PAGE].map(Storage::zeroed).into();
        for (value, storage) in (1..).zip(&mut storages) {
            assert!(storage.bytes().iter().all(|&byte| byte == 0));
            assert!(storage.bytes().as_ptr().addr().is_multiple_of(LINE));
            storage.bytes_mut().fill(value);
        }
        for (value, storage) in (1..).zip(&storages) {
            assert!(storage.bytes().iter().all(|&byte| byte == value));
        }
    }
}
