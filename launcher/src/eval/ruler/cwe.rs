//! Common words: a long numbered list of words in which ten stand out.

use super::super::random::Random;
use super::Draft;
use super::words::Words;

/// Words that stand out.
pub(super) const COMMON: usize = 10;

/// How often words are repeated.
struct Repeats {
    common: usize,
    others: usize,
}

/// A prompt of `size` different words. Below 4,096 tokens words are repeated less, and the example is shorter.
pub(super) fn draft(words: &Words, length: usize, size: usize, random: &mut Random) -> Draft {
    let (example_size, example_repeats, repeats) = if length < 4096 {
        (20, Repeats { common: 3, others: 1 }, Repeats { common: 6, others: 1 })
    } else {
        (40, Repeats { common: 10, others: 3 }, Repeats { common: 30, others: 3 })
    };
    let (example, example_common) = list(words, example_size, &example_repeats, random);
    let (context, outputs) = list(words, size, &repeats, random);
    let text = format!(
        "{}{ANSWER_PREFIX} {}\n{}",
        question(&example),
        numbered(&example_common),
        question(&context)
    );
    Draft { text, answer_prefix: ANSWER_PREFIX.to_owned(), outputs }
}

const ANSWER_PREFIX: &str = " Answer: The top 10 words that appear most often in the list are:";

fn question(context: &str) -> String {
    format!(
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that \
         appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?"
    )
}

/// A list of `size` different words, and those that are common in it.
fn list(
    words: &Words,
    size: usize,
    repeats: &Repeats,
    random: &mut Random,
) -> (String, Vec<String>) {
    let drawn: Vec<String> = random
        .sample(words.all.len(), size)
        .into_iter()
        .map(|at| words.all[at].to_owned())
        .collect();
    let (common, others) = drawn.split_at(COMMON.min(drawn.len()));
    let copies = |words: &[String], times| {
        words
            .iter()
            .flat_map(move |word| std::iter::repeat_n(word.clone(), times))
            .collect::<Vec<_>>()
    };
    let mut list = copies(common, repeats.common);
    list.extend(copies(others, repeats.others));
    random.shuffle(&mut list);
    (numbered(&list), common.to_vec())
}

/// `1. word 2. word`.
fn numbered(words: &[String]) -> String {
    let items: Vec<String> =
        words.iter().enumerate().map(|(at, word)| format!("{}. {word}", at + 1)).collect();
    items.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// How often each word of a numbered list occurs.
    fn counts(list: &str) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        for (at, pair) in list.split(' ').collect::<Vec<_>>().chunks(2).enumerate() {
            assert_eq!(pair[0], format!("{}.", at + 1));
            *counts.entry(pair[1]).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn it_reads_like_rulers() {
        for (length, sizes, repeats) in
            [(2048, [40, 6 * 10 + 50], [(3, 1), (6, 1)]), (4096, [190, 450], [(10, 3), (30, 3)])]
        {
            let draft = draft(&Words::load(), length, 60, &mut Random::new(9, &["cwe"]));
            let lines: Vec<&str> = draft.text.lines().collect();
            assert_eq!(lines.len(), 6);
            let introduction = "Below is a numbered list of words. In these words, some appear more often than others. \
                                Memorize the ones that appear most often.";
            assert_eq!((lines[0], lines[3]), (introduction, introduction));
            let question = "Question: What are the 10 most common words in the above list?";
            let (asked, example) = lines[2].split_once(ANSWER_PREFIX).unwrap();
            assert_eq!((asked, lines[5]), (question, question));
            let example: Vec<&str> = example.split(' ').skip(2).step_by(2).collect();
            let outputs: Vec<&str> = draft.outputs.iter().map(String::as_str).collect();
            for (list, answer, size, (common, others)) in [
                (lines[1], example, sizes[0], repeats[0]),
                (lines[4], outputs, sizes[1], repeats[1]),
            ] {
                let counts = counts(list);
                assert_eq!(counts.values().sum::<usize>(), size);
                assert_eq!(answer.len(), COMMON);
                for (word, count) in counts {
                    assert_eq!(count, if answer.contains(&word) { common } else { others });
                }
            }
        }
    }
}
