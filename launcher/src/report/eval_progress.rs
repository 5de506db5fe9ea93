//! Progress of an evaluation on standard error, where a person looks on.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One line that shows what is being asked and how long the rest will take.
#[derive(Debug)]
pub struct EvalProgress {
    bar: ProgressBar,
}

impl EvalProgress {
    /// Shows progress over `work`, in any unit, if standard error is a terminal and the user did not ask for quiet.
    #[must_use]
    pub fn new(quiet: bool, work: u64) -> Self {
        const TEMPLATE: &str = "{wide_bar} {percent} %, {eta} left: {msg}";
        if quiet || !stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
        let bar = ProgressBar::new(work).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// Something has begun.
    pub fn begin(&self, what: &str) {
        self.bar.set_message(what.to_owned());
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
