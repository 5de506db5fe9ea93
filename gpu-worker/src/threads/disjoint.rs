//! One slice written by several tasks, each in parts of its own.

use std::marker::PhantomData;
use std::ops::Range;

use super::Parallel;

/// A mutable slice from which tasks borrow disjoint parts.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    length: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `part`, whose callers promise disjoint ranges, so sharing is handing `&mut [T]` to several
// threads, which `T: Send` allows.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), borrowed: PhantomData }
    }

    /// The elements in `range`.
    ///
    /// # Safety
    ///
    /// No two parts that overlap may be alive at the same time.
    ///
    /// # Panics
    ///
    /// If `range` is not within the slice.
    #[expect(clippy::mut_from_ref, reason = "the caller promises disjoint parts")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part outside of its slice");
        // SAFETY: the range is within the slice that `new` borrowed mutably for 'a, and by this function's contract
        // nothing else refers to these elements.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Calls `task` with the index and the elements of each chunk of `chunk` elements (the last may be shorter).
pub(crate) fn for_each_chunk<T: Send>(
    slice: &mut [T],
    chunk: usize,
    threads: &dyn Parallel,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    let length = slice.len();
    let shared = Disjoint::new(slice);
    threads.run(length.div_ceil(chunk), &|index| {
        let start = index * chunk;
        // SAFETY: every index is run once, and chunks of different indices do not overlap.
        task(index, unsafe { shared.part(start..length.min(start + chunk)) });
    });
}
