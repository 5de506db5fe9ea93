//! Transfers to and from a GPU, in a process of their own: a modelled link is a matter of its environment.

use std::process::{Command, Stdio};

use clap::Args;
use hindsight_gpu_worker::device::Backend;
use hindsight_gpu_worker::device::transfer::{MeasuredTransfers, TransferPlan};
use hindsight_protocol::device::Device;

use crate::doctor::device_failed;
use crate::error::{Error, Exit};

/// What the process is told.
#[derive(Debug, Args)]
pub struct LinkGpuArguments {
    /// The device.
    device: Device,
    /// The plan, as JSON.
    plan: String,
}

/// Has each transfer of `plan` timed on `device`; `mock_link` is the link that the mock driver shall model.
///
/// # Errors
/// The process cannot be started, or fails as it has said.
pub(super) fn measure(
    device: Device,
    mock_link: Option<&str>,
    plan: &TransferPlan,
) -> Result<MeasuredTransfers, Error> {
    let program = std::env::current_exe().map_err(Error::internal)?;
    let plan = serde_json::to_string(plan).map_err(Error::internal)?;
    let mut command = Command::new(program);
    command.args(["link-gpu", &device.to_string(), &plan]);
    command.envs(mock_link.map(|link| ("MOCK_LINK", link)));
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(Error::internal)?;
    if !output.status.success() {
        let message = format!("the transfers of {device} could not be timed: {}", output.status);
        return Err(Error::new(Exit::Device, "transfers", message)
            .with_hint("see what the process at the device has said above"));
    }
    serde_json::from_slice(&output.stdout).map_err(Error::internal)
}

/// Times transfers and prints the times as JSON.
///
/// # Errors
/// The plan makes no sense, or the device fails.
#[expect(clippy::print_stdout, reason = "this is what the other process reads")]
pub fn run(arguments: &LinkGpuArguments) -> Result<(), Error> {
    let plan: TransferPlan = serde_json::from_str(&arguments.plan)
        .map_err(|error| Error::new(Exit::Usage, "not_a_plan", error))?;
    let backend = Backend::open(arguments.device).map_err(device_failed)?;
    let measured = backend.time_transfers(&plan).map_err(device_failed)?;
    println!("{}", serde_json::to_string(&measured).map_err(Error::internal)?);
    Ok(())
}
