//! The figures of evaluations as tables.

use std::fmt::Write;

use indicatif::HumanBytes;

use crate::eval::perplexity::PerplexityRow;
use crate::eval::summary::{Comparison, Overall, Row, Summary};

/// Scores, what they change against the reference, and the means.
#[must_use]
pub fn table(summary: &Summary) -> String {
    let mut out = format!("{}, top-k {}\n", summary.model, summary.top_k);
    let width = summary.rows.iter().map(|row| row.task.len()).max().unwrap_or(0).max(8);
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "\n{:width$}  {:>6}  {:9} {:>7} {:>6}  {:>11} {:>8}  {}",
        "task",
        "length",
        "attention",
        "prompts",
        "score",
        "link/token",
        "ms/token",
        against(summary),
    );
    for row in &summary.rows {
        let of_row = |c: &&Comparison| {
            (c.length, &c.task, c.attention) == (row.length, &row.task, row.attention)
        };
        let comparison = summary.paired.iter().find(of_row);
        let change = comparison.map_or_else(String::new, |comparison| change(&comparison.paired));
        let Row { task, length, attention, samples, score, decode_ms_per_token, .. } = row;
        let bytes = bytes(row.link_bytes_per_token);
        let _ = writeln!(
            out,
            "{task:width$}  {length:>6}  {:9} {samples:>7} {score:>6.1}  {bytes:>11} {decode_ms_per_token:>8.2}  {change}",
            attention.to_string(),
        );
    }
    if !summary.overall.is_empty() {
        let _ = writeln!(
            out,
            "\nall prompts of the tasks on which {} scores at least {:.0}:",
            summary.overall[0].against, summary.floor
        );
    }
    for overall in &summary.overall {
        let Overall { length, attention, against, tasks, score, against_score, .. } = overall;
        let worst = match &overall.worst_task {
            Some((task, difference)) => format!("worst {task} {difference:+.1}"),
            None => "no task falls".to_owned(),
        };
        let _ = writeln!(
            out,
            "  {length}: {attention} {score:.1}, {against} {against_score:.1} on {tasks} tasks: {}; {worst}",
            change(&overall.paired)
        );
    }
    for left_out in &summary.left_out {
        let _ = writeln!(out, "left out: {}, {}", left_out.task, left_out.reason);
    }
    if !summary.complete {
        out.push_str("not complete: some prompts are still to be answered\n");
    }
    out
}

/// Heading of the changes.
fn against(summary: &Summary) -> String {
    let reference = summary.paired.first();
    reference.map_or_else(String::new, |comparison| {
        format!("change against {} [95 % interval]", comparison.against)
    })
}

fn change(paired: &crate::eval::paired::Paired) -> String {
    let [low, high] = paired.interval;
    format!(
        "{:+.1} [{low:+.1}, {high:+.1}], {} up, {} down",
        paired.difference, paired.flips_up, paired.flips_down
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes are shown whole"
)]
pub(super) fn bytes(number: f64) -> String {
    HumanBytes(number as u64).to_string()
}

/// Perplexities, and what changes against the first attention.
#[must_use]
pub fn perplexity_table(rows: &[PerplexityRow]) -> String {
    let mut out = format!(
        "{:9} {:>7} {:>7} {:>10} {:>8}  {:>8} {:>11}  difference of log probability by quarter\n",
        "attention", "context", "tokens", "perplexity", "ms/token", "change", "same choice",
    );
    for row in rows {
        let PerplexityRow { attention, context, tokens, perplexity, decode_ms_per_token, .. } = row;
        let _ = write!(
            out,
            "{:9} {context:>7} {tokens:>7} {perplexity:>10.4} {decode_ms_per_token:>8.2}",
            attention.to_string(),
        );
        if let Some(against) = &row.against {
            let [a, b, c, d] = against.mean_difference_by_quarter;
            let _ = write!(
                out,
                "  {:>+6.2} % {:>9.1} %  {a:.4} {b:.4} {c:.4} {d:.4}",
                against.change_percent, against.same_likeliest_percent
            );
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use AttentionPolicy::{Full, Lfps};
    use hindsight_protocol::records::AttentionPolicy;

    use super::*;
    use crate::eval::case::Key;
    use crate::eval::results::Answer;
    use crate::eval::summary::{Answered, LeftOut};

    /// Two tasks, of which lfps does one worse.
    pub(in crate::report) fn summary() -> Summary {
        let mut answers = Vec::new();
        for (task, index, full, lfps) in
            [("vt", 0, 1.0, 0.8), ("vt", 1, 1.0, 1.0), ("cwe<>", 0, 0.4, 0.5)]
        {
            for (attention, score) in [(Full, full), (Lfps, lfps)] {
                let key = Key { file: String::new(), task: task.to_owned(), length: 4096, index };
                let answer = Answer {
                    index,
                    score,
                    prompt_tokens: 4000,
                    prefilled_tokens: 4000,
                    decode_steps: 20,
                    prefill_s: 1.0,
                    decode_s: 0.1,
                    link_bytes: 20.0 * 1024.0,
                };
                answers.push(Answered { key, attention, answer });
            }
        }
        let mut summary = Summary::new("tiny", 256, 20.0, &[Full, Lfps], &answers);
        summary.left_out = vec![LeftOut { task: "qa_1".to_owned(), reason: "no file".to_owned() }];
        summary
    }

    #[test]
    fn a_table_has_scores_changes_and_what_is_missing() {
        let table = table(&Summary { complete: false, ..summary() });
        for part in [
            "vt          4096  lfps            2   90.0     1.00 KiB     5.00  -10.0 [",
            "0 up, 1 down",
            "  4096: lfps 76.7, full 80.0 on 2 tasks: -3.3 [",
            "; worst vt -10.0\n",
            "left out: qa_1, no file\n",
            "not complete",
        ] {
            assert!(table.contains(part), "{part:?} is not in\n{table}");
        }
    }

    #[test]
    fn perplexities_are_compared_with_the_first() {
        let windows = |probability: f32| {
            vec![crate::eval::perplexity::Predicted {
                index: 0,
                log_probabilities: vec![probability.ln(); 4],
                likeliest: vec![1; 4],
                leads: Vec::new(),
                decode_s: 0.01,
            }]
        };
        let (full, lfps) = (windows(0.5), windows(0.4));
        let rows = [
            PerplexityRow::new(Full, 64, &full, None),
            PerplexityRow::new(Lfps, 64, &lfps, Some((Full, &full))),
        ];
        let table = perplexity_table(&rows);
        assert!(table.contains("2.0000") && table.contains("+25.00 %     100.0 %"), "{table}");
    }
}
