//! The command line.

pub mod bench;
pub mod child;
pub mod doctor;
pub mod eval;
pub mod index_arguments;
mod interrupt;
pub mod metrics;
mod output;
pub mod profile;
pub mod pull;
pub mod replay;
pub mod run;
mod runtime;
mod session;
mod setup;
pub mod top;
pub mod topology;
pub mod trace;

use clap::{Parser, Subcommand};

use crate::error::{Error, Exit};
use crate::link;

/// Decode long contexts with the KV cache in host memory: a worker computes, an indexer on a core of its own predicts
/// which keys the next step needs and ships only those.
#[derive(Debug, Parser)]
#[command(name = "hindsight", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  hindsight run -p 'What does the label on the bottle say?' -f book.txt
  hindsight run --model model.gguf --attention full --json < prompt.txt
  hindsight pull smollm2-135m

Exit codes:
  0 success   1 internal error   2 usage   3 model   4 download   5 prompt
  6 does not fit   7 placement   8 gpu-worker failed   9 cpu-indexer failed
  10 doctor: could be faster   11 doctor: runs will fail   12 no such device
  130 interrupted";

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArguments>),
    Profile(profile::ProfileArguments),
    Top(top::TopArguments),
    Metrics(metrics::MetricsArguments),
    Pull(pull::PullArguments),
    Replay(replay::ReplayArguments),
    Trace(trace::TraceArguments),
    Bench(bench::BenchArguments),
    Eval(eval::EvalCommand),
    Topology(topology::TopologyArguments),
    Doctor(doctor::DoctorArguments),
    /// The process that runs the model; started by the launcher.
    #[command(hide = true)]
    GpuWorker(child::ChildArguments),
    /// The other process of `bench ipc`; started by it.
    #[command(hide = true)]
    IpcEcho(bench::echo::EchoArguments),
    /// The process at the other core of a link that is measured; started by the one that measures.
    #[command(hide = true)]
    LinkEnd(link::end::LinkEndArguments),
    /// The process that times transfers of a GPU; started by `bench link` and by profiles.
    #[command(hide = true)]
    LinkGpu(link::gpu::LinkGpuArguments),
    /// The process that owns the KV cache; started by the launcher.
    #[command(hide = true)]
    CpuIndexer(child::ChildArguments),
}

impl Cli {
    /// Whether results and errors are printed as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match &self.command {
            Command::Run(arguments) => arguments.json(),
            Command::Profile(_) | Command::Metrics(_) => false,
            Command::Top(arguments) => arguments.json,
            Command::Pull(arguments) => arguments.json,
            Command::Replay(arguments) => arguments.json,
            Command::Trace(arguments) => arguments.json(),
            Command::Bench(arguments) => arguments.json(),
            Command::Eval(command) => command.json(),
            Command::Topology(arguments) => arguments.json,
            Command::Doctor(arguments) => arguments.json,
            Command::GpuWorker(_)
            | Command::CpuIndexer(_)
            | Command::IpcEcho(_)
            | Command::LinkEnd(_)
            | Command::LinkGpu(_) => false,
        }
    }

    /// Does what was asked; returns the exit code of what was found out.
    ///
    /// # Errors
    /// What failed, and with which exit code.
    pub fn run(self) -> Result<Exit, Error> {
        let done = match self.command {
            Command::Run(arguments) => run::run(*arguments),
            Command::Profile(arguments) => return profile::run(&arguments),
            Command::Top(arguments) => top::run(&arguments),
            Command::Metrics(arguments) => metrics::run(&arguments),
            Command::Pull(arguments) => pull::run(&arguments),
            Command::Replay(arguments) => replay::run(&arguments),
            Command::Trace(arguments) => trace::run(&arguments),
            Command::Bench(arguments) => bench::run(&arguments),
            Command::Eval(command) => eval::run(&command),
            Command::Topology(arguments) => topology::run(&arguments),
            Command::Doctor(arguments) => return doctor::run(&arguments),
            Command::GpuWorker(arguments) => {
                child::run(&arguments, hindsight_gpu_worker::serve::run)
            }
            Command::IpcEcho(arguments) => bench::echo::run(&arguments),
            Command::LinkEnd(arguments) => link::end::run(&arguments),
            Command::LinkGpu(arguments) => link::gpu::run(&arguments),
            Command::CpuIndexer(arguments) => {
                child::run(&arguments, hindsight_cpu_indexer::serve::run)
            }
        };
        done.map(|()| Exit::Success)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
