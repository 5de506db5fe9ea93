//! A running instance's rates, as text and as a screen.

use std::collections::VecDeque;
use std::fmt::Write;

use indicatif::HumanBytes;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::widgets::{Block, Paragraph, Sparkline};

use crate::metrics::Rates;

/// Looks that sparklines remember.
const REMEMBERED: usize = 240;

/// The rates, one a line.
#[must_use]
pub fn table(rates: &Rates) -> String {
    let mut out = String::new();
    for (name, value) in lines(rates) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<12} {value}");
    }
    out
}

fn lines(rates: &Rates) -> Vec<(&'static str, String)> {
    let percent = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
    };
    let us =
        |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0} us"));
    vec![
        ("prefill", format!("{:.1} tokens/s", rates.prefill_tokens_per_s)),
        ("decode", format!("{:.1} tokens/s", rates.decode_tokens_per_s)),
        (
            "step",
            format!(
                "{}: attention {}, waiting {}",
                us(rates.step_us),
                us(rates.attention_us),
                us(rates.waiting_us)
            ),
        ),
        ("selection", format!("{} per KV head", us(rates.selection_us))),
        (
            "link",
            format!(
                "{}/s, missing blocks {} per token",
                bytes(rates.link_bytes_per_s),
                rates.shipped_bytes_per_token.map_or_else(|| "-".to_owned(), bytes)
            ),
        ),
        (
            "GPU",
            format!(
                "{}/s to it, {}/s from it, {}/s staged",
                bytes(rates.to_gpu_bytes_per_s),
                bytes(rates.from_gpu_bytes_per_s),
                bytes(rates.staged_bytes_per_s)
            ),
        ),
        (
            "cache hits",
            format!(
                "{}, {} blocks make room per token",
                percent(rates.hit_rate),
                rates.evictions_per_token.map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"))
            ),
        ),
        ("repairs", percent(rates.repair_rate)),
        (
            "audit",
            format!("recall {}, mass {}", percent(rates.audit_recall), percent(rates.audit_mass)),
        ),
    ]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
fn bytes(number: f64) -> String {
    HumanBytes(number as u64).to_string()
}

/// The screen of one instance.
#[derive(Debug)]
pub struct Dashboard {
    pid: u32,
    running: bool,
    now: Rates,
    decode: VecDeque<u64>,
    link: VecDeque<u64>,
}

impl Dashboard {
    /// A screen that has seen nothing yet.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        let (decode, link) = (VecDeque::new(), VecDeque::new());
        Self { pid, running: true, now: Rates::default(), decode, link }
    }

    /// Takes in the rates since the last look.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
    pub fn push(&mut self, rates: Rates, running: bool) {
        for (history, value) in [
            (&mut self.decode, rates.decode_tokens_per_s),
            (&mut self.link, rates.link_bytes_per_s / 1024.0),
        ] {
            history.push_back(value as u64);
            if history.len() > REMEMBERED {
                history.pop_front();
            }
        }
        (self.now, self.running) = (rates, running);
    }

    /// Draws the screen.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let lines = lines(&self.now);
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
        let rows = [Constraint::Length(height), Constraint::Fill(1), Constraint::Fill(1)];
        let [figures, decode, link] = Layout::vertical(rows).areas(frame.area());
        let state = if self.running { "q ends" } else { "it has ended; q ends" };
        let title = format!(" hindsight {} ({state}) ", self.pid);
        let text: Vec<String> =
            lines.into_iter().map(|(name, value)| format!("{name:<12} {value}")).collect();
        let text = Paragraph::new(text.join("\n"));
        frame.render_widget(text.block(Block::bordered().title(title.bold())), figures);
        for (area, title, history, style) in [
            (decode, " decode, tokens/s ", &self.decode, Style::new().cyan()),
            (link, " link, KiB/s ", &self.link, Style::new().yellow()),
        ] {
            let width = usize::from(area.width.saturating_sub(2));
            let shown: Vec<u64> =
                history.iter().copied().skip(history.len().saturating_sub(width)).collect();
            let line = Sparkline::default().data(&shown).style(style);
            frame.render_widget(line.block(Block::bordered().title(title)), area);
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn rates() -> Rates {
        Rates {
            decode_tokens_per_s: 101.25,
            hit_rate: Some(0.925),
            step_us: Some(9876.0),
            to_gpu_bytes_per_s: 2048.0,
            ..Rates::default()
        }
    }

    #[test]
    fn what_did_not_happen_is_a_dash() {
        let text = table(&rates());
        assert!(text.contains("decode       101.2 tokens/s"), "{text}");
        assert!(text.contains("cache hits   92.5 %"), "{text}");
        assert!(text.contains("repairs      -"), "{text}");
        assert!(text.contains("GPU          2.00 KiB/s to it, 0 B/s from it"), "{text}");
    }

    #[test]
    fn the_screen_shows_the_figures_and_says_when_the_instance_has_ended() {
        let mut dashboard = Dashboard::new(42);
        (0..300).for_each(|_| dashboard.push(rates(), true));
        dashboard.push(rates(), false);
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| dashboard.draw(frame)).unwrap();
        let screen = terminal.backend().to_string();
        for expected in ["hindsight 42 (it has ended", "101.2 tokens/s", "92.5 %", "9876 us"] {
            assert!(screen.contains(expected), "no {expected} in\n{screen}");
        }
        assert!(screen.contains('█'), "{screen}");
    }
}
