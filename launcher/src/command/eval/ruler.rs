//! `hindsight eval ruler`: the tasks of RULER.

use std::path::PathBuf;

use clap::Args;

use super::super::interrupt::Interrupts;
use super::super::pull::fetch;
use super::super::run::prompt::read_file;
use super::super::setup::LocalModel;
use super::arguments::EvalArguments;
use super::evaluation::{Evaluation, Setting, SummaryArguments, unkept};
use super::template::Template;
use crate::error::{Error, Exit};
use crate::eval::case::{Case, Key};
use crate::eval::results::Results;
use crate::eval::ruler::{Documents, DocumentsError, Haystack, Materials, RulerError, Task, draft};
use crate::eval::summary::LeftOut;
use crate::plan::TrainedContext;

/// Answer the 13 tasks of RULER: needles in haystacks, variable tracking, common and frequent words, questions about
/// documents
///
/// Prompts are made here, as RULER makes them, in the model's own tokens and template. Seed, task, length and number of a
/// prompt decide it, so two runs ask the same. Every prompt is answered under each attention, and read once for all.
#[derive(Debug, Args)]
pub(super) struct RulerArguments {
    /// Tokens of prompt and answer together
    #[arg(long, value_delimiter = ',', default_value = "2048,4096")]
    lengths: Vec<usize>,

    /// Tasks by RULER's names, such as niah_single_1 or vt
    #[arg(long, value_delimiter = ',', default_value = "all")]
    tasks: Vec<String>,

    /// Prompts of each task at each length
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,

    /// Another seed gives other prompts
    #[arg(long, default_value_t = 42)]
    seed: u64,

    /// Text to hide needles in [default: the first chapters of Alice in Wonderland]
    #[arg(long, value_name = "FILE")]
    haystack: Option<PathBuf>,

    /// SQuAD 2.0 as JSON (dev-v2.0.json), for qa_1
    #[arg(long, value_name = "FILE")]
    squad: Option<PathBuf>,

    /// HotpotQA as JSON (hotpot_dev_distractor_v1.json), for qa_2
    #[arg(long, value_name = "FILE")]
    hotpot: Option<PathBuf>,

    #[command(flatten)]
    summary: SummaryArguments,

    #[command(flatten)]
    pub(super) common: EvalArguments,
}

pub(super) async fn run(
    arguments: &RulerArguments,
    interrupts: &mut Interrupts,
) -> Result<(), Error> {
    let common = &arguments.common;
    let (tasks, left_out) = tasks(arguments)?;
    common.index.parameters()?;
    let materials = materials(arguments)?;
    let path = fetch(&common.model, common.quiet || common.json, interrupts).await?;
    let model = LocalModel::open(path)?;
    let context = context(arguments, model.trained_context(common.allow_beyond_trained))?;
    let template = Template::of(&model)?;
    let prompts = serde_json::json!({
        "ruler": { "seed": arguments.seed },
        "haystack": arguments.haystack,
        "squad": arguments.squad,
        "hotpot": arguments.hotpot,
    });
    let setting = Setting::new(common, &model, prompts)?;
    let results = Results::open(&common.folder("ruler"), &setting).map_err(unkept)?;
    let make = |key: &Key| {
        let task = Task::by_name(&key.task).expect("keys are made of tasks");
        let count = |draft: &_| Ok::<_, Error>(template.tokens(draft)?.len());
        let draft = draft(task, &materials, key.length, key.index, count).map_err(unmade)?;
        Ok(Case {
            key: key.clone(),
            input: template.text(&draft)?,
            tokens: template.tokens(&draft)?,
            outputs: draft.outputs,
            max_new_tokens: task.answer_tokens(),
            scoring: task.scoring(),
        })
    };
    let keys = keys(&arguments.lengths, arguments.samples, &tasks);
    let summary = &arguments.summary;
    let evaluation = Evaluation { common, summary, model: &model, results, context, left_out };
    evaluation.run(&keys, make, interrupts).await
}

