//! Variable tracking: a value that passes from variable to variable, among sentences that say nothing.

use super::super::random::Random;
use super::Draft;
use super::niah::NOISE;

/// Variables that the value passes through.
pub(super) const VARIABLES: usize = 5;
/// Sentences of the example that goes before the question.
const EXAMPLE_NOISE: usize = 13;

/// A prompt with `size` sentences around the assignments.
pub(super) fn draft(size: usize, random: &mut Random) -> Draft {
    let example = chain(EXAMPLE_NOISE, 3, random);
    let task = chain(size, 5, random);
    let text = format!(
        "{}{} {}\n\n{}",
        example.question,
        example.answer_prefix,
        example.variables.join(" "),
        task.question
    );
    Draft { text, answer_prefix: task.answer_prefix, outputs: task.variables }
}

struct Chain {
    question: String,
    answer_prefix: String,
    variables: Vec<String>,
}

fn chain(noise: usize, name_letters: usize, random: &mut Random) -> Chain {
    let variables = names(name_letters, random);
    let value = random.within(10_000..99_999).to_string();
    let mut assignments = variables.iter().enumerate().map(|(at, name)| match at {
        0 => format!("VAR {name} = {value}"),
        _ => format!("VAR {name} = VAR {} ", variables[at - 1]),
    });
    let mut places = random.sample_sorted(noise, VARIABLES).into_iter().peekable();
    let mut lines = Vec::with_capacity(noise + VARIABLES);
    for at in 0..noise {
        if places.next_if_eq(&at).is_some() {
            lines.extend(assignments.next());
        }
        lines.push(NOISE.to_owned());
    }
    let context = lines.join("\n");
    Chain {
        question: format!(
            "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n\
             Question: Find all variables that are assigned the value {value} in the text above."
        ),
        answer_prefix: format!(
            " Answer: According to the chain(s) of variable assignment in the text above, {VARIABLES} variables are \
             assigned the value {value}, they are: "
        ),
        variables: variables.clone(),
    }
}

/// Different names of capital letters.
fn names(letters: usize, random: &mut Random) -> Vec<String> {
    let alphabet: Vec<char> = ('A'..='Z').collect();
    let mut names: Vec<String> = Vec::with_capacity(VARIABLES);
    while names.len() < VARIABLES {
        let name: String = (0..letters).map(|_| *random.choose(&alphabet)).collect();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_like_rulers() {
        let draft = draft(20, &mut Random::new(5, &["vt"]));
        let lines: Vec<&str> = draft.text.split('\n').filter(|&line| line != NOISE).collect();
        let names: Vec<&str> = lines[2..7].iter().map(|line| &line[4..7]).collect();
        let value = lines[2].rsplit(' ').next().unwrap();
        let [a, b, c, d, e] = draft.outputs.iter().map(String::as_str).collect::<Vec<_>>()[..]
        else {
            panic!("{:?}", draft.outputs);
        };
        let asked = lines[11].rsplit(' ').next().unwrap();
        let introduction =
            "Memorize and track the chain(s) of variable assignment hidden in the following text.";
        let assign = |name, from| format!("VAR {name} = VAR {from} ");
        let expected = [
            introduction.to_owned(),
            String::new(),
            format!("VAR {} = {value}", names[0]),
            assign(names[1], names[0]),
            assign(names[2], names[1]),
            assign(names[3], names[2]),
            assign(names[4], names[3]),
            format!(
                "Question: Find all variables that are assigned the value {value} in the text above. Answer: According \
                 to the chain(s) of variable assignment in the text above, 5 variables are assigned the value {value}, \
                 they are:  {}",
                names.join(" ")
            ),
            String::new(),
            introduction.to_owned(),
            String::new(),
            format!("VAR {a} = {asked}"),
            assign(b, a),
            assign(c, b),
            assign(d, c),
            assign(e, d),
            format!(
                "Question: Find all variables that are assigned the value {asked} in the text above."
            ),
        ];
        assert_eq!(lines, expected);
        assert_eq!(
            draft.answer_prefix,
            format!(
                " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are assigned \
                 the value {asked}, they are: "
            )
        );
        assert_eq!(draft.text.matches(NOISE).count(), EXAMPLE_NOISE + 20);
    }
}
