//! The figures of an evaluation as one page of HTML, with plots, that needs nothing else.

use std::fmt::Write;

use super::page::{escape, page};
use super::plot::{PlotError, evaluation};
use crate::eval::summary::{Comparison, Row, Summary};

/// The page.
///
/// # Errors
/// A plot cannot be drawn.
pub fn html(summary: &Summary) -> Result<String, PlotError> {
    let mut out = String::new();
    if !summary.complete {
        out.push_str("<p>Not complete: some prompts are still to be answered.</p>\n");
    }
    overall(summary, &mut out);
    for length in lengths(summary) {
        let rows: Vec<&Row> = summary.rows.iter().filter(|row| row.length == length).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<h2>{length} tokens</h2>\n<h3>Scores</h3>");
        out.push_str(&evaluation::scores(&rows)?);
        let changes: Vec<&Comparison> =
            summary.paired.iter().filter(|change| change.length == length).collect();
        if !changes.is_empty() {
            out.push_str(
                "<h3>Change against the reference, in points</h3>\n\
                 <p>Mean over prompts, with a 95 % interval: a bootstrap over prompts, or, where no prompt changes, what \
                 their number allows.</p>\n",
            );
            out.push_str(&evaluation::changes(&changes)?);
        }
        table(&rows, &mut out);
    }
    if !summary.left_out.is_empty() {
        out.push_str("<h2>Left out</h2>\n<ul>\n");
        for left_out in &summary.left_out {
            let (task, reason) = (escape(&left_out.task), escape(&left_out.reason));
            let _ = writeln!(out, "<li>{task}: {reason}</li>");
        }
        out.push_str("</ul>\n");
    }
    Ok(page(&format!("Answers of {}, top-k {}", summary.model, summary.top_k), &out))
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

fn table(rows: &[&Row], out: &mut String) {
    out.push_str(
        "<table><tr><th class=\"text\">task</th><th class=\"text\">attention</th><th>prompts</th><th>score</th>\
         <th>KiB over the link per token</th><th>ms per token</th></tr>\n",
    );
    for row in rows {
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

#[cfg(test)]
mod tests {
    use super::super::eval::tests::summary;
    use super::super::page::assert_whole;
    use super::*;

    #[test]
    fn a_page_is_whole_and_needs_nothing_else() {
        assert_whole(&html(&summary()).unwrap(), &["svg", "table", "p", "h2", "ul"]);
    }

    #[test]
    fn names_are_text_not_markup() {
        let page = html(&summary()).unwrap();
        assert!(page.contains("cwe&lt;&gt;") && !page.contains("cwe<>"));
    }

    #[test]
    fn every_score_has_a_bar_and_every_change_a_point() {
        let page = html(&summary()).unwrap();
        assert_eq!(page.matches("<svg").count(), 2);
        // Two grounds, and two tasks under two attentions.
        assert_eq!(page.matches("<rect").count(), 2 + 4);
        assert_eq!(page.matches("<circle").count(), 2);
    }
}