/// The tasks asked for, and those of them that must be left out.
fn tasks(arguments: &RulerArguments) -> Result<(Vec<Task>, Vec<LeftOut>), Error> {
    let mut asked: Vec<Task> = Vec::new();
    for name in &arguments.tasks {
        match Task::by_name(name) {
            Some(task) => asked.push(task),
            None if name == "all" => asked.extend(Task::ALL),
            None => {
                let names = Task::ALL.map(Task::name).join(", ");
                return Err(Error::new(
                    Exit::Usage,
                    "no_such_task",
                    format!("--tasks {name}: RULER has no such task"),
                )
                .with_hint(format!("its tasks are {names}; or say all")));
            }
        }
    }
    asked.sort_unstable();
    asked.dedup();
    let missing = |task: &Task| match task {
        Task::Qa1 if arguments.squad.is_none() => Some("it needs --squad"),
        Task::Qa2 if arguments.hotpot.is_none() => Some("it needs --hotpot"),
        _ => None,
    };
    let left_out = asked.iter().filter_map(|task| {
        let reason = missing(task)?.to_owned();
        Some(LeftOut { task: task.name().to_owned(), reason })
    });
    let left_out = left_out.collect();
    asked.retain(|task| missing(task).is_none());
    Ok((asked, left_out))
}

fn materials(arguments: &RulerArguments) -> Result<Materials, Error> {
    let haystack = match &arguments.haystack {
        None => Haystack::default(),
        Some(path) => Haystack::new(&read_file(path)?).ok_or_else(|| {
            Error::new(Exit::Prompt, "empty_haystack", format!("{} has no words", path.display()))
        })?,
    };
    let documents = |error: DocumentsError| Error::new(Exit::Prompt, "documents", error);
    let mut materials = Materials::new(arguments.seed, haystack);
    materials.squad =
        arguments.squad.as_deref().map(Documents::squad).transpose().map_err(documents)?;
    materials.hotpot =
        arguments.hotpot.as_deref().map(Documents::hotpot).transpose().map_err(documents)?;
    Ok(materials)
}

/// The longest length, if the model was trained on as many tokens.
fn context(arguments: &RulerArguments, trained: TrainedContext) -> Result<usize, Error> {
    let longest = arguments.lengths.iter().copied().max().unwrap_or_default();
    trained.check(format_args!("--lengths {longest}"), longest)?;
    Ok(longest)
}

/// Prompts in the order in which they are asked: all tasks once, then all of them again, so that whatever is done when
/// the user stops it is about the same for each.
fn keys(lengths: &[usize], samples: u64, tasks: &[Task]) -> Vec<Key> {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable();
    lengths.dedup();
    let key = |length, index, task: &Task| Key {
        file: format!("{length}/{task}.jsonl"),
        task: task.name().to_owned(),
        length,
        index,
    };
    lengths
        .into_iter()
        .flat_map(|length| (0..samples).map(move |index| (length, index)))
        .flat_map(|(length, index)| tasks.iter().map(move |task| key(length, index, task)))
        .collect()
}

fn unmade(error: RulerError<Error>) -> Error {
    match error {
        RulerError::Tokens(error) => error,
        error => Error::new(Exit::Prompt, "prompt_unmade", error),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        ruler: RulerArguments,
    }

    fn parse(arguments: &[&str]) -> RulerArguments {
        Command::parse_from(["test"].iter().chain(arguments)).ruler
    }

    #[test]
    fn tasks_without_documents_are_left_out_and_named() {
        let (found, left_out) = tasks(&parse(&["--hotpot", "questions.json"])).unwrap();
        assert_eq!(found.len(), 12);
        assert_eq!((left_out.len(), left_out[0].task.as_str()), (1, "qa_1"));
        assert!(left_out[0].reason.contains("--squad"));
    }

    #[test]
    fn a_task_that_does_not_exist_is_refused_with_those_that_do() {
        let error = tasks(&parse(&["--tasks", "vt,niah"])).unwrap_err();
        assert!(error.message.contains("niah") && error.hint.unwrap().contains("niah_single_1"));
    }

    #[test]
    fn tasks_take_turns() {
        let keys = keys(&[4096, 2048], 2, &[Task::Vt, Task::Cwe]);
        let names: Vec<String> =
            keys.iter().map(|key| format!("{} {}", key.file, key.index)).collect();
        assert_eq!(
            names[..4],
            ["2048/vt.jsonl 0", "2048/cwe.jsonl 0", "2048/vt.jsonl 1", "2048/cwe.jsonl 1"]
        );
        assert_eq!(keys.len(), 8);
    }

    #[test]
    fn lengths_beyond_the_model_are_refused() {
        let arguments = parse(&["--lengths", "2048,16384"]);
        let trained = TrainedContext { tokens: 8192, beyond: false };
        let error = context(&arguments, trained).unwrap_err();
        assert_eq!(error.exit, Exit::DoesNotFit);
        assert!(error.message.contains("16384"));
        let allowed = TrainedContext { beyond: true, ..trained };
        assert_eq!(context(&arguments, allowed).unwrap(), 16_384);
    }
}
