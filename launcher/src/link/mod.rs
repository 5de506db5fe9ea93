//! How fast the link between host and device is: measured, by size and by the way that transfers are asked for.

mod area;
mod cores;
pub mod end;
pub mod gpu;

use hindsight_gpu_worker::device::probe::MOCK_DEVICE;
use hindsight_gpu_worker::device::transfer::{
    Direction, HostMemoryKind, LeftOut, Queueing, Transfer, TransferPlan, TransferTimes,
};
use serde::Serialize;

use crate::error::Error;
use crate::plan::{ChosenDevice, MeasuredOn};
use crate::report::spread::Spread;
use crate::topology::Choice;

/// The cores that stand for the link's ends where the CPU is the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cores {
    /// The first of the worker's: it stands for the device.
    pub worker: u32,
    /// The indexer's: it stands for the host.
    pub indexer: u32,
}

/// A link, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkReport {
    /// The device.
    #[serde(flatten)]
    pub measured_on: MeasuredOn,
    /// What the device calls itself.
    pub name: String,
    /// What stands for the link where the CPU is the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<Cores>,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// How often each transfer was timed.
    pub repeats: usize,
    /// The transfers.
    pub rows: Vec<LinkRow>,
    /// What the link carries at most.
    pub limit: LinkLimit,
    /// What was not measured, and why.
    pub left_out: Vec<LeftOut>,
    /// What must be known to understand the numbers.
    pub notes: Vec<String>,
}

impl LinkReport {
    /// What was measured, in a few words.
    #[must_use]
    pub fn title(&self) -> String {
        match (&self.cores, &self.measured_on.modelled_link) {
            (Some(Cores { worker, indexer }), _) => {
                format!("memory copies between the cores {worker} and {indexer}")
            }
            (None, Some(link)) => format!("the link of {}, modelled ({link})", self.name),
            (None, None) => format!("the link of {}", self.name),
        }
    }
}

/// One transfer's times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LinkRow {
    /// The transfer; `bytes` are those of each direction.
    #[serde(flatten)]
    pub transfer: Transfer,
    /// Median over the repeats, in microseconds.
    pub us: f64,
    /// The shortest.
    pub us_min: f64,
    /// The longest.
    pub us_max: f64,
    /// Bandwidth at the median, both directions together, in 10^9 bytes per second.
    pub gb_per_s: f64,
}

impl LinkRow {
    #[expect(clippy::cast_precision_loss, reason = "bytes become rates of a few digits")]
    fn new(TransferTimes { transfer, times_us }: &TransferTimes) -> Self {
        let Spread { median, least, most } = Spread::of(times_us);
        let gb_per_s = transfer.total_bytes() as f64 / median / 1e3;
        Self { transfer: *transfer, us: median, us_min: least, us_max: most, gb_per_s }
    }
}

/// What a link carries at most, as one copy of the largest size measured, in 10^9 bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LinkLimit {
    /// Bytes of the copy.
    pub bytes: usize,
    /// The memory that it came from or went to: the fastest that a run uses.
    pub memory: HostMemoryKind,
    /// To the device alone.
    pub to_device_gb_per_s: f64,
    /// To the host alone.
    pub to_host_gb_per_s: f64,
    /// Both at once, together.
    pub both_gb_per_s: f64,
    /// The smallest copy to the device that was measured, in microseconds: latency more than bandwidth.
    pub latency_us: f64,
}

impl LinkLimit {
    /// The limit that the transfers show: of registered memory where there is any, as that is what a run uses.
    fn of(rows: &[LinkRow]) -> Option<Self> {
        let memory = [HostMemoryKind::Registered, HostMemoryKind::Pinned, HostMemoryKind::Shared]
            .into_iter()
            .find(|&memory| rows.iter().any(|row| row.transfer.memory == memory))?;
        let copies = |direction| {
            rows.iter().filter(move |row| {
                let Transfer { direction: of, memory: kind, transfers, .. } = row.transfer;
                of == direction && kind == memory && transfers == Queueing::Batched
            })
        };
        let largest = |direction| {
            copies(direction).max_by_key(|row| row.transfer.bytes).map(|row| row.gb_per_s)
        };
        let to_device = || copies(Direction::ToDevice);
        Some(Self {
            bytes: to_device().map(|row| row.transfer.bytes).max()?,
            memory,
            to_device_gb_per_s: largest(Direction::ToDevice)?,
            to_host_gb_per_s: largest(Direction::ToHost)?,
            both_gb_per_s: largest(Direction::Both)?,
            latency_us: to_device().min_by_key(|row| row.transfer.bytes)?.us,
        })
    }
}

