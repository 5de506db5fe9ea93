//! Frequent words: a text of made-up words whose frequencies follow a zeta distribution.

use super::super::random::Random;
use super::Draft;

const LETTERS: usize = 6;
/// Words asked for.
const ASKED: usize = 3;
/// What stands for the most frequent word.
const DOTS: &str = "...";

/// A prompt of about `size` words, out of a vocabulary of one for each 50 tokens of `length`.
pub(super) fn draft(length: usize, size: usize, random: &mut Random) -> Draft {
    let vocabulary = vocabulary((length / 50).max(ASKED + 2), random);
    let mut words: Vec<&str> = Vec::with_capacity(size);
    for (rank, word) in (1..).zip(&vocabulary) {
        words.extend(std::iter::repeat_n(word.as_str(), occurrences(size, rank)));
    }
    random.shuffle(&mut words);
    let context = words.join(" ");
    Draft {
        text: format!(
            "Read the following coded text and track the frequency of each coded word. Find the three most frequently \
             appeared coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. \
             What are the three most frequently appeared words in the above coded text?"
        ),
        answer_prefix: " Answer: According to the coded text above, the three most frequently appeared words are:"
            .to_owned(),
        outputs: vocabulary[1..=ASKED].to_vec(),
    }
}

/// How often the word of a rank occurs among `size` words: size / (rank² ζ(2)), rounded down.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "texts have fewer than 2^52 words"
)]
fn occurrences(size: usize, rank: u32) -> usize {
    let zeta_2 = std::f64::consts::PI.powi(2) / 6.0;
    (size as f64 / (f64::from(rank).powi(2) * zeta_2)) as usize
}

/// Dots, and then different words.
fn vocabulary(size: usize, random: &mut Random) -> Vec<String> {
    let alphabet: Vec<char> = ('a'..='z').collect();
    let mut vocabulary = vec![DOTS.to_owned()];
    let mut known = std::collections::HashSet::new();
    while vocabulary.len() < size {
        let word: String = (0..LETTERS).map(|_| *random.choose(&alphabet)).collect();
        if known.insert(word.clone()) {
            vocabulary.push(word);
        }
    }
    vocabulary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_like_rulers() {
        let draft = draft(2048, 877, &mut Random::new(2, &["fwe"]));
        let (introduction, rest) = draft.text.split_once("coded words. ").unwrap();
        assert_eq!(
            introduction,
            "Read the following coded text and track the frequency of each coded word. Find the three most frequently \
             appeared "
        );
        let (text, question) = rest.split_once('\n').unwrap();
        assert_eq!(
            question,
            "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most \
             frequently appeared words in the above coded text?"
        );
        let count = |word: &str| text.split(' ').filter(|&other| other == word).count();
        // Counts of a prompt of this length that RULER's own generator made.
        assert_eq!((text.split(' ').count(), count(DOTS)), (845, 533));
        assert_eq!(draft.outputs.iter().map(|word| count(word)).collect::<Vec<_>>(), [133, 59, 33]);
        assert!(draft.outputs.iter().all(|word| word.len() == LETTERS));
    }
}
