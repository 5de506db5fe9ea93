//! `hindsight pull`: have a model on this machine.

use std::path::PathBuf;

use clap::Args;

use super::interrupt::{Interrupts, interrupted};
use super::runtime::block_on;
use crate::error::Error;
use crate::models::pull::{Cancel, stderr_progress};
use crate::models::{Home, Puller, entries, resolve};

/// Download a model, verify it, and print where it is
///
/// Names come from Hindsight's registry (`hindsight pull --list`); hf:owner/repo/file.gguf comes from the Hugging Face hub.
/// Models are kept in $HINDSIGHT_HOME, or else in the user's cache directory.
#[derive(Debug, Args)]
pub struct PullArguments {
    /// A name from the registry, or hf:owner/repo/file.gguf
    #[arg(required_unless_present = "list")]
    model: Option<String>,

    /// List the models of the registry
    #[arg(long, conflicts_with = "model")]
    list: bool,

    /// Check a model that is there already by its hash
    #[arg(long)]
    verify: bool,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
///
/// # Errors
/// The model is not known or cannot be had.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(arguments: &PullArguments) -> Result<(), Error> {
    let Some(model) = &arguments.model else {
        return list(arguments.json);
    };
    let path = block_on(async {
        let mut interrupts = Interrupts::listen()?;
        pull(model, arguments.verify, arguments.quiet, &mut interrupts).await
    })?;
    if arguments.json {
        println!("{}", serde_json::json!({ "model": model, "path": path }));
    } else {
        println!("{}", path.display());
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn list(json: bool) -> Result<(), Error> {
    if json {
        println!("{}", serde_json::to_string(entries()).map_err(Error::internal)?);
        return Ok(());
    }
    for entry in entries() {
        let size = indicatif::HumanBytes(entry.bytes);
        println!("{}  {size}  {}  {}", entry.name, entry.licence, entry.description);
    }
    Ok(())
}

/// The path of a model on this machine, fetched first if need be.
pub(super) async fn fetch(
    model: &str,
    quiet: bool,
    interrupts: &mut Interrupts,
) -> Result<PathBuf, Error> {
    pull(model, false, quiet, interrupts).await
}

async fn pull(
    model: &str,
    rehash: bool,
    quiet: bool,
    interrupts: &mut Interrupts,
) -> Result<PathBuf, Error> {
    let source = resolve(model)?;
    let cancel = Cancel::default();
    let puller = Puller::new(Home::from_env()?).with_cancel(cancel.clone()).with_rehash(rehash);
    let mut pulling =
        tokio::task::spawn_blocking(move || puller.pull(&source, stderr_progress(quiet).as_mut()));
    loop {
        tokio::select! {
            pulled = &mut pulling => {
                let path = pulled.map_err(Error::internal)??;
                // A model that was there needs no time to stop in.
                return if cancel.is_cancelled() { Err(interrupted()) } else { Ok(path) };
            }
            () = interrupts.next() => cancel.cancel(),
        }
    }
}
