//! The queue's algorithm, apart from where its memory comes from.
//!
//! Indices count records since the start and wrap at 2³²; a slot is `index % slots`, with a power of two of slots. Each
//! side keeps its own index to itself and a copy of the other's, which it refreshes only when the copy says "full" or
//! "empty", so that the shared lines move between cores as rarely as possible. The other side's index comes from
//! another process and is checked each time it is read.

use crate::ring::doorbell::Doorbell;
use crate::sync::{AtomicU32, Ordering};

/// The shared words of a ring.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RingIndices {
    write: Padded,
    read: Padded,
    /// Rung by the producer for a consumer that waits for records.
    pub(crate) consumer_bell: Doorbell,
    /// Rung by the consumer for a producer that waits for room.
    pub(crate) producer_bell: Doorbell,
}

/// An index on a pair of cache lines of its own: processors fetch lines in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
struct Padded(AtomicU32);

#[cfg(any(test, loom))]
impl RingIndices {
    fn new() -> Self {
        Self {
            write: Padded(AtomicU32::new(0)),
            read: Padded(AtomicU32::new(0)),
            consumer_bell: Doorbell::new(),
            producer_bell: Doorbell::new(),
        }
    }
}

/// The peer broke the ring's rules; the ring is unusable from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The peer's index is further away than the ring is long.
    #[error("a peer claims {claimed} records in a ring of {slots} slots")]
    Index {
        /// Records between the two indices.
        claimed: u32,
        /// Slots of the ring.
        slots: u32,
    },
    /// A record is longer than a slot.
    #[error("a peer's record is {claimed} bytes long, in a slot of {slot_bytes}")]
    Length {
        /// Length that the record states.
        claimed: usize,
        /// Bytes of a slot.
        slot_bytes: usize,
    },
    /// A record that is too long to send.
    #[error("a record of {length} bytes does not fit a slot of {slot_bytes}")]
    TooLong {
        /// Length of the record.
        length: usize,
        /// Bytes of a slot.
        slot_bytes: usize,
    },
}

