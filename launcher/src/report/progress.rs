//! Progress of a run on standard error, where a person looks on.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One line that shows what is going on; nothing at all where nobody looks on.
#[derive(Debug, Clone)]
pub struct RunProgress {
    bar: ProgressBar,
}

impl RunProgress {
    /// Shows progress if standard error is a terminal and the user did not ask for quiet.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let hidden = quiet || !stderr().is_terminal();
        let bar = if hidden { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        Self { bar }
    }

    /// Something of unknown length has begun.
    pub fn begin(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.bar.set_message(what);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// Reading of the prompt has begun.
    pub fn begin_prefill(&self, tokens: u64) {
        self.count("reading the prompt {wide_bar} {pos}/{len} tokens, {eta} left", tokens);
    }

    /// Decoding of a known number of steps has begun.
    pub fn begin_steps(&self, steps: u64) {
        self.count("decoding {wide_bar} {pos}/{len} steps, {eta} left", steps);
    }

    /// Work of a known amount has begun, in any unit.
    pub fn begin_work(&self, amount: u64) {
        self.count("{wide_bar} {percent} %, {eta} left: {msg}", amount);
    }

    fn count(&self, template: &str, length: u64) {
        let style = ProgressStyle::with_template(template).expect("the templates are valid");
        self.bar.set_style(style);
        self.bar.set_length(length);
        self.bar.set_position(0);
        self.bar.reset_eta();
    }

    /// So many tokens of the prompt have been read.
    pub fn prefilled(&self, tokens: u64) {
        self.bar.set_position(tokens);
    }

    /// So many steps have been decoded.
    pub fn stepped(&self, steps: u64) {
        self.bar.set_position(steps);
    }

    /// So much more of the work is done.
    pub fn advance(&self, work: u64) {
        self.bar.inc(work);
    }

    /// Removes the line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
