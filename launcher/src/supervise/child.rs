//! One child process and the connection to it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hindsight_protocol::control::codec::{self, CodecError};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child as Process, Command};
use tokio::sync::mpsc;

use crate::error::{Error, Exit};
use crate::topology::CpuList;

/// How long a child may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// Which of the children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the model.
    GpuWorker,
    /// Owns the KV cache and its index.
    CpuIndexer,
}

impl Role {
    /// The role's name, which is also the subcommand that runs it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GpuWorker => "gpu-worker",
            Self::CpuIndexer => "cpu-indexer",
        }
    }

    /// The exit code of a run that this child's failure ends.
    #[must_use]
    pub const fn exit(self) -> Exit {
        match self {
            Self::GpuWorker => Exit::Worker,
            Self::CpuIndexer => Exit::Indexer,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a child process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending(pub ExitStatus);

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(signal) = self.0.signal() else {
            return write!(formatter, "ended with exit code {}", self.0.code().unwrap_or_default());
        };
        let name = match signal {
            4 => "SIGILL: an instruction that this processor does not have",
            6 => "SIGABRT",
            7 => "SIGBUS: memory that could not be provided",
            9 => "SIGKILL: by a user, or by the kernel when memory ran out",
            11 => "SIGSEGV",
            15 => "SIGTERM",
            _ => return write!(formatter, "was killed by signal {signal}"),
        };
        write!(formatter, "was killed by signal {signal} ({name})")
    }
}

/// A running child that sends `In`.
#[derive(Debug)]
pub(super) struct Child<In> {
    role: Role,
    pid: u32,
    process: Process,
    writer: OwnedWriteHalf,
    messages: mpsc::UnboundedReceiver<Result<In, CodecError>>,
}

/// What a child did.
#[derive(Debug)]
pub(super) enum Heard<In> {
    /// It said something.
    Message(In),
    /// It said something that makes no sense.
    Garbled(CodecError),
    /// It ended.
    Ended(Ending),
}

impl<In: DeserializeOwned + Send + 'static> Child<In> {
    /// Starts this program once more in the given role. The child inherits its end of the control connection and the
    /// arena, nothing else; it does not receive the terminal's signals, so that the launcher decides when it ends.
    ///
    /// # Errors
    /// The system refuses a process or a socket.
    pub(super) fn start(
        role: Role,
        arena: &impl AsFd,
        environment: &[(&str, String)],
    ) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let theirs = inheritable(OwnedFd::from(theirs))?;
        let arena = inheritable(arena.as_fd().try_clone_to_owned()?)?;
        let process = Command::new("/proc/self/exe")
            .arg0(concat!(env!("CARGO_PKG_NAME")))
            .arg(role.name())
            .arg(theirs.as_raw_fd().to_string())
            .arg(arena.as_raw_fd().to_string())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().ok_or_else(|| io::Error::other("the child has no process id"))?;
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let (sender, messages) = mpsc::unbounded_channel();
        tokio::spawn(forward(reader, sender));
        Ok(Self { role, pid, process, writer, messages })
    }

    /// Keeps the child, and the threads that it starts from now on, to these CPUs.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn keep_to(&self, cpus: &CpuList) -> Result<(), Error> {
        let mut set = CpuSet::new();
        cpus.as_slice().iter().for_each(|&cpu| set.set(cpu as usize));
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Without a process id the launcher itself would be kept to them.
        let pid = pid.ok_or_else(|| Error::internal("the child has no process id"))?;
        sched_setaffinity(Some(pid), &set).map_err(|error| {
            let message = format!("cannot keep the {} to the CPUs {cpus}: {error}", self.role);
            Error::new(Exit::Placement, "cpus_refused", message)
        })
    }

    /// The child's process id.
    #[must_use]
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a message. A child that no longer reads has ended or is about to; that is found out by listening.
    ///
    /// # Errors
    /// The message is too long to send.
    pub(super) async fn send(&mut self, message: &(impl Serialize + Sync)) -> Result<(), Error> {
        let frame = codec::encode(message).map_err(Error::internal)?;
        if let Err(error) = self.writer.write_all(&frame).await {
            tracing::debug!(role = %self.role, %error, "the child does not read");
        }
        Ok(())
    }

    /// Waits for the child's next message or its end, whichever comes first. Messages that it sent before it ended are
    /// heard before its end.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The system cannot say how the child ended.
    pub(super) async fn hear(&mut self) -> io::Result<Heard<In>> {
        match self.messages.recv().await {
            Some(Ok(message)) => Ok(Heard::Message(message)),
            Some(Err(error)) => Ok(Heard::Garbled(error)),
            None => Ok(Heard::Ended(Ending(self.process.wait().await?))),
        }
    }

    /// Waits until the child has ended, and ends it by force if it takes too long.
    pub(super) async fn end(mut self) {
        drop(self.writer);
        if tokio::time::timeout(GRACE, self.process.wait()).await.is_err() {
            tracing::warn!(role = %self.role, "does not end by itself and is killed");
            kill(&mut self.process).await;
        }
    }

    /// Ends the child by force, and waits until it has ended.
    pub(super) async fn abort(mut self) {
        kill(&mut self.process).await;
    }
}

async fn kill(process: &mut Process) {
    // An error means that it has ended meanwhile.
    let _ = process.kill().await;
}

/// Moves frames from the connection into a channel until it closes.
async fn forward<In: DeserializeOwned>(
    mut reader: OwnedReadHalf,
    sender: mpsc::UnboundedSender<Result<In, CodecError>>,
) {
    loop {
        let message = match read(&mut reader).await {
            Ok(None) => return,
            Ok(Some(message)) => Ok(message),
            Err(error) => Err(error),
        };
        let last = message.is_err();
        if sender.send(message).is_err() || last {
            return;
        }
    }
}

async fn read<In: DeserializeOwned>(reader: &mut OwnedReadHalf) -> Result<Option<In>, CodecError> {
    let mut header = [0; codec::HEADER_BYTES];
    match reader.read_exact(&mut header).await {
        Err(error) if is_end(&error) => return Ok(None),
        other => other?,
    };
    let mut message = vec![0; codec::message_length(header)?];
    match reader.read_exact(&mut message).await {
        Err(error) if is_end(&error) => return Ok(None),
        other => other?,
    };
    codec::decode(&message).map(Some)
}

/// Whether the peer has gone. A child that is killed may leave a frame unfinished or a connection reset.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

/// Lets the next child keep a descriptor.
fn inheritable(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    fcntl_setfd(&descriptor, FdFlags::empty())?;
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_name_their_cause() {
        assert_eq!(Ending(ExitStatus::from_raw(3 << 8)).to_string(), "ended with exit code 3");
        let killed = Ending(ExitStatus::from_raw(9)).to_string();
        assert!(killed.starts_with("was killed by signal 9 (SIGKILL"), "{killed}");
    }
}
