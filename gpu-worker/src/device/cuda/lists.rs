//! Lists of blocks on their way to the kernels: written on the host, copied in one piece, used from there.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::error::{CudaError, mark, reach};
use super::memory::{DeviceBuffer, PinnedBuffer, copy_to_device};

/// Sets of lists that may be under way at a time.
const SETS: usize = 4;

/// Room for some sets of lists, used in turn.
#[derive(Debug)]
pub(super) struct Lists {
    pinned: PinnedBuffer<u32>,
    device: DeviceBuffer<u32>,
    /// Words of a set.
    room: usize,
    turn: usize,
    used: usize,
    /// When the kernels have done with each set.
    done: [Option<CudaEvent>; SETS],
    /// Bytes sent in all.
    sent: u64,
}

impl Lists {
    /// Room for `words` 32-bit words in a set.
    pub(super) fn new(context: &Arc<CudaContext>, words: usize) -> Result<Self, CudaError> {
        let room = words.next_multiple_of(4);
        Ok(Self {
            pinned: PinnedBuffer::new(context, SETS * room)?,
            device: DeviceBuffer::new(context, SETS * room)?,
            room,
            turn: 0,
            used: 0,
            done: [const { None }; SETS],
            sent: 0,
        })
    }

    /// Begins the next set, once the kernels have done with what it held before.
    pub(super) fn begin(&mut self) -> Result<(), CudaError> {
        self.turn = (self.turn + 1) % SETS;
        self.used = 0;
        match self.done[self.turn].take() {
            Some(event) => reach(&event),
            None => Ok(()),
        }
    }

    /// Adds a list of numbers; returns where the kernels will find it.
    ///
    /// # Panics
    /// If the set is full.
    pub(super) fn add(&mut self, words: impl IntoIterator<Item = u32>) -> CUdeviceptr {
        let begin = self.turn * self.room + self.used;
        let room = &mut self.pinned.as_mut_slice()[begin..][..self.room - self.used];
        let mut room = room.iter_mut();
        for word in words {
            *room.next().expect("a set has room for the longest lists") = word;
            self.used += 1;
        }
        self.device.at(begin)
    }

    /// Adds a list of addresses.
    ///
    /// # Panics
    /// If the set is full.
    pub(super) fn add_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = CUdeviceptr>,
    ) -> CUdeviceptr {
        self.used = self.used.next_multiple_of(2);
        self.add(addresses.into_iter().flat_map(halves))
    }

    /// Queues the set's copy.
    pub(super) fn send(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        let begin = self.turn * self.room;
        let source = &self.pinned.as_slice()[begin..][..self.used];
        self.sent += size_of_val(source) as u64;
        // SAFETY: the set is not written before the event that `end` records has come, which is after the copy; the room on
        // the GPU is as large.
        unsafe { copy_to_device(stream, source, self.device.at(begin)) }
    }

    /// States that everything queued on `stream` so far is all that uses the set.
    pub(super) fn end(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        self.done[self.turn] = Some(mark(stream)?);
        Ok(())
    }

    /// Bytes sent since this was asked last.
    pub(super) fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent)
    }
}

/// The words of an address as the GPU reads it: the low one first.
#[expect(clippy::cast_possible_truncation, reason = "each half is 32 bits")]
fn halves(address: CUdeviceptr) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}
