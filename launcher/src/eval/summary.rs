//! All answers of an evaluation in rows and comparisons.

use hindsight_protocol::records::AttentionPolicy;
use serde::Serialize;

use super::case::Key;
use super::paired::Paired;
use super::results::Answer;

/// One answer, by whom to what.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The prompt.
    pub key: Key,
    /// Which keys were attended to.
    pub attention: AttentionPolicy,
    /// How it went.
    pub answer: Answer,
}

/// A task at one length under one attention.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The task.
    pub task: String,
    /// Tokens of prompt and answer.
    pub length: usize,
    /// Which keys were attended to.
    pub attention: AttentionPolicy,
    /// Prompts.
    pub samples: usize,
    /// Mean score, from 0 to 100.
    pub score: f64,
    /// Mean tokens of a prompt.
    pub prompt_tokens: f64,
    /// Bytes that travelled to the worker for each token, or would have with a device of its own.
    pub link_bytes_per_token: f64,
    /// Milliseconds of a decode step.
    pub decode_ms_per_token: f64,
}

/// A task at one length under one attention against another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// Tokens of prompt and answer.
    pub length: usize,
    /// The one.
    pub attention: AttentionPolicy,
    /// The other.
    pub against: AttentionPolicy,
    /// What the one changes.
    #[serde(flatten)]
    pub paired: Paired,
}

/// All tasks at one length together that the reference can do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overall {
    /// Tokens of prompt and answer.
    pub length: usize,
    /// The one.
    pub attention: AttentionPolicy,
    /// The other.
    pub against: AttentionPolicy,
    /// Tasks on which the other scores at least [`Summary::floor`].
    pub tasks: usize,
    /// Tasks on which it does not.
    pub tasks_below_floor: usize,
    /// Mean score of the one over all prompts of these tasks.
    pub score: f64,
    /// Mean score of the other.
    pub against_score: f64,
    /// What the one changes.
    #[serde(flatten)]
    pub paired: Paired,
    /// The task whose score falls most, and by how much; none if no score falls.
    pub worst_task: Option<(String, f64)>,
}

/// A task without prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The task.
    pub task: String,
    /// Why.
    pub reason: String,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The model, as the user named it.
    pub model: String,
    /// Keys that each KV head selects.
    pub top_k: usize,
    /// Score of the reference below which a task says nothing about what is compared with it.
    pub floor: f64,
    /// Every task at every length under every attention.
    pub rows: Vec<Row>,
    /// Every row against the reference's, over the prompts that both have answered.
    pub paired: Vec<Comparison>,
    /// Tasks taken together.
    pub overall: Vec<Overall>,
    /// What has no prompts.
    pub left_out: Vec<LeftOut>,
    /// Whether prompts are still to be answered.
    pub complete: bool,
}

impl Summary {
    /// Puts answers together. Every attention is compared with the first of `attentions`.
    #[must_use]
    pub fn new(
        model: &str,
        top_k: usize,
        floor: f64,
        attentions: &[AttentionPolicy],
        answers: &[Answered],
    ) -> Self {
        let mut groups: Vec<(usize, &str)> = Vec::new();
        for Answered { key, .. } in answers {
            if !groups.contains(&(key.length, &key.task)) {
                groups.push((key.length, &key.task));
            }
        }
        groups.sort_by_key(|(length, _)| *length);
        let select = |(length, task): (usize, &str), attention| {
            let of = move |answered: &&Answered| {
                answered.key.length == length
                    && answered.key.task == task
                    && answered.attention == attention
            };
            answers.iter().filter(of).collect::<Vec<_>>()
        };
        let mut summary = Self {
            model: model.to_owned(),
            top_k,
            floor,
            rows: Vec::new(),
            paired: Vec::new(),
            overall: Vec::new(),
            left_out: Vec::new(),
            complete: true,
        };
        let Some((&reference, others)) = attentions.split_first() else {
            return summary;
        };
        for &group in &groups {
            for &attention in attentions {
                summary.rows.extend(row(group, attention, &select(group, attention)));
            }
            for &attention in others {
                let pairs = pairs(&select(group, attention), &select(group, reference));
                if !pairs.is_empty() {
                    let (length, task) = (group.0, group.1.to_owned());
                    let paired = Paired::new(&pairs);
                    let against = reference;
                    summary.paired.push(Comparison { task, length, attention, against, paired });
                }
            }
        }
        let mut lengths: Vec<usize> = groups.iter().map(|(length, _)| *length).collect();
        lengths.dedup();
        for length in lengths {
            let tasks: Vec<_> = groups.iter().filter(|group| group.0 == length).copied().collect();
            for &attention in others {
                let tasks = tasks.iter().map(|&group| {
                    (group.1, pairs(&select(group, attention), &select(group, reference)))
                });
                let tasks: Vec<_> = tasks.filter(|(_, pairs)| !pairs.is_empty()).collect();
                summary.overall.extend(overall(length, attention, reference, floor, &tasks));
            }
        }
        summary
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts become means of a few digits")]
fn row(
    (length, task): (usize, &str),
    attention: AttentionPolicy,
    answers: &[&Answered],
) -> Option<Row> {
    let samples = answers.len();
    let sum = |of: fn(&Answer) -> f64| answers.iter().map(|a| of(&a.answer)).sum::<f64>();
    let steps = sum(|answer| answer.decode_steps as f64).max(1.0);
    (samples > 0).then(|| Row {
        task: task.to_owned(),
        length,
        attention,
        samples,
        score: 100.0 * sum(|answer| answer.score) / samples as f64,
        prompt_tokens: sum(|answer| answer.prompt_tokens as f64) / samples as f64,
        link_bytes_per_token: sum(|answer| answer.link_bytes) / steps,
        decode_ms_per_token: 1e3 * sum(|answer| answer.decode_s) / steps,
    })
}

/// The scores of prompts that both have answered: the one's and the other's.
fn pairs(answers: &[&Answered], against: &[&Answered]) -> Vec<(f64, f64)> {
    answers
        .iter()
        .filter_map(|answered| {
            let other = against.iter().find(|other| other.key == answered.key)?;
            Some((answered.answer.score, other.answer.score))
        })
        .collect()
}

fn mean(scores: impl ExactSizeIterator<Item = f64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "prompts are few")]
    let count = scores.len().max(1) as f64;
    100.0 * scores.sum::<f64>() / count
}

