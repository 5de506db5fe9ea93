//! One end of the link between two cores: it fills what the other end copies, and copies what that one has filled.

use std::os::fd::{AsFd, OwnedFd};

use clap::Args;
use hindsight_cpu_indexer::placement::pin;
use hindsight_gpu_worker::device::transfer::{Queueing, scattered};
use hindsight_protocol::profile::now;
use hindsight_protocol::ring::Patience;
use rustix::process::getppid;

use super::area::{Area, Part};
use crate::error::{Error, Exit};

/// What an end is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) task: Task,
    pub(super) bytes: usize,
    pub(super) block_bytes: usize,
    /// What every byte holds.
    pub(super) value: u8,
}

/// The kinds of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Fill,
    Copy(Queueing),
}

/// Bytes of an order.
const ORDER: usize = 32;

impl Order {
    pub(super) fn encode(self) -> [u8; ORDER] {
        let task: u64 = match self.task {
            Task::Fill => 0,
            Task::Copy(Queueing::Batched) => 1,
            Task::Copy(_) => 2,
        };
        let mut record = [0; ORDER];
        let words = [task, self.bytes as u64, self.block_bytes as u64, self.value.into()];
        for (target, word) in record.chunks_exact_mut(8).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        record
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let word = |number: usize| {
            let bytes = record.get(8 * number..8 * number + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let task = match word(0)? {
            0 => Task::Fill,
            1 => Task::Copy(Queueing::Batched),
            2 => Task::Copy(Queueing::Blocks),
            _ => return None,
        };
        Some(Self {
            task,
            bytes: word(1)?.try_into().ok()?,
            block_bytes: word(2)?.try_into().ok()?,
            value: word(3)?.try_into().ok()?,
        })
    }
}

/// When an order was followed, in nanoseconds of the clock that all processes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) began: u64,
    pub(super) ended: u64,
}

impl Span {
    fn since(began: u64) -> Self {
        Self { began, ended: now() }
    }

    fn encode(self) -> [u8; 16] {
        (u128::from(self.ended) << 64 | u128::from(self.began)).to_le_bytes()
    }

    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let both = u128::from_le_bytes(record.try_into().ok()?);
        Some(Self { began: (both & u128::from(u64::MAX)) as u64, ended: (both >> 64) as u64 })
    }
}

/// An end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) area: Area,
    own: Part,
    copied: Vec<u8>,
}

impl End {
    /// An end that writes the part `own`, and copies up to `bytes` of the other.
    pub(super) fn new(area: Area, own: Part, bytes: usize) -> Self {
        // Not zero: memory that is only promised would be taken while the first copy is timed.
        Self { area, own, copied: vec![0xff; bytes] }
    }

    /// Does what it is asked, and says when.
    ///
    /// # Errors
    /// What was copied is not what had been filled in.
    pub(super) fn follow(&mut self, order: Order) -> Result<Span, Error> {
        let Order { task, bytes, block_bytes, value } = order;
        if self.copied.len() < bytes {
            self.copied.resize(bytes, 0xff);
        }
        let copied = &mut self.copied[..bytes];
        let began = now();
        match task {
            Task::Fill => {
                self.area.fill(self.own, bytes, value);
                return Ok(Span::since(began));
            }
            Task::Copy(Queueing::Batched) => self.area.copy(self.own.other(), 0, copied),
            Task::Copy(_) => {
                let blocks = copied.chunks_exact_mut(block_bytes);
                let count = blocks.len();
                for (block, from) in blocks.zip(scattered(count)) {
                    self.area.copy(self.own.other(), from * block_bytes, block);
                }
            }
        }
        let span = Span::since(began);
        let right = copied.iter().step_by(64).chain(copied.last()).all(|&byte| byte == value);
        if right { Ok(span) } else { Err(Error::internal("a copy holds something else")) }
    }
}

/// What the process at the indexer's core is told; the area is its standard input.
#[derive(Debug, Args)]
pub struct LinkEndArguments {
    /// The core to run on.
    core: u32,
}

/// Follows orders until the process that gives them is gone.
///
/// # Errors
/// The core cannot be had, or standard input is no such area.
pub fn run(arguments: &LinkEndArguments) -> Result<(), Error> {
    pin(arguments.core).map_err(|error| Error::new(Exit::Placement, "no_such_core", error))?;
    let parent = getppid();
    let open = || -> Result<Area, Error> {
        let file: OwnedFd =
            std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::internal)?;
        Area::attach(file).map_err(Error::internal)
    };
    // Apart from that whose memory is copied, so that its rings can be waited for meanwhile.
    let rings = open()?;
    let mut end = End::new(open()?, Part::Indexer, 0);
    let mut requests = rings.requests().consumer();
    let mut answers = rings.answers().producer();
    let patience = Patience::default();
    loop {
        match requests.receive(patience).map_err(Error::internal)? {
            Some(record) => {
                let order = Order::decode(record)
                    .ok_or_else(|| Error::internal("an order that makes no sense"))?;
                let answer = end.follow(order)?.encode();
                while !answers.send(&[&answer], patience).map_err(Error::internal)? {}
            }
            None if getppid() != parent => return Ok(()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_its_way() {
        for task in [Task::Fill, Task::Copy(Queueing::Batched), Task::Copy(Queueing::Blocks)] {
            let order = Order { task, bytes: 64 << 20, block_bytes: 4096, value: 0xa5 };
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        assert_eq!(Order::decode(&[9; ORDER]), None);
        assert_eq!(Order::decode(&[0; 5]), None);
        let span = Span { began: 3, ended: u64::MAX };
        assert_eq!(Span::decode(&span.encode()), Some(span));
    }

    #[test]
    fn a_copy_that_holds_something_else_is_noticed() {
        let area = Area::create(1 << 20).unwrap();
        let peer = Area::attach(area.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut worker = End::new(area, Part::Worker, 1 << 20);
        let mut indexer = End::new(peer, Part::Indexer, 0);
        let order = |task, value| Order { task, bytes: 1 << 20, block_bytes: 4096, value };
        indexer.follow(order(Task::Fill, 3)).unwrap();
        for queueing in [Queueing::Batched, Queueing::Blocks] {
            worker.follow(order(Task::Copy(queueing), 3)).unwrap();
            worker.follow(order(Task::Copy(queueing), 4)).unwrap_err();
        }
    }
}
