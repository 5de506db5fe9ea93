//! The text on standard output, as it comes.

use std::io::{self, Write, stdout};

/// Writes text to standard output at once, until the reader goes away.
#[derive(Debug)]
pub(super) struct TextStream {
    enabled: bool,
    text: String,
}

impl TextStream {
    /// A stream that prints what it is given, if `enabled`.
    pub(super) const fn new(enabled: bool) -> Self {
        Self { enabled, text: String::new() }
    }

    /// Takes more of the text; `false` if nobody reads it any more.
    pub(super) fn push(&mut self, piece: &str) -> bool {
        self.text.push_str(piece);
        !self.enabled || write(piece.as_bytes()).is_ok()
    }

    /// Ends the last line, and returns the whole text.
    pub(super) fn finish(self) -> String {
        if self.enabled && !self.text.ends_with('\n') {
            // The text is complete; a reader that has gone away does not need its end.
            let _ = write(b"\n");
        }
        self.text
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
