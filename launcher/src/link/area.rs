//! Memory that two processes map: a part for each of them to write, which the other reads.
//!
//! It is an arena like any run's. Its rings say who may touch which part when: a process fills its own part only on request or
//! while the other one is not reading it, and answers when it is done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hindsight_protocol::arena::{Arena, ArenaConfig, ArenaError, KvWriter};
use hindsight_protocol::ring::Ring;

/// A process's part of the area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What the indexer's core writes.
    Indexer,
    /// What the worker's core writes.
    Worker,
}

impl Part {
    /// The part of the other process.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Indexer => Self::Worker,
            Self::Worker => Self::Indexer,
        }
    }
}

/// The area, as one of the processes maps it.
#[derive(Debug)]
pub(super) struct Area {
    arena: Arena,
    writer: KvWriter,
}

impl Area {
    /// Makes an area whose parts take `bytes` each.
    pub(super) fn create(bytes: usize) -> Result<Self, ArenaError> {
        Self::of(Arena::create(ArenaConfig::of_slabs(2, bytes))?)
    }

    /// Joins an area that the other process made.
    pub(super) fn attach(file: OwnedFd) -> Result<Self, ArenaError> {
        Self::of(Arena::attach(file)?)
    }

    fn of(arena: Arena) -> Result<Self, ArenaError> {
        Ok(Self { writer: arena.writer()?, arena })
    }

    /// Requests of the worker's core.
    pub(super) fn requests(&self) -> Ring<'_> {
        self.arena.query_ring()
    }

    /// Answers of the indexer's core.
    pub(super) fn answers(&self) -> Ring<'_> {
        self.arena.selection_ring()
    }

    /// Fills the first `bytes` of a part.
    ///
    /// # Panics
    /// If the part has fewer.
    pub(super) fn fill(&mut self, part: Part, bytes: usize, value: u8) {
        let memory = self.writer.slab(part as u32);
        assert!(bytes <= memory.len(), "{bytes} bytes of {}", memory.len());
        // SAFETY: the range lies inside the slab, which the writer maps; the borrow makes this its only user here, and the
        // other process does not read the part until it is told.
        unsafe { memory.cast::<u8>().as_ptr().write_bytes(value, bytes) };
    }

    /// Copies the bytes of a part from `offset` on.
    ///
    /// # Panics
    /// If they lie beyond its end.
    pub(super) fn copy(&self, part: Part, offset: usize, into: &mut [u8]) {
        let memory = self.writer.slab(part as u32);
        assert!(offset + into.len() <= memory.len(), "{offset} and on of {}", memory.len());
        // SAFETY: the range lies inside the slab, `into` is memory of its own, and the process that fills the part does not
        // do so until it is asked again.
        unsafe {
            let from = memory.cast::<u8>().as_ptr().add(offset);
            from.copy_to_nonoverlapping(into.as_mut_ptr(), into.len());
        }
    }
}

impl AsFd for Area {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arena.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_fills_the_other_copies() {
        let mut ours = Area::create(5 << 20).unwrap();
        let mut theirs = Area::attach(ours.as_fd().try_clone_to_owned().unwrap()).unwrap();
        ours.fill(Part::Worker, 5 << 20, 7);
        theirs.fill(Part::Indexer, 4096, 9);
        let mut copy = vec![0; 4096];
        theirs.copy(Part::Worker, (5 << 20) - 4096, &mut copy);
        assert!(copy.iter().all(|&byte| byte == 7));
        ours.copy(Part::Indexer, 0, &mut copy);
        assert!(copy.iter().all(|&byte| byte == 9));
    }
}
