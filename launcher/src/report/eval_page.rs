//! The figures of an evaluation as one page of HTML, with plots, that needs nothing else.

use std::fmt::Write;

use crate::eval::summary::{Comparison, Summary};

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .7rem; text-align: right }
th { border-bottom: 2px solid #888 } td { border-bottom: 1px solid #ddd } .text { text-align: left }
svg text { font: 12px system-ui, sans-serif; fill: #222 } .grid { stroke: #ddd } .zero { stroke: #888 }
.full { fill: #9aa5b1 } .exact { fill: #5b8def } .lfps { fill: #e07a3f }
.exact-line { stroke: #5b8def } .lfps-line { stroke: #e07a3f } line { stroke-width: 1.5 }";

/// Pixels of a plot: names left, then the axis.
const NAMES: f64 = 150.0;
const AXIS: f64 = 520.0;
const BAR: f64 = 9.0;

/// The page.
#[must_use]
pub fn page(summary: &Summary) -> String {
    let title = format!("Answers of {}, top-k {}", escape(&summary.model), summary.top_k);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    );
    if !summary.complete {
        out.push_str("<p>Not complete: some prompts are still to be answered.</p>\n");
    }
    overall(summary, &mut out);
    for length in lengths(summary) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<h2>{length} tokens</h2>");
        out.push_str("<h3>Scores</h3>\n");
        scores(summary, length, &mut out);
        out.push_str(
            "<h3>Change against the reference, in points</h3>\n\
             <p>Mean over prompts, with a 95 % interval: a bootstrap over prompts, or, where no prompt changes, what their \
             number allows.</p>\n",
        );
        changes(summary, length, &mut out);
        rows(summary, length, &mut out);
    }
    if !summary.left_out.is_empty() {
        out.push_str("<h2>Left out</h2>\n<ul>\n");
        for left_out in &summary.left_out {
            let (task, reason) = (escape(&left_out.task), escape(&left_out.reason));
            let _ = writeln!(out, "<li>{task}: {reason}</li>");
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</body></html>\n");
    out
}

fn lengths(summary: &Summary) -> Vec<usize> {
    let mut lengths: Vec<usize> = summary.rows.iter().map(|row| row.length).collect();
    lengths.dedup();
    lengths
}

fn overall(summary: &Summary, out: &mut String) {
    if summary.overall.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<p>Means over all prompts of the tasks on which the reference scores at least {:.0}.</p>\n<table><tr>\
         <th>tokens</th><th class=\"text\">attention</th><th>tasks</th><th>prompts</th><th>score</th><th>reference</th>\
         <th>change</th><th>95 % interval</th><th>up</th><th>down</th><th class=\"text\">worst task</th></tr>",
        summary.floor
    );
    for overall in &summary.overall {
        let paired = &overall.paired;
        let [low, high] = paired.interval;
        let worst = match &overall.worst_task {
            Some((task, difference)) => format!("{} {difference:+.1}", escape(task)),
            None => "none falls".to_owned(),
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"text\">{}</td><td>{}</td><td>{}</td><td>{:.1}</td><td>{} {:.1}</td>\
             <td>{:+.1}</td><td>{low:+.1} to {high:+.1}</td><td>{}</td><td>{}</td><td class=\"text\">{worst}</td></tr>",
            overall.length,
            overall.attention,
            overall.tasks,
            paired.samples,
            overall.score,
            overall.against,
            overall.against_score,
            paired.difference,
            paired.flips_up,
            paired.flips_down,
        );
    }
    out.push_str("</table>\n");
}

/// A bar for each task and attention, from 0 to 100.
fn scores(summary: &Summary, length: usize, out: &mut String) {
    let rows: Vec<_> = summary.rows.iter().filter(|row| row.length == length).collect();
    let height = BAR * rows.len() as f64 + 8.0 * tasks(rows.iter().map(|row| &row.task)) + 24.0;
    open_plot(height, out);
    grid(&[0.0, 25.0, 50.0, 75.0, 100.0], height, |score| AXIS * score / 100.0, out);
    let mut y = 4.0;
    let mut last = "";
    for row in rows {
        if row.task != last {
            y += 8.0;
            name(&row.task, y + 10.0, out);
            last = &row.task;
        }
        let _ = writeln!(
            out,
            "<rect class=\"{0}\" x=\"{NAMES}\" y=\"{y:.1}\" width=\"{1:.1}\" height=\"{2:.1}\"><title>{3} {0}: {4:.1}\
             </title></rect>",
            row.attention,
            AXIS * row.score / 100.0,
            BAR - 1.0,
            escape(&row.task),
            row.score,
        );
        y += BAR;
    }
    out.push_str("</svg>\n<p>");
    for attention in ["full", "exact", "lfps"] {
        if summary.rows.iter().any(|row| row.attention.to_string() == attention) {
            let _ = write!(
                out,
                "<svg width=\"12\" height=\"12\"><rect class=\"{attention}\" width=\"12\" height=\"12\"/></svg> \
                 {attention} &nbsp; "
            );
        }
    }
    out.push_str("</p>\n");
}

/// A point with its interval for each task and attention.
fn changes(summary: &Summary, length: usize, out: &mut String) {
    let changes: Vec<&Comparison> =
        summary.paired.iter().filter(|comparison| comparison.length == length).collect();
    if changes.is_empty() {
        return;
    }
    let bounds = changes.iter().flat_map(|change| change.paired.interval);
    let reach = bounds.fold(5.0_f64, |reach, bound| reach.max(bound.abs())).min(100.0);
    let x = |change: f64| AXIS * (change.clamp(-reach, reach) / reach + 1.0) / 2.0;
    let spacing = BAR + 3.0;
    let height = spacing * changes.len() as f64
        + 6.0 * tasks(changes.iter().map(|change| &change.task))
        + 24.0;
    open_plot(height, out);
    grid(&[-reach, -reach / 2.0, 0.0, reach / 2.0, reach], height, x, out);
    let mut y = 4.0;
    let mut last = "";
    for change in changes {
        if change.task != last {
            y += 6.0;
            name(&change.task, y + 10.0, out);
            last = &change.task;
        }
        let middle = y + BAR / 2.0;
        let [low, high] = change.paired.interval;
        let _ = writeln!(
            out,
            "<line class=\"{0}-line\" x1=\"{1:.1}\" x2=\"{2:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <circle class=\"{0}\" cx=\"{3:.1}\" cy=\"{middle:.1}\" r=\"4\"><title>{4} {0}: {5:+.1} ({low:+.1} to \
             {high:+.1}), {6} up, {7} down</title></circle>",
            change.attention,
            NAMES + x(low),
            NAMES + x(high),
            NAMES + x(change.paired.difference),
            escape(&change.task),
            change.paired.difference,
            change.paired.flips_up,
            change.paired.flips_down,
        );
        y += spacing;
    }
    out.push_str("</svg>\n");
}

fn rows(summary: &Summary, length: usize, out: &mut String) {
    out.push_str(
        "<table><tr><th class=\"text\">task</th><th class=\"text\">attention</th><th>prompts</th><th>score</th>\
         <th>KiB over the link per token</th><th>ms per token</th></tr>\n",
    );
    for row in summary.rows.iter().filter(|row| row.length == length) {
        let _ = writeln!(
            out,
            "<tr><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{}</td><td>{:.1}</td><td>{:.0}</td>\
             <td>{:.2}</td></tr>",
            escape(&row.task),
            row.attention,
            row.samples,
            row.score,
            row.link_bytes_per_token / 1024.0,
            row.decode_ms_per_token,
        );
    }
    out.push_str("</table>\n");
}

/// The number of groups of equal names that follow each other.
fn tasks<'t>(names: impl Iterator<Item = &'t String>) -> f64 {
    let mut names: Vec<_> = names.collect();
    names.dedup();
    names.len() as f64
}

fn open_plot(height: f64, out: &mut String) {
    let width = NAMES + AXIS + 30.0;
    let _ = writeln!(
        out,
        "<svg width=\"{width}\" height=\"{height:.0}\" viewBox=\"0 0 {width} {height:.0}\" role=\"img\">"
    );
}

fn grid(marks: &[f64], height: f64, x: impl Fn(f64) -> f64, out: &mut String) {
    for &mark in marks {
        let class = if mark == 0.0 { "zero" } else { "grid" };
        let (x, foot) = (NAMES + x(mark), height - 18.0);
        let _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"4\" y2=\"{foot:.1}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{mark:.0}</text>",
            height - 4.0
        );
    }
}

fn name(task: &str, y: f64, out: &mut String) {
    let x = NAMES - 8.0;
    let _ =
        writeln!(out, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", escape(task));
}

/// Text that cannot be taken for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::eval::tests::summary;
    use super::*;

    #[test]
    fn a_page_is_whole_and_needs_nothing_else() {
        let page = page(&summary());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        for element in ["svg", "table", "p", "h2", "ul"] {
            let [open, close] = [format!("<{element}"), format!("</{element}>")]
                .map(|tag| page.matches(&tag).count());
            assert!(open > 0 && open == close, "{element}: {open} and {close}");
        }
        assert!(!page.contains("http") && !page.contains("src="));
    }

    #[test]
    fn names_are_text_not_markup() {
        let page = page(&summary());
        assert!(page.contains("cwe&lt;&gt;") && !page.contains("cwe<>"));
    }

    #[test]
    fn every_score_has_a_bar_and_every_change_a_point() {
        let page = page(&summary());
        assert_eq!(page.matches("<rect class=\"lfps\" x=").count(), 2);
        assert_eq!(page.matches("<circle class=\"lfps\"").count(), 2);
    }
}
