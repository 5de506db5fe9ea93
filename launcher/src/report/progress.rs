//! Progress of a run on standard error: a bar where a person looks on, a line now and then where nobody does.

use std::io::{IsTerminal, Write as _, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is written at most. What takes less time needs none.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// What is going on.
#[derive(Debug, Clone)]
pub struct RunProgress {
    bar: ProgressBar,
    lines: Option<Arc<Mutex<Lines>>>,
}

/// Progress where there is no terminal, in a log, say.
#[derive(Debug)]
struct Lines {
    last: Instant,
    unit: Unit,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
enum Unit {
    /// Of the prompt.
    Tokens,
    Steps,
    Work,
}

impl Unit {
    const fn template(self) -> &'static str {
        match self {
            Self::Tokens => "reading the prompt {wide_bar} {pos}/{len} tokens, {eta} left",
            Self::Steps => "decoding {wide_bar} {pos}/{len} steps, {eta} left",
            Self::Work => "{wide_bar} {percent} %, {eta} left: {msg}",
        }
    }

    fn line(self, position: u64, length: u64, message: &str) -> String {
        match self {
            Self::Tokens => format!("reading the prompt: {position} of {length} tokens"),
            Self::Steps => format!("decoding: {position} of {length} steps"),
            Self::Work => format!("{} %: {message}", 100 * position / length.max(1)),
        }
    }
}

impl RunProgress {
    /// Shows progress, unless the user asked for quiet.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let seen = stderr().is_terminal() && !quiet;
        let bar = if seen { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let lines = Lines { last: Instant::now(), unit: Unit::Work };
        Self { bar, lines: (!seen && !quiet).then(|| Arc::new(Mutex::new(lines))) }
    }

    /// Something of unknown length has begun.
    pub fn begin(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.bar.set_message(what);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// Reading of the prompt has begun.
    pub fn begin_prefill(&self, tokens: u64) {
        self.count(Unit::Tokens, tokens);
    }

    /// Decoding of a known number of steps has begun.
    pub fn begin_steps(&self, steps: u64) {
        self.count(Unit::Steps, steps);
    }

    /// Work of a known amount has begun, in any unit.
    pub fn begin_work(&self, amount: u64) {
        self.count(Unit::Work, amount);
    }

    fn count(&self, unit: Unit, length: u64) {
        let style = ProgressStyle::with_template(unit.template());
        self.bar.set_style(style.expect("the templates are valid"));
        self.bar.set_length(length);
        self.bar.set_position(0);
        self.bar.reset_eta();
        if let Some(lines) = &self.lines {
            lines.lock().unwrap_or_else(PoisonError::into_inner).unit = unit;
        }
    }

    /// So many tokens of the prompt have been read.
    pub fn prefilled(&self, tokens: u64) {
        self.bar.set_position(tokens);
        self.tell();
    }

    /// So many steps have been decoded.
    pub fn stepped(&self, steps: u64) {
        self.bar.set_position(steps);
        self.tell();
    }

    /// So much more of the work is done.
    pub fn advance(&self, work: u64) {
        self.bar.inc(work);
        self.tell();
    }

    /// Writes a line, if lines are written and the last is old.
    fn tell(&self) {
        let Some(lines) = &self.lines else { return };
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.elapsed() >= BETWEEN_LINES {
            lines.last = Instant::now();
            let length = self.bar.length().unwrap_or(0);
            let line = lines.unit.line(self.bar.position(), length, &self.bar.message());
            // Progress that cannot be told is none that must be.
            let _ = writeln!(stderr(), "{line}");
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_is_counted() {
        assert_eq!(Unit::Tokens.line(512, 7065, ""), "reading the prompt: 512 of 7065 tokens");
        assert_eq!(Unit::Steps.line(3, 64, ""), "decoding: 3 of 64 steps");
        assert_eq!(Unit::Work.line(9, 90, "fwe 4096 #3 lfps"), "10 %: fwe 4096 #3 lfps");
        assert_eq!(Unit::Work.line(0, 0, "loading the model"), "0 %: loading the model");
    }

    #[test]
    fn who_asks_for_quiet_gets_it() {
        assert!(RunProgress::new(true).lines.is_none());
    }
}
