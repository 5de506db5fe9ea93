//! Transfers between host and device, whose speed is measured (`hindsight bench link`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From host memory to the device.
    ToDevice,
    /// From the device to host memory.
    ToHost,
    /// As many bytes each way, at once.
    Both,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ToDevice, Self::ToHost, Self::Both];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToDevice => "to device",
            Self::ToHost => "to host",
            Self::Both => "both at once",
        })
    }
}

/// What kind of host memory bytes come from or go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostMemoryKind {
    /// A memory file that two processes map. It is all there is where the CPU is the device.
    Shared,
    /// Ordinary memory, which the driver copies through memory of its own.
    Pageable,
    /// Page-locked memory that the driver gave.
    Pinned,
    /// A memory file that was page-locked afterwards, as the KV cache is.
    Registered,
}

impl fmt::Display for HostMemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Pageable => "pageable",
            Self::Pinned => "pinned",
            Self::Registered => "registered",
        })
    }
}

/// How a transfer of several blocks is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Queueing {
    /// As one copy of consecutive bytes.
    Batched,
    /// As one copy for each block; the blocks lie scattered.
    Blocks,
    /// By one kernel that fetches scattered blocks, as a step's missing blocks come.
    Gather,
}

impl fmt::Display for Queueing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Batched => "one copy",
            Self::Blocks => "block by block",
            Self::Gather => "gather kernel",
        })
    }
}

/// A transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// From or to which memory.
    pub memory: HostMemoryKind,
    /// In what way it is asked for.
    pub transfers: Queueing,
    /// Bytes in each direction.
    pub bytes: usize,
}

impl Transfer {
    /// Bytes that travel in all.
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        match self.direction {
            Direction::Both => 2 * self.bytes,
            Direction::ToDevice | Direction::ToHost => self.bytes,
        }
    }
}

/// What shall be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferPlan {
    /// Bytes of the transfers: multiples of a block's.
    pub sizes: Vec<usize>,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// How often each transfer is timed.
    pub repeats: usize,
    /// Only what shows how much the link carries at most: single copies of the memory that a run uses.
    pub limit_only: bool,
}

impl TransferPlan {
    /// The largest transfer.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        self.sizes.iter().copied().max().unwrap_or(0)
    }
}

/// How long a transfer took, time and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferTimes {
    /// The transfer.
    pub transfer: Transfer,
    /// Each time, in microseconds, from asking for it to its end.
    pub times_us: Vec<f64>,
}

/// What could not be measured, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which transfers.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MeasuredTransfers {
    /// By size, then by the way that it is asked for.
    pub times: Vec<TransferTimes>,
    /// What was not.
    pub left_out: Vec<LeftOut>,
}

/// The numbers below `count`, each once, so that none follows its neighbour where that can be avoided.
pub fn scattered(count: usize) -> impl Iterator<Item = usize> {
    // A stride that shares no factor with the count meets every number; this one leaves wide gaps.
    let stride = (count * 5 / 8..count).find(|&stride| gcd(stride, count) == 1).unwrap_or(1);
    (0..count).map(move |number| number * stride % count)
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_numbers_are_all_there_and_not_in_a_row() {
        for count in [1, 2, 3, 16, 17, 240, 1024] {
            let numbers: Vec<_> = scattered(count).collect();
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            let neighbours = numbers.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
            assert!(count < 16 || neighbours == 0, "{count}: {numbers:?}");
        }
    }

    #[test]
    fn both_directions_move_twice_the_bytes() {
        let transfer = |direction| Transfer {
            direction,
            memory: HostMemoryKind::Pinned,
            transfers: Queueing::Batched,
            bytes: 100,
        };
        let total = Direction::ALL.map(|direction| transfer(direction).total_bytes());
        assert_eq!(total, [100, 100, 200]);
    }
}