/// Measures the link of `device`; on the CPU, copies between the cores that `placement` gives to worker and indexer.
///
/// # Errors
/// There are no two cores, or a process fails.
pub fn measure(
    device: &ChosenDevice,
    mock_link: Option<&str>,
    placement: &Choice,
    plan: &TransferPlan,
) -> Result<LinkReport, Error> {
    let indexer = placement.indexer_core.value;
    let worker = placement.worker_cpus.value.as_slice().first().copied().unwrap_or(indexer);
    let cores = (!device.used.is_cuda()).then_some(Cores { worker, indexer });
    let measured = match cores {
        Some(cores) => cores::measure(cores, plan)?,
        None => gpu::measure(device.used, mock_link, plan)?,
    };
    let rows: Vec<LinkRow> = measured.times.iter().map(LinkRow::new).collect();
    let limit = LinkLimit::of(&rows).ok_or_else(|| Error::internal("nothing was measured"))?;
    let measured_on =
        MeasuredOn { device: device.used, modelled_link: mock_link.map(str::to_owned) };
    let mut notes: Vec<String> = measured_on.note().into_iter().collect();
    if device.name == MOCK_DEVICE && mock_link.is_none() {
        notes.push("the mock driver models no link: these are times of its emulation".to_owned());
    }
    if let Some(Cores { worker, indexer }) = cores {
        notes.push(format!(
            "there is no link: these are copies by the cores {worker} (device) and {indexer} (host) of what the other has written"
        ));
    }
    Ok(LinkReport {
        measured_on,
        name: device.name.clone(),
        cores,
        block_bytes: plan.block_bytes,
        repeats: plan.repeats,
        rows,
        limit,
        left_out: measured.left_out,
        notes,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A copy of `bytes` that took `us`.
    pub(crate) fn row(
        direction: Direction,
        memory: HostMemoryKind,
        bytes: usize,
        us: f64,
    ) -> LinkRow {
        let transfer = Transfer { direction, memory, transfers: Queueing::Batched, bytes };
        LinkRow::new(&TransferTimes { transfer, times_us: vec![us] })
    }

    #[test]
    fn a_row_has_the_bandwidth_of_the_median() {
        let transfer = Transfer {
            direction: Direction::Both,
            memory: HostMemoryKind::Pinned,
            transfers: Queueing::Blocks,
            bytes: 1_000_000,
        };
        let row = LinkRow::new(&TransferTimes { transfer, times_us: vec![90.0, 100.0, 500.0] });
        assert_eq!((row.us, row.us_min, row.us_max), (100.0, 90.0, 500.0));
        assert!((row.gb_per_s - 20.0).abs() < 1e-9, "two megabytes in 100 microseconds");
    }

    #[test]
    fn the_limit_is_that_of_the_memory_that_runs_use_at_its_largest() {
        let rows: Vec<LinkRow> = Direction::ALL
            .into_iter()
            .flat_map(|direction| {
                [
                    row(direction, HostMemoryKind::Pageable, 1 << 20, 1.0),
                    row(direction, HostMemoryKind::Registered, 4096, 5.0),
                    row(direction, HostMemoryKind::Registered, 1_000_000, 50.0),
                ]
            })
            .collect();
        let limit = LinkLimit::of(&rows).unwrap();
        assert_eq!((limit.bytes, limit.memory), (1_000_000, HostMemoryKind::Registered));
        assert!((limit.to_device_gb_per_s - 20.0).abs() < 1e-9);
        assert!((limit.both_gb_per_s - 40.0).abs() < 1e-9);
        assert_eq!(limit.latency_us, 5.0);
        assert_eq!(LinkLimit::of(&[]), None);
    }
}
