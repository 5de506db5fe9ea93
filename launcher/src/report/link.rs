//! A measured link as a table.

use std::fmt::{self, Write};

use bytesize::ByteSize;
use hindsight_gpu_worker::device::transfer::{Direction, HostMemoryKind, Queueing};

use crate::link::{LinkLimit, LinkReport, LinkRow};

/// A table for each way that transfers are asked for: a line for each size, two columns for each direction; then the limit, what
/// was left out, and what must be known to understand the numbers.
impl fmt::Display for LinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (memory, transfers) in ways(&self.rows) {
            writeln!(f, "{memory} memory, {transfers}")?;
            write!(f, "{:>10}", "size")?;
            for direction in Direction::ALL {
                write!(f, "  {:>12} us {:>7}", direction.to_string(), "GB/s")?;
            }
            writeln!(f)?;
            let of_way = |row: &&LinkRow| {
                (row.transfer.memory, row.transfer.transfers) == (memory, transfers)
            };
            let mut sizes: Vec<usize> =
                self.rows.iter().filter(of_way).map(|row| row.transfer.bytes).collect();
            sizes.dedup();
            sizes.sort_unstable();
            sizes.dedup();
            for bytes in sizes {
                let mut line = format!("{:>10}", ByteSize(bytes as u64).to_string());
                for direction in Direction::ALL {
                    let found = self.rows.iter().filter(of_way).find(|row| {
                        row.transfer.bytes == bytes && row.transfer.direction == direction
                    });
                    // Writing to a string cannot fail.
                    let _ = match found {
                        Some(LinkRow { us, gb_per_s, .. }) => {
                            write!(line, "  {us:>15.1} {gb_per_s:>7.2}")
                        }
                        None => write!(line, "  {:>15} {:>7}", "-", "-"),
                    };
                }
                writeln!(f, "{}", line.trim_end())?;
            }
            writeln!(f)?;
        }
        let LinkLimit {
            bytes,
            memory,
            to_device_gb_per_s,
            to_host_gb_per_s,
            both_gb_per_s,
            latency_us,
        } = self.limit;
        writeln!(
            f,
            "limit     {to_device_gb_per_s:.1} GB/s to the device, {to_host_gb_per_s:.1} to the host, {both_gb_per_s:.1} both at once \
             ({} of {memory} memory); the smallest copy takes {latency_us:.1} us",
            ByteSize(bytes as u64)
        )?;
        for left_out in &self.left_out {
            writeln!(f, "left out  {}: {}", left_out.what, left_out.why)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note      {note}"))
    }
}

/// Each memory and way of asking, in the order in which they were measured.
pub(super) fn ways(rows: &[LinkRow]) -> Vec<(HostMemoryKind, Queueing)> {
    let mut ways = Vec::new();
    for row in rows {
        let way = (row.transfer.memory, row.transfer.transfers);
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}
