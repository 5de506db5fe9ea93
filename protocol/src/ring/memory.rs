//! A ring in shared memory.

use std::ptr::NonNull;
use std::time::Duration;

use crate::ring::doorbell::{Doorbell, Patience};
use crate::ring::spsc::{Consumer, Producer, RingFault, RingIndices, RingMemory};

/// Slots start at multiples of this.
const SLOT_ALIGNMENT: usize = 128;
/// Bytes of a slot before its record: the record's length, padded so that records are aligned for their fields.
const PREFIX: usize = 16;

/// Where a ring lies in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    offset: usize,
    slots: u32,
    slot_bytes: usize,
}

impl RingLayout {
    /// A ring at `offset` whose records have up to `record_bytes` bytes; `None` if a size overflows.
    pub(crate) fn new(offset: usize, slots: u32, record_bytes: usize) -> Option<Self> {
        assert!(slots.is_power_of_two() && offset.is_multiple_of(SLOT_ALIGNMENT));
        let slot_bytes =
            record_bytes.checked_add(PREFIX)?.checked_next_multiple_of(SLOT_ALIGNMENT)?;
        offset
            .checked_add(size_of::<RingIndices>())?
            .checked_add(slot_bytes.checked_mul(slots as usize)?)?;
        Some(Self { offset, slots, slot_bytes })
    }

    pub(crate) const fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) const fn slots_offset(&self) -> usize {
        self.offset + size_of::<RingIndices>()
    }

    pub(crate) const fn slots_bytes(&self) -> usize {
        self.slot_bytes * self.slots as usize
    }

    pub(crate) const fn end(&self) -> usize {
        self.slots_offset() + self.slots_bytes()
    }
}

/// A ring in a mapped arena. A process takes one of its ends.
#[derive(Debug, Clone, Copy)]
pub struct Ring<'a> {
    indices: &'a RingIndices,
    slots: NonNull<u8>,
    count: u32,
    slot_bytes: usize,
}

// SAFETY: the slots are shared memory; the two ends hand each slot back and forth through the indices.
unsafe impl Send for Ring<'_> {}

impl<'a> Ring<'a> {
    /// Views a ring.
    ///
    /// # Safety
    /// `slots` points to `layout.slots_bytes()` bytes, aligned to [`SLOT_ALIGNMENT`] and valid for `'a`, that only ring
    /// code accesses.
    pub(crate) unsafe fn from_raw(
        indices: &'a RingIndices,
        slots: NonNull<u8>,
        layout: &RingLayout,
    ) -> Self {
        Self { indices, slots, count: layout.slots, slot_bytes: layout.slot_bytes }
    }

    /// Bytes of the longest record.
    #[must_use]
    pub const fn record_bytes(&self) -> usize {
        self.slot_bytes - PREFIX
    }

    /// Takes the sending end. One process and thread may hold it.
    #[must_use]
    pub fn producer(self) -> Sender<'a> {
        Sender { ring: Producer::new(self) }
    }

    /// Takes the receiving end. One process and thread may hold it.
    #[must_use]
    pub fn consumer(self) -> Receiver<'a> {
        let buffer = vec![0_u64; self.record_bytes().div_ceil(size_of::<u64>())];
        Receiver { ring: Consumer::new(self), buffer }
    }

    /// Rung for the receiving end.
    #[must_use]
    pub const fn bell(&self) -> &'a Doorbell {
        &self.indices.consumer_bell
    }

    fn slot(&self, slot: u32) -> NonNull<u8> {
        assert!(slot < self.count);
        // SAFETY: the slot is one of those that `from_raw` was promised.
        unsafe { self.slots.add(slot as usize * self.slot_bytes) }
    }
}

impl RingMemory for Ring<'_> {
    fn indices(&self) -> &RingIndices {
        self.indices
    }

    fn slots(&self) -> u32 {
        self.count
    }

    unsafe fn store(&self, slot: u32, parts: &[&[u8]]) -> Result<(), RingFault> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > self.record_bytes() {
            return Err(RingFault::TooLong { length, slot_bytes: self.record_bytes() });
        }
        let start = self.slot(slot);
        // SAFETY: the caller owns the slot; prefix and record fit it, as was checked.
        unsafe {
            start.cast::<u64>().write(length as u64);
            let mut target = start.add(PREFIX);
            for part in parts {
                target.copy_from_nonoverlapping(NonNull::from_ref(*part).cast(), part.len());
                target = target.add(part.len());
            }
        }
        Ok(())
    }

    unsafe fn load(&self, slot: u32, buffer: &mut [u8]) -> Result<usize, RingFault> {
        let start = self.slot(slot);
        // SAFETY: the caller owns the slot. A hostile producer may change it all the same, so the length is read once.
        let claimed = unsafe { start.cast::<u64>().read_volatile() };
        let claimed = usize::try_from(claimed).unwrap_or(usize::MAX);
        if claimed > self.record_bytes().min(buffer.len()) {
            return Err(RingFault::Length { claimed, slot_bytes: self.record_bytes() });
        }
        // SAFETY: `claimed` bytes lie inside the slot, and the buffer has room for them.
        unsafe { start.add(PREFIX).as_ptr().copy_to_nonoverlapping(buffer.as_mut_ptr(), claimed) };
        Ok(claimed)
    }
}

/// The sending end of a ring in shared memory.
#[derive(Debug)]
pub struct Sender<'a> {
    ring: Producer<Ring<'a>>,
}

impl Sender<'_> {
    /// Sends the record made of `parts`, one after the other. Waits while the ring is full; `false` if it still was when
    /// `patience` ended.
    ///
    /// # Errors
    /// [`RingFault`] if the record is too long or the peer broke the ring.
    pub fn send(&mut self, parts: &[&[u8]], patience: Patience) -> Result<bool, RingFault> {
        if self.ring.try_push(parts)? {
            return Ok(true);
        }
        let bell = &self.ring.memory().indices.producer_bell;
        bell.wait(patience, || self.ring.peek());
        self.ring.try_push(parts)
    }

    /// Wakes the receiving end if it sleeps in spite of a record that has been sent: whoever was to wake it has not come to it.
    pub fn insist(&self) {
        self.ring.memory().bell().wake();
    }
}

/// The receiving end of a ring in shared memory, with a buffer for the record at hand.
#[derive(Debug)]
pub struct Receiver<'a> {
    ring: Consumer<Ring<'a>>,
    buffer: Vec<u64>,
}

impl Receiver<'_> {
    /// Whether a record may be there. Does not wait.
    #[must_use]
    pub fn has_record(&self) -> bool {
        self.ring.peek()
    }

    /// Waits for a record and copies it out, aligned to 8 bytes; `None` if there was none when `patience` ended.
    ///
    /// # Errors
    /// [`RingFault`] if the peer broke the ring.
    pub fn receive(&mut self, patience: Patience) -> Result<Option<&[u8]>, RingFault> {
        let Self { ring, buffer } = self;
        let bytes = zerocopy::IntoBytes::as_mut_bytes(buffer.as_mut_slice());
        let mut length = ring.try_pop(bytes)?;
        if length.is_none() {
            let bell = &ring.memory().indices.consumer_bell;
            bell.wait(patience, || ring.peek());
            length = ring.try_pop(bytes)?;
        }
        Ok(length.map(|length| &bytes[..length]))
    }
}

impl Default for Patience {
    /// Spins for some tens of microseconds, then sleeps for at most 100 ms.
    fn default() -> Self {
        Self { spins: 20_000, sleep: Duration::from_millis(100) }
    }
}
