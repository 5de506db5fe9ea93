//! Runs the conformance suite over the kernels of a shared library, in a process of its own: what is checked may crash.
//!
//! `kernel-check LIBRARY ORDER GUARDS [CHECK]...`: threads in ORDER; GUARDS `guarded`, or `unguarded` under a sanitizer;
//! all checks if none is named. Exit code 0: all conform, 1: one does not, 2: nothing was checked.

use std::{env, error::Error, process::ExitCode};

use hindsight_cuda::conformance::Check;
use hindsight_cuda_emulator::{EmulatedDevice, Library};

#[expect(clippy::print_stderr, reason = "its report")]
fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (device, checks) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("kernel-check: {error}");
            return ExitCode::from(2);
        }
    };
    match run(device, &checks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<(EmulatedDevice, Vec<Check>), Box<dyn Error>> {
    let [path, order, guards, names @ ..] = arguments else {
        return Err("usage: kernel-check LIBRARY ORDER guarded|unguarded [CHECK]...".into());
    };
    let named = |check: &Check| names.is_empty() || names.contains(&check.to_string());
    let checks: Vec<Check> = Check::ALL.into_iter().filter(named).collect();
    if checks.is_empty() {
        return Err(format!("no check is called {names:?}").into());
    }
    // SAFETY: whoever runs this names a library of emulated kernels.
    let library = unsafe { Library::open(path.as_ref()) }?;
    let device = EmulatedDevice::new(library, order.parse()?);
    Ok((if guards == "unguarded" { device.without_guards() } else { device }, checks))
}

fn run(mut device: EmulatedDevice, checks: &[Check]) -> Result<(), Box<dyn Error>> {
    for check in checks {
        check.run(&mut device)?;
    }
    Ok(())
}
