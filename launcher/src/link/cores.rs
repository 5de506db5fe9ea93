//! Copies between the cores of two processes: what stands for the link where the CPU is the device.

use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use hindsight_cpu_indexer::placement::pin;
use hindsight_gpu_worker::device::transfer::{
    Direction, HostMemoryKind, LeftOut, MeasuredTransfers, Queueing, Transfer, TransferPlan,
    TransferTimes,
};
use hindsight_protocol::ring::{Patience, Receiver, Sender};

use super::Cores;
use super::area::{Area, Part};
use super::end::{End, Order, Span, Task};
use crate::error::{Error, Exit};
use crate::profile::microseconds;

/// How transfers between cores can be asked for.
const QUEUEING: [Queueing; 2] = [Queueing::Batched, Queueing::Blocks];

/// Times each transfer of `plan` between the cores.
///
/// # Errors
/// The cores are one, or cannot be had, or the other process fails.
pub(super) fn measure(cores: Cores, plan: &TransferPlan) -> Result<MeasuredTransfers, Error> {
    if cores.worker == cores.indexer {
        return Err(Error::new(Exit::Placement, "one_core", "two processes want two cores")
            .with_hint("a link from a core to itself says nothing"));
    }
    let mut area = Area::create(plan.most_bytes()).map_err(Error::internal)?;
    // All of it on the node of the indexer's core, as a run's keys and values.
    let other = Other::start(&area, cores.indexer)?;
    let rings = Area::attach(area.as_fd().try_clone_to_owned().map_err(Error::internal)?)
        .map_err(Error::internal)?;
    // On a thread of its own: a process that is started by a pinned thread is pinned, too.
    let times = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                pin(cores.worker)
                    .map_err(|error| Error::new(Exit::Placement, "no_such_core", error))?;
                area.fill(Part::Worker, plan.most_bytes(), 0);
                let end = End::new(area, Part::Worker, plan.most_bytes());
                let requests = rings.requests().producer();
                let answers = rings.answers().consumer();
                Link { end, requests, answers, other, turn: 0 }.measure(plan)
            })
            .join()
    });
    let times = times.map_err(|_| Error::internal("the measuring thread panicked"))??;
    let left_out = vec![
        LeftOut {
            what: "pageable, pinned and registered memory".to_owned(),
            why: "the device is the CPU, which reads any memory alike: page-locking is for a GPU's copies"
                .to_owned(),
        },
        LeftOut {
            what: "the gather kernel".to_owned(),
            why: "it runs on GPUs".to_owned(),
        },
    ];
    Ok(MeasuredTransfers { times, left_out })
}

/// The link, seen from the worker's core.
struct Link<'a> {
    end: End,
    requests: Sender<'a>,
    answers: Receiver<'a>,
    other: Other,
    /// Changes what is filled in, so that a copy that did not happen shows.
    turn: u8,
}

impl Link<'_> {
    fn measure(&mut self, plan: &TransferPlan) -> Result<Vec<TransferTimes>, Error> {
        let mut all = Vec::new();
        for &bytes in &plan.sizes {
            let queueing = if plan.limit_only { &QUEUEING[..1] } else { &QUEUEING };
            for &transfers in queueing {
                for direction in Direction::ALL {
                    let memory = HostMemoryKind::Shared;
                    let transfer = Transfer { direction, memory, transfers, bytes };
                    // To warm up.
                    self.time(transfer, plan.block_bytes)?;
                    let times = (0..plan.repeats).map(|_| self.time(transfer, plan.block_bytes));
                    all.push(TransferTimes {
                        transfer,
                        times_us: times.collect::<Result<_, _>>()?,
                    });
                }
            }
        }
        Ok(all)
    }

    /// Has what will be copied written by the core that it comes from, and times the copy, in microseconds.
    fn time(&mut self, transfer: Transfer, block_bytes: usize) -> Result<f64, Error> {
        self.turn = self.turn.wrapping_add(1);
        let Transfer { direction, transfers, bytes, .. } = transfer;
        let order = |task| Order { task, bytes, block_bytes, value: self.turn };
        let (fill, copy) = (order(Task::Fill), order(Task::Copy(transfers)));
        if direction != Direction::ToHost {
            self.ask(fill)?;
            self.answer()?;
        }
        if direction != Direction::ToDevice {
            self.end.follow(fill)?;
        }
        let Span { began, ended } = match direction {
            Direction::ToDevice => self.end.follow(copy)?,
            Direction::ToHost => {
                self.ask(copy)?;
                self.answer()?
            }
            Direction::Both => {
                self.ask(copy)?;
                let ours = self.end.follow(copy)?;
                let theirs = self.answer()?;
                Span { began: ours.began.min(theirs.began), ended: ours.ended.max(theirs.ended) }
            }
        };
        Ok(microseconds(ended.saturating_sub(began)))
    }

    fn ask(&mut self, order: Order) -> Result<(), Error> {
        let record = order.encode();
        while !self.requests.send(&[&record], Patience::default()).map_err(Error::internal)? {}
        Ok(())
    }

    fn answer(&mut self) -> Result<Span, Error> {
        loop {
            if let Some(record) =
                self.answers.receive(Patience::default()).map_err(Error::internal)?
            {
                return Span::decode(record)
                    .ok_or_else(|| Error::internal("an answer that makes no sense"));
            }
            if self.other.0.try_wait().map_err(Error::internal)?.is_some() {
                return Err(Error::internal("the process at the other end has ended"));
            }
        }
    }
}

/// The process at the indexer's core.
struct Other(Child);

impl Other {
    fn start(area: &Area, core: u32) -> Result<Self, Error> {
        let file = area.as_fd().try_clone_to_owned().map_err(Error::internal)?;
        let program = std::env::current_exe().map_err(Error::internal)?;
        let mut command = Command::new(program);
        command.args(["link-end", &core.to_string()]).stdin(Stdio::from(file));
        command.spawn().map(Self).map_err(Error::internal)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
