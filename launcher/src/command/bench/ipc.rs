//! `hindsight bench ipc`: messages to another process and back.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::Args;
use hindsight_cpu_indexer::placement::{allowed_cores, pin};
use hindsight_protocol::arena::{Arena, ArenaConfig};
use hindsight_protocol::geometry::{Geometry, KvDtype};
use hindsight_protocol::ring::{Patience, Receiver, Sender};

use super::echo::Transport;
use crate::error::{Error, Exit};
use crate::report::speed::{IpcRow, ipc_table};
use crate::report::spread::Percentiles;

/// Round trips before those that count.
const WARM_UP: usize = 1000;
/// How often each means has its turn.
const TURNS: usize = 4;

/// Time messages to another process and back: Hindsight's rings beside a Unix socket and a pair of pipes
///
/// Both processes are pinned to a core each. A ring's waiter spins before it sleeps, that of a socket or a pipe sleeps in the
/// kernel. The means take turns.
#[derive(Debug, Args)]
pub(super) struct IpcBenchArguments {
    /// Round trips of each means, in all
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(100..))]
    messages: u32,

    /// Bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(8..=4096))]
    bytes: u16,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
///
/// # Errors
/// There are no two cores, or the other process cannot be started or fails.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub(super) fn run(arguments: &IpcBenchArguments) -> Result<(), Error> {
    let cores = allowed_cores();
    let (Some(&own), Some(&other)) = (cores.first(), cores.last()) else {
        return Err(Error::new(Exit::Placement, "no_cores", "no core is known to be usable"));
    };
    if own == other {
        return Err(Error::new(Exit::Placement, "one_core", "two processes want two cores")
            .with_hint("a message that has to wait for its receiver's turn says nothing"));
    }
    let message = vec![0x5a; arguments.bytes.into()];
    let share = arguments.messages as usize / TURNS;
    let mut times = [const { Vec::new() }; Transport::ALL.len()];
    for _ in 0..TURNS {
        for (transport, times) in Transport::ALL.into_iter().zip(&mut times) {
            let echo = Echo::start(transport, other)?;
            // On a thread of its own: a process that is started by a pinned thread is pinned, too.
            let turn = std::thread::scope(|scope| {
                scope.spawn(|| take_turn(echo, own, &message, share)).join()
            });
            times.extend(turn.map_err(|_| Error::internal("a turn panicked"))??);
        }
    }
    let rows: Vec<IpcRow> = Transport::ALL
        .into_iter()
        .zip(times)
        .filter_map(|(transport, times)| {
            let Percentiles { count, p50, p99, .. } = Percentiles::of(times)?;
            Some(IpcRow {
                transport: transport.name(),
                message_bytes: message.len(),
                messages: count,
                round_trip_us_p50: p50,
                round_trip_us_p99: p99,
            })
        })
        .collect();
    if arguments.json {
        let report = serde_json::json!({ "cores": [own, other], "rows": rows });
        println!("{report}");
    } else {
        print!("{}", ipc_table(&rows));
        println!("between the cores {own} and {other}");
    }
    Ok(())
}

/// Times round trips from the core `own`, in microseconds.
fn take_turn(mut echo: Echo, own: u32, message: &[u8], trips: usize) -> Result<Vec<f64>, Error> {
    pin(own).map_err(|error| Error::new(Exit::Placement, "no_such_core", error))?;
    let mut times = Vec::with_capacity(trips);
    let mut reply = vec![0; message.len()];
    for trip in 0..WARM_UP + trips {
        let began = Instant::now();
        echo.round_trip(message, &mut reply)?;
        if trip >= WARM_UP {
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    if reply == message { Ok(times) } else { Err(Error::internal("a message was changed")) }
}

/// The other process, which sends back whatever it is sent.
struct Echo {
    process: Child,
    ends: Ends,
}

/// The ends of the connection on this side.
enum Ends {
    Ring(Box<Arena>),
    Socket(UnixStream),
    Pipes,
}

impl Echo {
    fn start(transport: Transport, core: u32) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::internal)?;
        let mut command = Command::new(program);
        command.args(["ipc-echo", transport.name(), &core.to_string()]);
        let ends = match transport {
            Transport::Ring => {
                let arena = Arena::create(smallest()).map_err(Error::internal)?;
                let file = arena.as_fd().try_clone_to_owned().map_err(Error::internal)?;
                command.stdin(Stdio::from(file));
                Ends::Ring(Box::new(arena))
            }
            Transport::UnixSocket => {
                let (ours, theirs) = UnixStream::pair().map_err(Error::internal)?;
                command.stdin(Stdio::from(OwnedFd::from(theirs)));
                Ends::Socket(ours)
            }
            Transport::Pipe => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                Ends::Pipes
            }
        };
        let process = command.spawn().map_err(Error::internal)?;
        Ok(Self { process, ends })
    }

    fn round_trip(&mut self, message: &[u8], reply: &mut [u8]) -> Result<(), Error> {
        match &mut self.ends {
            Ends::Ring(arena) => {
                let mut requests: Sender<'_> = arena.query_ring().producer();
                let mut replies: Receiver<'_> = arena.selection_ring().consumer();
                let patience = Patience::default();
                while !requests.send(&[message], patience).map_err(Error::internal)? {}
                loop {
                    if let Some(record) = replies.receive(patience).map_err(Error::internal)? {
                        reply.copy_from_slice(record);
                        return Ok(());
                    }
                    if self.process.try_wait().map_err(Error::internal)?.is_some() {
                        return Err(Error::internal("the other process has ended"));
                    }
                }
            }
            Ends::Socket(socket) => {
                socket.write_all(message).map_err(Error::internal)?;
                socket.read_exact(reply).map_err(Error::internal)
            }
            Ends::Pipes => {
                let gone = || Error::internal("the other process has no pipes");
                let stdin = self.process.stdin.as_mut().ok_or_else(gone)?;
                stdin.write_all(message).map_err(Error::internal)?;
                let stdout = self.process.stdout.as_mut().ok_or_else(gone)?;
                stdout.read_exact(reply).map_err(Error::internal)
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The smallest arena: only its rings are used.
fn smallest() -> ArenaConfig {
    let geometry = Geometry {
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 64,
        block_tokens: 16,
        dtype: KvDtype::F16,
    };
    ArenaConfig { geometry, capacity_tokens: 1024, max_selected_blocks: 64 }
}