fn overall(
    length: usize,
    attention: AttentionPolicy,
    against: AttentionPolicy,
    floor: f64,
    tasks: &[(&str, Vec<(f64, f64)>)],
) -> Option<Overall> {
    let able: Vec<_> =
        tasks.iter().filter(|(_, pairs)| mean(pairs.iter().map(|pair| pair.1)) >= floor).collect();
    let pooled: Vec<(f64, f64)> =
        able.iter().flat_map(|(_, pairs)| pairs.iter().copied()).collect();
    let worst = able
        .iter()
        .map(|(task, pairs)| (*task, mean(pairs.iter().map(|(score, against)| score - against))))
        .filter(|(_, difference)| *difference < 0.0)
        .min_by(|a, b| a.1.total_cmp(&b.1));
    (!pooled.is_empty()).then(|| Overall {
        length,
        attention,
        against,
        tasks: able.len(),
        tasks_below_floor: tasks.len() - able.len(),
        score: mean(pooled.iter().map(|pair| pair.0)),
        against_score: mean(pooled.iter().map(|pair| pair.1)),
        paired: Paired::new(&pooled),
        worst_task: worst.map(|(task, difference)| (task.to_owned(), difference)),
    })
}

#[cfg(test)]
mod tests {
    use AttentionPolicy::{Full, Lfps};

    use super::*;

    fn answered(task: &str, index: u64, attention: AttentionPolicy, score: f64) -> Answered {
        let key = Key { file: format!("{task}.jsonl"), task: task.to_owned(), length: 2048, index };
        let answer = Answer {
            index,
            score,
            prompt_tokens: 1900,
            prefilled_tokens: 1900,
            decode_steps: 10,
            prefill_s: 1.0,
            decode_s: 0.1,
            link_bytes: 500.0,
        };
        Answered { key, attention, answer }
    }

    fn summary() -> Summary {
        let answers = [
            answered("vt", 0, Full, 1.0),
            answered("vt", 0, Lfps, 0.8),
            answered("vt", 1, Full, 1.0),
            answered("vt", 1, Lfps, 1.0),
            answered("cwe", 0, Full, 0.1),
            answered("cwe", 0, Lfps, 0.0),
            answered("fwe", 0, Full, 0.5),
            answered("fwe", 0, Lfps, 1.0),
            answered("fwe", 1, Full, 0.5),
        ];
        Summary::new("m", 256, 20.0, &[Full, Lfps], &answers)
    }

    #[test]
    fn rows_are_means_and_rates() {
        let summary = summary();
        let row =
            summary.rows.iter().find(|row| row.task == "vt" && row.attention == Lfps).unwrap();
        assert_eq!((row.samples, row.length), (2, 2048));
        assert!((row.score - 90.0).abs() < 1e-9);
        assert!((row.link_bytes_per_token - 50.0).abs() < 1e-9);
        assert!((row.decode_ms_per_token - 10.0).abs() < 1e-9);
    }

    #[test]
    fn only_prompts_that_both_have_answered_are_compared() {
        let summary = summary();
        let fwe = summary.paired.iter().find(|comparison| comparison.task == "fwe").unwrap();
        assert_eq!((fwe.paired.samples, fwe.paired.flips_up), (1, 1));
    }

    #[test]
    fn tasks_that_the_reference_cannot_do_count_for_nothing() {
        let [ref overall] = summary().overall[..] else { panic!() };
        assert_eq!((overall.tasks, overall.tasks_below_floor, overall.paired.samples), (2, 1, 3));
        assert!((overall.paired.difference - 10.0).abs() < 1e-9);
        let (task, difference) = overall.worst_task.as_ref().unwrap();
        assert!(task == "vt" && (difference + 10.0).abs() < 1e-9);
    }

    #[test]
    fn json_has_flat_comparisons() {
        let json = serde_json::to_value(summary()).unwrap();
        assert_eq!(json["paired"][0]["against"], "full");
        assert!(json["paired"][0]["flips_down"].is_u64() && json["rows"][0]["score"].is_f64());
    }
}
