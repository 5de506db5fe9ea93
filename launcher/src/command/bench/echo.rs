//! The other process of `hindsight bench ipc`: it sends back what it is sent.

use std::fmt;
use std::io::{Read, Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use clap::{Args, ValueEnum};
use hindsight_cpu_indexer::placement::pin;
use hindsight_protocol::arena::Arena;
use hindsight_protocol::ring::Patience;
use rustix::process::getppid;

use crate::error::{Error, Exit};

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Transport {
    /// Hindsight's rings in shared memory.
    Ring,
    /// A Unix stream socket.
    UnixSocket,
    /// Two pipes.
    Pipe,
}

impl Transport {
    pub(super) const ALL: [Self; 3] = [Self::Ring, Self::UnixSocket, Self::Pipe];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::UnixSocket => "unix-socket",
            Self::Pipe => "pipe",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What the other process is told; the connection is its standard input.
#[derive(Debug, Args)]
pub struct EchoArguments {
    /// How messages travel.
    transport: Transport,
    /// The core to run on.
    core: u32,
}

/// Sends back messages until the process that sends them is gone.
///
/// # Errors
/// The core cannot be had, or standard input is no such connection.
pub fn run(arguments: &EchoArguments) -> Result<(), Error> {
    pin(arguments.core).map_err(|error| Error::new(Exit::Placement, "no_such_core", error))?;
    let input = || stdin().as_fd().try_clone_to_owned().map_err(Error::internal);
    match arguments.transport {
        Transport::Ring => echo_ring(input()?),
        Transport::UnixSocket => {
            let socket = UnixStream::from(input()?);
            echo(&socket, &socket)
        }
        Transport::Pipe => echo(stdin().lock(), stdout().lock()),
    }
}

fn echo_ring(file: OwnedFd) -> Result<(), Error> {
    let parent = getppid();
    let arena = Arena::attach(file).map_err(Error::internal)?;
    let mut requests = arena.query_ring().consumer();
    let mut replies = arena.selection_ring().producer();
    let patience = Patience::default();
    loop {
        match requests.receive(patience).map_err(Error::internal)? {
            Some(message) => while !replies.send(&[message], patience).map_err(Error::internal)? {},
            None if getppid() != parent => return Ok(()),
            None => {}
        }
    }
}

fn echo(mut from: impl Read, mut to: impl Write) -> Result<(), Error> {
    let mut message = [0; 4096];
    loop {
        match from.read(&mut message).map_err(Error::internal)? {
            0 => return Ok(()),
            length => {
                to.write_all(&message[..length]).map_err(Error::internal)?;
                to.flush().map_err(Error::internal)?;
            }
        }
    }
}
