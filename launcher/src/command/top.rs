//! `hindsight top`: running instances, live.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};

use crate::error::{Error, Exit};
use crate::metrics::{Instance, Rates, Sample, instances};
use crate::report::top::{Dashboard, table};

/// Show what a running instance is doing, live
///
/// Reads the instance's telemetry page, which costs the run nothing. Keys: q ends.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// Process id of the run [default: the one that began last]
    pid: Option<u32>,

    /// Seconds between two looks
    #[arg(short = 'd', long, default_value_t = 1.0)]
    interval: f64,

    /// Look for one interval, print, and end
    #[arg(long)]
    once: bool,

    /// Print rates as JSON; implies --once
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// There is no such instance, or the terminal fails.
pub fn run(arguments: &TopArguments) -> Result<(), Error> {
    if !(0.05..=3600.0).contains(&arguments.interval) {
        let message = format!("--interval {}: from 0.05 to 3600 seconds", arguments.interval);
        return Err(Error::new(Exit::Usage, "interval", message));
    }
    let interval = Duration::from_secs_f64(arguments.interval);
    let instance = find(arguments.pid)?;
    if arguments.once || arguments.json || !std::io::stdout().is_terminal() {
        once(arguments, &instance, interval)
    } else {
        live(&instance, interval).map_err(Error::internal)
    }
}

fn find(pid: Option<u32>) -> Result<Instance, Error> {
    let mut running = instances();
    let at = match pid {
        Some(pid) => running.iter().position(|instance| instance.pid == pid),
        None => running.len().checked_sub(1),
    };
    at.map(|at| running.swap_remove(at)).ok_or_else(|| {
        let pids: Vec<String> = running.iter().map(|instance| instance.pid.to_string()).collect();
        let message = match pid {
            Some(pid) => format!("no instance runs as process {pid}"),
            None => "nothing runs that could be looked at".to_owned(),
        };
        let error = Error::new(Exit::Usage, "no_instance", message);
        if pids.is_empty() {
            error.with_hint("start one, as with `hindsight run`")
        } else {
            error.with_hint(format!("these run: {}", pids.join(", ")))
        }
    })
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn once(arguments: &TopArguments, instance: &Instance, interval: Duration) -> Result<(), Error> {
    let (began, earlier) = (Instant::now(), Sample::of(&instance.page));
    std::thread::sleep(interval);
    let rates = Sample::of(&instance.page).since(&earlier).rates(began.elapsed());
    if arguments.json {
        let report = serde_json::json!({ "pid": instance.pid, "rates": rates });
        println!("{report}");
    } else {
        print!("{}", table(&rates));
    }
    Ok(())
}

/// Draws until a key ends it, or the instance has ended.
fn live(instance: &Instance, interval: Duration) -> std::io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut dashboard = Dashboard::new(instance.pid);
    let (mut looked, mut sample) = (Instant::now(), Sample::of(&instance.page));
    let outcome = loop {
        if let Err(error) = terminal.draw(|frame| dashboard.draw(frame)) {
            break Err(error);
        }
        match wait_for_key(interval.saturating_sub(looked.elapsed())) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error),
        }
        if looked.elapsed() >= interval {
            let now = Sample::of(&instance.page);
            let rates: Rates = now.since(&sample).rates(looked.elapsed());
            (looked, sample) = (Instant::now(), now);
            dashboard.push(rates, is_running(instance.pid));
        }
    };
    ratatui::try_restore()?;
    outcome
}

/// Waits for a while; whether the user wants to end.
fn wait_for_key(patience: Duration) -> std::io::Result<bool> {
    if !event::poll(patience)? {
        return Ok(false);
    }
    let Event::Key(KeyEvent { code, modifiers, .. }) = event::read()? else {
        return Ok(false);
    };
    let interrupt = code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    Ok(interrupt || matches!(code, KeyCode::Char('q') | KeyCode::Esc))
}

fn is_running(pid: u32) -> bool {
    std::fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}
