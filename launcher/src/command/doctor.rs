//! `hindsight doctor`: what of this machine slows Hindsight down or stops it.

use clap::Args;
use hindsight_gpu_worker::device::probe::probe;
use hindsight_protocol::device::Device;

use super::topology::RootArguments;
use crate::doctor::{ConformanceReport, examine};
use crate::error::{Error, Exit};
use crate::plan::device_unavailable;
use crate::report::progress::RunProgress;

/// Find what slows Hindsight down or stops it on this machine, and say how to mend it
///
/// Ends with exit code 0 if there is nothing to mend, 10 if Hindsight could do better, 11 if runs will fail. With --gpu, the
/// device computes random texts of several shapes, which are compared with attention in double precision; then 11 says
/// that some were wrong. That report belongs into a bug report.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Which machine.
    #[command(flatten)]
    machine: RootArguments,

    /// Check what a GPU computes, and its transfers, too
    #[arg(long, conflicts_with = "root")]
    gpu: bool,

    /// Device to check: cuda:0 and so on, or cpu
    #[arg(long, requires = "gpu", default_value_t = Device::Cuda(0))]
    device: Device,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command; returns the exit code that tells what was found.
///
/// # Errors
/// The device that shall be checked cannot be used.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(arguments: &DoctorArguments) -> Result<Exit, Error> {
    let (text, json, exit) = if arguments.gpu {
        let device = arguments.device;
        let found = probe(device).map_err(|why| device_unavailable(device, &why))?;
        let progress = RunProgress::new(arguments.json);
        let report = ConformanceReport::new(found, |check| progress.begin(check.to_owned()))?;
        progress.finish();
        (report.to_string(), serde_json::to_string(&report), report.exit())
    } else {
        let findings = examine(&arguments.machine.root());
        (findings.to_string(), serde_json::to_string(&findings), findings.exit())
    };
    if arguments.json {
        println!("{}", json.map_err(Error::internal)?);
    } else {
        print!("{text}");
    }
    Ok(exit)
}
