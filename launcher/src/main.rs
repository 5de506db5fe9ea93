//! The program: reads the command line, does what it says, and ends with the right exit code.

use std::process::ExitCode;

use clap::Parser;
use hindsight::command::Cli;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let json = cli.json();
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.print(json);
            error.exit.into()
        }
    }
}
