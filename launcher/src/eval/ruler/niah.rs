//! Needles in a haystack: sentences that state a magic number, and a question about some of them.

use super::super::random::Random;
use super::{Draft, Materials, Task};

/// Sentence of a haystack that says nothing.
pub(super) const NOISE: &str = "The grass is green. The sky is blue. The sun is yellow. Here we go. \
                                There and back again.";

/// Needles in a text lie at some of so many depths.
const DEPTHS: usize = 40;

/// What is hidden in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    haystack: Hay,
    key: Key,
    value: Value,
    keys: usize,
    values_per_key: usize,
    queries: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hay {
    Noise,
    Text,
    Needles,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Words,
    Uuid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Number,
    Uuid,
}

impl Value {
    const fn plural(self) -> &'static str {
        match self {
            Self::Number => "numbers",
            Self::Uuid => "uuids",
        }
    }

    const fn singular(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Uuid => "uuid",
        }
    }
}

/// What a needle task hides in what.
pub(super) const fn kind(task: Task) -> Kind {
    let single = Kind {
        haystack: Hay::Text,
        key: Key::Words,
        value: Value::Number,
        keys: 1,
        values_per_key: 1,
        queries: 1,
    };
    match task {
        Task::NiahSingle1 => Kind { haystack: Hay::Noise, ..single },
        Task::NiahSingle3 => Kind { value: Value::Uuid, ..single },
        Task::NiahMultikey1 => Kind { keys: 4, ..single },
        Task::NiahMultikey2 => Kind { haystack: Hay::Needles, ..single },
        Task::NiahMultikey3 => {
            Kind { haystack: Hay::Needles, key: Key::Uuid, value: Value::Uuid, ..single }
        }
        Task::NiahMultivalue => Kind { values_per_key: 4, ..single },
        Task::NiahMultiquery => Kind { keys: 4, queries: 4, ..single },
        _ => single,
    }
}

/// A prompt whose haystack has `size` sentences, or words if it is a text.
pub(super) fn draft(kind: Kind, materials: &Materials, size: usize, random: &mut Random) -> Draft {
    let pairs: Vec<(String, Vec<String>)> = (0..kind.keys)
        .map(|_| {
            let key = key(kind, materials, random);
            (key, (0..kind.values_per_key).map(|_| value(kind.value, random)).collect())
        })
        .collect();
    let mut needles: Vec<String> = pairs
        .iter()
        .flat_map(|(key, values)| values.iter().map(|value| needle(kind.value, key, value)))
        .collect();
    random.shuffle(&mut needles);
    let context = match kind.haystack {
        Hay::Text => in_text(&materials.haystack.sentences(size), &needles, random),
        Hay::Noise => among(vec![NOISE.to_owned(); size], needles, random),
        Hay::Needles => {
            let hay = (0..size).map(|_| {
                needle(kind.value, &key(kind, materials, random), &value(kind.value, random))
            });
            let hay = hay.collect();
            among(hay, needles, random)
        }
    };
    let asked = random.sample(kind.keys, kind.queries);
    let queries: Vec<&str> = asked.iter().map(|&at| pairs[at].0.as_str()).collect();
    let outputs: Vec<String> = asked.iter().flat_map(|&at| pairs[at].1.clone()).collect();
    let query = list(&queries);
    let (text, answer_prefix) = if outputs.len() == 1 {
        let what = kind.value.singular();
        (
            format!(
                "A special magic {what} is hidden within the following text. Make sure to memorize it. I will quiz you \
                 about the {what} afterwards.\n{context}\nWhat is the special magic {what} for {query} mentioned in the \
                 provided text?"
            ),
            format!(" The special magic {what} for {query} mentioned in the provided text is"),
        )
    } else {
        let what = kind.value.plural();
        (
            format!(
                "Some special magic {what} are hidden within the following text. Make sure to memorize it. I will quiz \
                 you about the {what} afterwards.\n{context}\nWhat are all the special magic {what} for {query} \
                 mentioned in the provided text?"
            ),
            format!(" The special magic {what} for {query} mentioned in the provided text are"),
        )
    };
    Draft { text, answer_prefix, outputs }
}

fn needle(value_kind: Value, key: &str, value: &str) -> String {
    format!("One of the special magic {} for {key} is: {value}.", value_kind.plural())
}

fn key(kind: Kind, materials: &Materials, random: &mut Random) -> String {
    match kind.key {
        Key::Words => materials.words.pair(random),
        Key::Uuid => uuid(random),
    }
}

fn value(kind: Value, random: &mut Random) -> String {
    match kind {
        Value::Number => random.within(1_000_000..10_000_000).to_string(),
        Value::Uuid => uuid(random),
    }
}

