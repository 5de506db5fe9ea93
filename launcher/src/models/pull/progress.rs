//! Telling the user how far a pull is.

use std::io::{self, IsTerminal, Write};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// The parts of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Another process pulls the same model.
    Wait,
    /// Bytes come from the network.
    Download,
    /// The model file is taken out of what was downloaded.
    Unpack,
    /// A file is hashed.
    Verify,
}

impl Stage {
    fn verb(self) -> &'static str {
        match self {
            Self::Wait => "waiting for another pull of",
            Self::Download => "downloading",
            Self::Unpack => "unpacking",
            Self::Verify => "verifying",
        }
    }
}

/// Hears how far a pull is.
pub trait Progress {
    /// A stage begins; `total` is in bytes.
    fn begin(&mut self, stage: Stage, model: &str, total: Option<u64>);
    /// `bytes` of the stage are done.
    fn at(&mut self, bytes: u64);
    /// The stage is over, well or not.
    fn end(&mut self);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: Stage, _: &str, _: Option<u64>) {}
    fn at(&mut self, _: u64) {}
    fn end(&mut self) {}
}

/// A bar on standard error.
#[derive(Debug, Default)]
pub struct Bar {
    bar: Option<ProgressBar>,
}

impl Progress for Bar {
    fn begin(&mut self, stage: Stage, model: &str, total: Option<u64>) {
        self.end();
        let template = match total {
            Some(_) => "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{msg} {bytes}",
        };
        let style = ProgressStyle::with_template(template)
            .expect("both templates are constants and a test builds them")
            .progress_chars("=> ");
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style);
        bar.set_message(format!("{} {model}", stage.verb()));
        bar.tick();
        self.bar = Some(bar);
    }

    fn at(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

/// One line when a stage begins and one at each quarter of it, for logs.
#[derive(Debug)]
pub struct Lines<W> {
    out: W,
    stage: String,
    total: Option<u64>,
    quarters: u64,
}

impl<W: Write> Lines<W> {
    /// Lines to `out`. A line that cannot be written is dropped: progress never fails a pull.
    pub fn new(out: W) -> Self {
        Self { out, stage: String::new(), total: None, quarters: 0 }
    }
}

impl<W: Write> Progress for Lines<W> {
    fn begin(&mut self, stage: Stage, model: &str, total: Option<u64>) {
        self.stage = format!("{} {model}", stage.verb());
        self.total = total;
        self.quarters = 0;
        let size = total.map(|bytes| format!(" ({})", HumanBytes(bytes))).unwrap_or_default();
        writeln!(self.out, "{}{size}", self.stage).ok();
    }

    fn at(&mut self, bytes: u64) {
        let Some(total) = self.total.filter(|total| *total > 0) else {
            return;
        };
        let quarters = (bytes.min(total) as u128 * 4 / total as u128) as u64;
        if quarters > self.quarters {
            self.quarters = quarters;
            writeln!(self.out, "{}: {} %", self.stage, quarters * 25).ok();
        }
    }

    fn end(&mut self) {}
}

/// The progress for a command: a bar if standard error is a terminal, else lines; nothing when `quiet`.
pub fn stderr_progress(quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(Silent)
    } else if io::stderr().is_terminal() {
        Box::new(Bar::default())
    } else {
        Box::new(Lines::new(io::stderr()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_each_quarter() {
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out);
        lines.begin(Stage::Download, "m", Some(1 << 20));
        for bytes in [0, 10, 1 << 18, (1 << 18) + 1, 1 << 20, 1 << 21] {
            lines.at(bytes);
        }
        lines.end();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "downloading m (1.00 MiB)\ndownloading m: 25 %\ndownloading m: 100 %\n"
        );
    }

    #[test]
    fn the_bar_takes_stages_with_and_without_a_total() {
        let mut bar = Bar::default();
        bar.begin(Stage::Wait, "m", None);
        bar.begin(Stage::Unpack, "m", Some(10));
        bar.at(5);
        bar.end();
        bar.at(6);
    }
}
