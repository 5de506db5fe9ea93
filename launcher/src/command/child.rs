//! The launcher's program in the role of a child.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use clap::Args;
use hindsight_protocol::control::messages::Failure;
use rustix::fs::FileType;

use crate::error::{Error, Exit};

/// Descriptors that the launcher leaves to a child.
#[derive(Debug, Args)]
pub struct ChildArguments {
    /// Descriptor of the connection to the launcher.
    control: RawFd,
    /// Descriptor of the arena.
    arena: RawFd,
}

/// Runs a child's main function. Its failure has been reported to the launcher already, so it is not printed again.
pub fn run(
    arguments: &ChildArguments,
    serve: impl FnOnce(UnixStream, OwnedFd) -> Result<(), Failure>,
) -> Result<(), Error> {
    let control = UnixStream::from(inherited(arguments.control, FileType::Socket)?);
    let arena = inherited(arguments.arena, FileType::RegularFile)?;
    match serve(control, arena) {
        Ok(()) => Ok(()),
        Err(_) => std::process::exit(Exit::Internal as i32),
    }
}

/// Takes over a descriptor that must be of the given type.
#[expect(unsafe_code, reason = "a number on the command line becomes a descriptor")]
fn inherited(number: RawFd, expected: FileType) -> Result<OwnedFd, Error> {
    let wrong = || {
        let message = format!("descriptor {number} was not left by a launcher");
        Error::new(Exit::Usage, "not_a_child", message)
            .with_hint("this command is started by `hindsight run`, not by hand")
    };
    if number <= 2 {
        return Err(wrong());
    }
    // SAFETY: the launcher left the descriptor to this process for nothing but this, and no other code of this process
    // owns it: standard streams are excluded, and nothing has been opened yet. If there is no such descriptor, the
    // first use of it says so.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::fs::fstat(&descriptor) {
        Ok(status) if FileType::from_raw_mode(status.st_mode) == expected => {
            rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)
                .map_err(Error::internal)?;
            Ok(descriptor)
        }
        Ok(_) => Err(wrong()),
        Err(_) => {
            // Closing a descriptor that is not open would be a fault of its own.
            std::mem::forget(descriptor);
            Err(wrong())
        }
    }
}