/// Where a ring's indices and slots are.
pub(crate) trait RingMemory {
    /// The shared words.
    fn indices(&self) -> &RingIndices;
    /// Slots; a power of two.
    fn slots(&self) -> u32;
    /// Copies `record` into a slot.
    ///
    /// # Safety
    /// The caller is the producer, and the consumer has handed the slot back.
    unsafe fn store(&self, slot: u32, record: &[&[u8]]) -> Result<(), RingFault>;
    /// Copies a slot's record into `buffer` and returns its length.
    ///
    /// # Safety
    /// The caller is the consumer, and the producer has handed the slot over.
    unsafe fn load(&self, slot: u32, buffer: &mut [u8]) -> Result<usize, RingFault>;
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Producer<M> {
    memory: M,
    write: u32,
    read_seen: u32,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Consumer<M> {
    memory: M,
    read: u32,
    write_seen: u32,
}

impl<M: RingMemory> Producer<M> {
    /// Becomes the producer, where a former one left off. There must be no other.
    pub(crate) fn new(memory: M) -> Self {
        let write = memory.indices().write.0.load(Ordering::Relaxed);
        let read_seen = memory.indices().read.0.load(Ordering::Acquire);
        Self { memory, write, read_seen }
    }

    /// Whether a slot is free.
    fn has_room(&mut self) -> Result<bool, RingFault> {
        let slots = self.memory.slots();
        if self.write.wrapping_sub(self.read_seen) == slots {
            // SYNC POINT with the release store in `try_pop`: the consumer is done with the slot.
            self.read_seen = self.memory.indices().read.0.load(Ordering::Acquire);
        }
        match self.write.wrapping_sub(self.read_seen) {
            claimed if claimed > slots => Err(RingFault::Index { claimed, slots }),
            claimed => Ok(claimed < slots),
        }
    }

    /// Appends a record made of `parts` one after the other; `false` if the ring is full.
    ///
    /// # Errors
    /// [`RingFault::TooLong`], or [`RingFault::Index`] if the peer's index is impossible.
    pub(crate) fn try_push(&mut self, parts: &[&[u8]]) -> Result<bool, RingFault> {
        if !self.has_room()? {
            return Ok(false);
        }
        let slot = self.write % self.memory.slots();
        // SAFETY: there is one producer, and `has_room` saw that the consumer is done with this slot.
        unsafe { self.memory.store(slot, parts)? };
        self.write = self.write.wrapping_add(1);
        // SYNC POINT with the acquire load in `try_pop`: the record is written before it is announced.
        self.memory.indices().write.0.store(self.write, Ordering::Release);
        self.memory.indices().consumer_bell.ring();
        Ok(true)
    }

    pub(crate) const fn memory(&self) -> &M {
        &self.memory
    }
}

impl<M: RingMemory> Consumer<M> {
    /// Becomes the consumer, where a former one left off. There must be no other.
    pub(crate) fn new(memory: M) -> Self {
        let read = memory.indices().read.0.load(Ordering::Relaxed);
        let write_seen = memory.indices().write.0.load(Ordering::Acquire);
        Self { memory, read, write_seen }
    }

    fn has_record(&mut self) -> Result<bool, RingFault> {
        if self.read == self.write_seen {
            // SYNC POINT with the release store in `try_push`: the record is complete.
            self.write_seen = self.memory.indices().write.0.load(Ordering::Acquire);
        }
        let slots = self.memory.slots();
        match self.write_seen.wrapping_sub(self.read) {
            claimed if claimed > slots => Err(RingFault::Index { claimed, slots }),
            claimed => Ok(claimed > 0),
        }
    }

    /// Takes the oldest record into `buffer` and returns its length; `None` if the ring is empty.
    ///
    /// The record is copied before anything in it is looked at: its writer may be hostile.
    ///
    /// # Errors
    /// [`RingFault`] if the peer's index or the record's length is impossible.
    pub(crate) fn try_pop(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, RingFault> {
        if !self.has_record()? {
            return Ok(None);
        }
        let slot = self.read % self.memory.slots();
        // SAFETY: there is one consumer, and `has_record` saw that the producer has handed the slot over.
        let length = unsafe { self.memory.load(slot, buffer)? };
        self.read = self.read.wrapping_add(1);
        // SYNC POINT with the acquire load in `has_room`: the record has been read before its slot is handed back.
        self.memory.indices().read.0.store(self.read, Ordering::Release);
        self.memory.indices().producer_bell.ring();
        Ok(Some(length))
    }

    pub(crate) const fn memory(&self) -> &M {
        &self.memory
    }

    /// Whether a record may be there, for a waiter that does not take it yet.
    pub(crate) fn peek(&self) -> bool {
        self.memory.indices().write.0.load(Ordering::Acquire) != self.read
    }
}

impl<M: RingMemory> Producer<M> {
    /// Whether a slot may be free, for a waiter that does not use it yet.
    pub(crate) fn peek(&self) -> bool {
        let read = self.memory.indices().read.0.load(Ordering::Acquire);
        self.write.wrapping_sub(read) != self.memory.slots()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 4;

    #[derive(Debug)]
    struct Heap {
        indices: RingIndices,
        slots: RefCell<Vec<Vec<u8>>>,
    }

    impl RingMemory for Rc<Heap> {
        fn indices(&self) -> &RingIndices {
            &self.indices
        }
        fn slots(&self) -> u32 {
            SLOTS
        }
        unsafe fn store(&self, slot: u32, record: &[&[u8]]) -> Result<(), RingFault> {
            self.slots.borrow_mut()[slot as usize] = record.concat();
            Ok(())
        }
        unsafe fn load(&self, slot: u32, buffer: &mut [u8]) -> Result<usize, RingFault> {
            let record = &self.slots.borrow()[slot as usize];
            buffer[..record.len()].copy_from_slice(record);
            Ok(record.len())
        }
    }

    fn heap() -> Rc<Heap> {
        Rc::new(Heap {
            indices: RingIndices::new(),
            slots: RefCell::new(vec![vec![]; SLOTS as usize]),
        })
    }

    proptest! {
        /// Whatever the order of pushes and pops, and wherever the indices start (so that they wrap), records come out
        /// as a queue would give them.
        #[test]
        fn it_is_a_bounded_queue(start in any::<u32>(), pushes in prop::collection::vec(any::<bool>(), 1..200)) {
            let memory = heap();
            memory.indices.write.0.store(start, Ordering::Relaxed);
            memory.indices.read.0.store(start, Ordering::Relaxed);
            let (mut producer, mut consumer) = (Producer::new(memory.clone()), Consumer::new(memory));
            let mut model = VecDeque::new();
            let mut buffer = [0; 16];
            for (number, push) in pushes.into_iter().enumerate() {
                if push {
                    let record = number.to_le_bytes();
                    let pushed = producer.try_push(&[&record[..3], &record[3..]]).unwrap();
                    prop_assert_eq!(pushed, model.len() < SLOTS as usize);
                    if pushed {
                        model.push_back(record);
                    }
                } else {
                    let length = consumer.try_pop(&mut buffer).unwrap();
                    let expected = model.pop_front();
                    prop_assert_eq!(length.map(|length| &buffer[..length]), expected.as_ref().map(|r| &r[..]));
                }
            }
        }

        /// An index that no honest peer can have written is a fault, never an access.
        #[test]
        fn a_peers_impossible_index_is_a_fault(write in any::<u32>(), read in any::<u32>()) {
            let memory = heap();
            let (mut producer, mut consumer) = (Producer::new(memory.clone()), Consumer::new(memory.clone()));
            memory.indices.write.0.store(write, Ordering::Relaxed);
            let popped = consumer.try_pop(&mut [0; 16]);
            prop_assert_eq!(popped.is_err(), write > SLOTS);
            memory.indices.read.0.store(read, Ordering::Relaxed);
            for _ in 0..SLOTS {
                let _ = producer.try_push(&[b"x"]);
            }
            let pushed = producer.try_push(&[b"x"]);
            prop_assert_eq!(pushed.is_err(), read > SLOTS);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    use super::*;
    use crate::ring::doorbell::Patience;

    /// Few slots, so that the ring fills and wraps within a model.
    const SLOTS: u32 = 2;

    struct Model {
        indices: RingIndices,
        slots: [UnsafeCell<u8>; SLOTS as usize],
    }

    impl RingMemory for Arc<Model> {
        fn indices(&self) -> &RingIndices {
            &self.indices
        }
        fn slots(&self) -> u32 {
            SLOTS
        }
        unsafe fn store(&self, slot: u32, record: &[&[u8]]) -> Result<(), RingFault> {
            // SAFETY: the ring gives the producer this slot alone; loom checks it.
            self.slots[slot as usize].with_mut(|cell| unsafe { *cell = record[0][0] });
            Ok(())
        }
        unsafe fn load(&self, slot: u32, buffer: &mut [u8]) -> Result<usize, RingFault> {
            // SAFETY: the ring gives the consumer this slot alone; loom checks it.
            buffer[0] = self.slots[slot as usize].with(|cell| unsafe { *cell });
            Ok(1)
        }
    }

    fn model() -> Arc<Model> {
        Arc::new(Model {
            indices: RingIndices::new(),
            slots: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    const PATIENCE: Patience = Patience { spins: 0, sleep: std::time::Duration::MAX };

    /// Records arrive in order, no slot is read and written at once, and nobody sleeps for ever: the producer fills
    /// the ring and waits for room, the consumer waits for records.
    #[test]
    fn records_arrive_in_order_and_nobody_sleeps_for_ever() {
        const RECORDS: u8 = 3;
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let memory = model();
            let mut producer = Producer::new(Arc::clone(&memory));
            let mut consumer = Consumer::new(memory);
            let sender = loom::thread::spawn(move || {
                for record in 1..=RECORDS {
                    while !producer.try_push(&[&[record]]).unwrap() {
                        let bell = &producer.memory().indices().producer_bell;
                        bell.wait(PATIENCE, || producer.peek());
                    }
                }
            });
            let mut buffer = [0];
            for expected in 1..=RECORDS {
                while consumer.try_pop(&mut buffer).unwrap().is_none() {
                    let bell = &consumer.memory().indices().consumer_bell;
                    bell.wait(PATIENCE, || consumer.peek());
                }
                assert_eq!(buffer[0], expected);
            }
            sender.join().unwrap();
        });
    }
}
