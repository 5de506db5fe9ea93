//! The figures of a long generation as a table and as a page.

use std::fmt::Write;

use super::eval::bytes;
use super::page::{escape, page};
use super::plot::{PlotError, generation};
use crate::eval::generation::{Departure, Divergence, GenerationReport};

/// Each attention's text, where it departs from the reference's, and how far predictions are apart as the text grows.
#[must_use]
pub fn table(report: &GenerationReport) -> String {
    let mut out = format!(
        "{}, top-k {}, {} prompt tokens\n\n{:9} {:>7} {:>8} {:>11}  departs\n",
        report.model,
        report.top_k,
        report.prompt_tokens,
        "attention",
        "tokens",
        "ms/token",
        "link/token",
    );
    for row in &report.rows {
        let against = report.against.iter().find(|against| against.attention == row.attention);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:9} {:>7} {:>8.2} {:>11}  {}",
            row.attention.to_string(),
            row.tokens,
            row.decode_ms_per_token,
            bytes(row.link_bytes_per_token),
            against.map(departs).unwrap_or_default(),
        );
    }
    if let Some(first) = report.against.first() {
        let _ = writeln!(
            out,
            "\ngiven the text of {}: mean difference of log probability, share of places with the same likeliest token",
            first.against
        );
        let _ = write!(out, "{:>11} {:>8}", "tokens", first.against.to_string());
        for against in &report.against {
            let _ = write!(out, "  {:>8} {:>7}", against.attention.to_string(), "same");
        }
        out.push('\n');
    }
    for (at, stretch) in
        report.against.first().iter().flat_map(|of| of.stretches.iter().enumerate())
    {
        let place = format!("{}–{}", stretch.start, stretch.end);
        let _ = write!(out, "{place:>11} {:>8.3}", stretch.reference_log_probability);
        for against in &report.against {
            let stretch = &against.stretches[at];
            let _ = write!(
                out,
                "  {:>8.4} {:>5.1} %",
                stretch.mean_difference, stretch.same_likeliest_percent
            );
        }
        out.push('\n');
    }
    for against in &report.against {
        let _ = writeln!(out, "{}: {}", against.attention, growth(against));
    }
    if !report.complete {
        out.push_str("not complete: something is still to be done\n");
    }
    out
}

/// The same as a page with plots and the texts themselves.
///
/// # Errors
/// A plot cannot be drawn.
pub fn html(report: &GenerationReport) -> Result<String, PlotError> {
    let mut out = String::new();
    if !report.complete {
        out.push_str("<p>Not complete: something is still to be done.</p>\n");
    }
    let _ = writeln!(
        out,
        "<p>{} prompt tokens, greedy decoding.</p>\n<table><tr><th class=\"text\">attention</th><th>tokens</th>\
         <th>ms per token</th><th>over the link per token</th><th class=\"text\">departs</th></tr>",
        report.prompt_tokens
    );
    for row in &report.rows {
        let against = report.against.iter().find(|against| against.attention == row.attention);
        let _ = writeln!(
            out,
            "<tr><td class=\"text\">{}</td><td>{}</td><td>{:.2}</td><td>{}</td><td class=\"text\">{}</td></tr>",
            row.attention,
            row.tokens,
            row.decode_ms_per_token,
            bytes(row.link_bytes_per_token),
            against.map(departs).unwrap_or_default(),
        );
    }
    out.push_str("</table>\n");
    if let Some(first) = report.against.first() {
        let _ = writeln!(out, "<h2>Given the text of {}</h2>", first.against);
        out.push_str(&generation::differences(report)?);
        out.push_str(&generation::agreement(report)?);
        out.push_str("<ul>\n");
        for against in &report.against {
            let _ = writeln!(out, "<li>{}: {}</li>", against.attention, growth(against));
        }
        out.push_str("</ul>\n");
    }
    for row in &report.rows {
        let (attention, text) = (row.attention, escape(&row.text));
        let _ = writeln!(out, "<h2>Text of {attention}</h2>\n<pre>{text}</pre>");
    }
    Ok(page(&format!("A long text of {}, top-k {}", report.model, report.top_k), &out))
}

fn departs(against: &Divergence) -> String {
    match against.departure {
        None => format!("nowhere from {}", against.against),
        Some(Departure { after_tokens, reference_lead, lead }) => format!(
            "from {} after {after_tokens} tokens, where the likeliest token led by {reference_lead:.3} there and by {lead:.3} here",
            against.against
        ),
    }
}

fn growth(against: &Divergence) -> String {
    let Divergence { mean_difference, growth_per_100_tokens: growth, .. } = against;
    let [low, high] = against.growth_interval;
    format!(
        "{mean_difference:.4} on average, {:.1} % the same; grows by {growth:+.4} [{low:+.4}, {high:+.4}] every 100 tokens",
        against.same_likeliest_percent
    )
}

#[cfg(test)]
mod tests {
    use super::super::page::assert_whole;
    use super::*;
    use crate::eval::generation::tests::report;

    #[test]
    fn a_table_says_where_texts_part_and_how_far_predictions_are_apart() {
        let table = table(&GenerationReport { complete: false, ..report() });
        for part in [
            "tiny, top-k 256, 4000 prompt tokens",
            "full            5     1.00    1.00 KiB",
            "from full after 3 tokens, where the likeliest token led by 3.000 there",
            "        2–4   -0.500    0.5500  50.0 %",
            "lfps: 0.2400 on average, 80.0 % the same; grows by",
            "not complete",
        ] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
    }

    #[test]
    fn a_page_is_whole_and_texts_are_not_markup() {
        let page = html(&report()).unwrap();
        assert_whole(&page, &["svg", "table", "ul", "pre", "h2"]);
        assert!(page.contains("&lt;[1, 2, 3, 9, 8]&gt;"), "{page}");
        assert!(page.contains("tokens decoded"));
    }

    #[test]
    fn nothing_done_yet_is_no_error() {
        let nothing = GenerationReport { rows: Vec::new(), against: Vec::new(), ..report() };
        assert!(html(&nothing).unwrap().contains("tiny"));
        assert!(table(&nothing).contains("tiny"));
    }
}
