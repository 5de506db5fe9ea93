//! `hindsight metrics`: what running instances count, for Prometheus.

use clap::Args;

use crate::error::Error;
use crate::metrics::{exposition, instances};

/// Print what running instances count, in Prometheus' text format
///
/// Every metric is explained in docs/metrics.md. Where nothing runs, only names and explanations are printed.
#[derive(Debug, Args)]
pub struct MetricsArguments {}

/// Prints the metrics.
///
/// # Errors
/// None so far.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(_: &MetricsArguments) -> Result<(), Error> {
    print!("{}", exposition(&instances()));
    Ok(())
}