/// A random UUID of version 4.
fn uuid(random: &mut Random) -> String {
    let bits = random.bits() & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// `a, b, and c`.
fn list(items: &[&str]) -> String {
    match items {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{}, and {last}", first.join(", ")),
    }
}

/// Needles between the sentences of a text, at some of [`DEPTHS`] evenly spaced depths.
fn in_text(sentences: &[String], needles: &[String], random: &mut Random) -> String {
    let depths = random.sample_sorted(DEPTHS, needles.len());
    let mut parts: Vec<&str> = Vec::with_capacity(sentences.len() + needles.len());
    let mut last = 0;
    for (depth, needle) in depths.into_iter().zip(needles) {
        let at = sentences.len() * depth / (DEPTHS - 1);
        parts.extend(sentences[last..at].iter().map(String::as_str));
        parts.push(needle);
        last = at;
    }
    parts.extend(sentences[last..].iter().map(String::as_str));
    parts.join(" ")
}

/// Needles between the lines of `hay`.
fn among(hay: Vec<String>, needles: Vec<String>, random: &mut Random) -> String {
    let mut places = random.sample_sorted(hay.len(), needles.len()).into_iter().peekable();
    let mut needles = needles.into_iter();
    let mut lines = Vec::with_capacity(hay.len() + needles.len());
    for (at, line) in hay.into_iter().enumerate() {
        if places.next_if_eq(&at).is_some() {
            lines.extend(needles.next());
        }
        lines.push(line);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::Haystack;
    use super::*;

    fn draft(task: Task, size: usize) -> Draft {
        let materials = Materials::new(0, Haystack::default());
        super::draft(kind(task), &materials, size, &mut Random::new(11, &["niah"]))
    }

    /// The form of a prompt: letters of keys and digits of values made alike.
    fn form(text: &str, draft: &Draft) -> String {
        let mut form = text.to_owned();
        for output in &draft.outputs {
            form = form.replace(output.as_str(), "VALUE");
        }
        let key = |word: &&str| word.contains('-') && !word.contains("--");
        let keys: Vec<&str> = text.split([' ', ',', '\n', ':', '?']).filter(key).collect();
        keys.iter().fold(form, |form, key| form.replace(key, "KEY"))
    }

    #[test]
    fn a_single_needle_in_noise_reads_like_rulers() {
        let draft = draft(Task::NiahSingle1, 4);
        let lines: Vec<&str> = draft.text.lines().collect();
        let noise = lines.iter().filter(|&&line| line == NOISE).count();
        assert_eq!((lines.len(), noise), (7, 4));
        let rest: Vec<&str> = lines.into_iter().filter(|&line| line != NOISE).collect();
        assert_eq!(
            form(&rest.join("\n"), &draft),
            "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about \
             the number afterwards.\n\
             One of the special magic numbers for KEY is: VALUE.\n\
             What is the special magic number for KEY mentioned in the provided text?"
        );
        assert_eq!(
            form(&draft.answer_prefix, &draft),
            " The special magic number for KEY mentioned in the provided text is"
        );
        assert!(draft.outputs[0].len() == 7 && draft.outputs[0].parse::<u32>().is_ok());
    }

    #[test]
    fn several_queries_read_like_rulers() {
        let draft = draft(Task::NiahMultiquery, 300);
        let question = draft.text.lines().last().unwrap();
        assert_eq!(
            form(question, &draft),
            "What are all the special magic numbers for KEY, KEY, KEY, and KEY mentioned in the provided text?"
        );
        assert!(draft.text.starts_with("Some special magic numbers are hidden within the"));
        assert!(draft.answer_prefix.ends_with(" mentioned in the provided text are"));
        assert_eq!(draft.outputs.len(), 4);
    }

    #[test]
    fn needles_in_a_text_stand_between_its_sentences() {
        let draft = draft(Task::NiahMultivalue, 400);
        let needles: Vec<_> = draft.text.match_indices("One of the special magic").collect();
        assert_eq!((needles.len(), draft.outputs.len()), (4, 4));
        for (at, _) in needles {
            let before = draft.text[..at].trim_end_matches([' ', '\n', '\'', '"', ')']);
            assert!(before.ends_with(['.', '!', '?']), "{:?}", &draft.text[at - 20..at]);
        }
    }

    #[test]
    fn keys_and_values_of_the_third_multikey_task_are_uuids() {
        let draft = draft(Task::NiahMultikey3, 9);
        let lines: Vec<&str> = draft.text.lines().skip(1).collect();
        assert_eq!(lines.len(), 11);
        let (needles, question) = lines.split_at(10);
        let start = "One of the special magic uuids for ";
        for needle in needles {
            let (key, value) = needle.strip_prefix(start).unwrap().split_once(" is: ").unwrap();
            let value = value.strip_suffix('.').unwrap();
            for uuid in [key, value] {
                let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
                assert_eq!(groups, [8, 4, 4, 4, 12]);
                assert!(uuid.as_bytes()[14] == b'4' && b"89ab".contains(&uuid.as_bytes()[19]));
            }
            let asked = question[0].contains(key);
            assert_eq!(asked, value == draft.outputs[0]);
        }
    }

    #[test]
    fn a_needle_may_lie_at_either_end() {
        let sentences: Vec<String> = (0..50).map(|number| format!("S{number}.")).collect();
        let mut random = Random::new(3, &["depths"]);
        let places: Vec<String> =
            (0..400).map(|_| in_text(&sentences, &["N.".to_owned()], &mut random)).collect();
        assert!(places.iter().any(|text| text.starts_with("N. S0.")));
        assert!(places.iter().any(|text| text.ends_with("S49. N.")));
    }
}
