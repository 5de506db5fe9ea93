//! The flags of `hindsight run`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use hindsight_gpu_worker::device::probe::probe;
use hindsight_gpu_worker::sampling::SamplingParameters;
use hindsight_protocol::geometry::KvDtype;
use hindsight_protocol::records::AttentionPolicy;
use hindsight_protocol::scheduling::Priority;

use crate::error::Error;
use crate::plan::{ChosenDevice, DeviceWish, MeasuredOn, PageWish};
use crate::topology::{CpuList, Placement, Request};

/// Read a prompt and write the model's answer to standard output
///
/// The prompt comes from --prompt, --prompt-file, or standard input. With both a prompt and a file, the file's text comes
/// first and the prompt after it, so that a question can be asked about a book.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Model: a name that `hindsight pull` knows, a GGUF file, or hf:owner/repo/file.gguf
    #[arg(short, long, env = "HINDSIGHT_MODEL", default_value = "smollm2-135m")]
    pub model: String,

    /// What to say to the model.
    #[command(flatten)]
    pub prompt: PromptArguments,

    /// The most tokens to generate
    #[arg(help_heading = "Length", short = 'n', long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,

    /// Tokens that prompt and text may hold together [default: what they need]
    #[arg(help_heading = "Length", short, long)]
    pub context: Option<usize>,

    /// Allow a context longer than the model was trained on
    #[arg(help_heading = "Length", long)]
    pub allow_beyond_trained: bool,

    /// Which keys are attended to.
    #[command(flatten)]
    pub attention: AttentionArguments,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArguments,

    /// Where it runs.
    #[command(flatten)]
    pub machine: MachineArguments,

    /// What is printed.
    #[command(flatten)]
    pub output: OutputArguments,
}

/// What to say to the model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArguments {
    /// Text of the prompt, or the question about the file
    #[arg(short, long)]
    pub prompt: Option<String>,

    /// File with the prompt, or with the text that the question is about
    #[arg(short = 'f', long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,

    /// Wrap the prompt in the model's chat template [default: if the model has one]
    #[arg(long, conflicts_with = "raw")]
    pub chat: bool,

    /// Give the prompt to the model as it is
    #[arg(long)]
    pub raw: bool,

    /// System message of the chat
    #[arg(long, conflicts_with = "raw")]
    pub system: Option<String>,

    /// Chat template (Jinja) to use instead of the model's own
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub chat_template: Option<PathBuf>,
}

/// Which keys are attended to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Attention")]
pub struct AttentionArguments {
    /// Which keys a decode step attends to
    #[arg(short, long, value_enum, default_value_t = Attention::Lfps)]
    pub attention: Attention,

    /// The index's parameters.
    #[command(flatten)]
    pub index: crate::command::index_arguments::IndexArguments,
}

/// Which keys a decode step attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attention {
    /// Every key: the reference
    Full,
    /// The top-k keys, found by scanning every key
    Exact,
    /// The top-k keys among those that past steps and a sketch predict
    Lfps,
}

impl From<Attention> for AttentionPolicy {
    fn from(attention: Attention) -> Self {
        match attention {
            Attention::Full => Self::Full,
            Attention::Exact => Self::Exact,
            Attention::Lfps => Self::Lfps,
        }
    }
}

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArguments {
    /// 0 takes the likeliest token; higher values choose more freely
    #[arg(short, long, default_value_t = SamplingParameters::default().temperature)]
    pub temperature: f32,

    /// Choose among so many likeliest tokens; 0 is all
    #[arg(long, default_value_t = SamplingParameters::default().top_k)]
    pub sample_top_k: usize,

    /// Choose among the likeliest tokens that hold this share of the probability
    #[arg(long, default_value_t = SamplingParameters::default().top_p)]
    pub top_p: f32,

    /// Choose among tokens at least this likely, relative to the likeliest
    #[arg(long, default_value_t = SamplingParameters::default().min_p)]
    pub min_p: f32,

    /// Make recent tokens less likely; 1 is off
    #[arg(long, default_value_t = SamplingParameters::default().repetition_penalty)]
    pub repetition_penalty: f32,

    /// How many recent tokens the penalty looks at
    #[arg(long, default_value_t = SamplingParameters::default().repetition_window)]
    pub repetition_window: usize,

    /// The same seed gives the same text
    #[arg(long, default_value_t = SamplingParameters::default().seed)]
    pub seed: u64,
}

impl SamplingArguments {
    pub(super) const fn parameters(&self) -> SamplingParameters {
        SamplingParameters {
            temperature: self.temperature,
            top_k: self.sample_top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            repetition_window: self.repetition_window,
            seed: self.seed,
        }
    }
}

/// Where it runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArguments {
    /// Device that computes: auto (the first GPU, or else the CPU), cpu, or cuda:0 and so on
    #[arg(long, env = "HINDSIGHT_DEVICE", default_value_t = DeviceWish::Auto)]
    pub device: DeviceWish,

    /// Size of the block cache on the device, such as 512MiB [default: what two steps attend to]
    #[arg(long, env = "HINDSIGHT_GPU_KV_BYTES", value_name = "SIZE")]
    pub gpu_kv_bytes: Option<ByteSize>,

    /// Link that the mock driver models, such as gen4x16; its times are modelled, not measured
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub mock_link: Option<String>,

    /// CPUs to use in all, the indexer's among them [default: one of each core]
    #[arg(long, env = "HINDSIGHT_THREADS")]
    pub threads: Option<usize>,

    /// Core of the indexer, by the number of its CPU [default: as `hindsight topology` shows]
    #[arg(long, env = "HINDSIGHT_INDEXER_CORE", value_name = "CPU")]
    pub indexer_core: Option<u32>,

    /// Node of the indexer [default: the GPU's, or else the last of those with the most memory]
    #[arg(long, value_name = "NODE")]
    pub indexer_node: Option<u32>,

    /// CPUs of the worker, such as 0-3,8 [default: one of each other core]
    #[arg(long, value_name = "LIST", conflicts_with_all = ["threads", "placement"])]
    pub worker_cpus: Option<CpuList>,

    /// Node that the KV cache's memory comes from, and no other [default: the indexer's, as far as it goes]
    #[arg(long, value_name = "NODE")]
    pub arena_node: Option<u32>,

    /// How indexer and worker share the nodes
    #[arg(long, value_enum, default_value_t = Placement::Auto)]
    pub placement: Placement,

    /// How much the indexer comes before others on its core
    #[arg(long, value_enum, default_value_t = IndexerPriority::Normal)]
    pub indexer_priority: IndexerPriority,

    /// Pages of the KV cache
    #[arg(long, value_enum, default_value_t = PageWish::Auto)]
    pub hugepages: PageWish,

    /// Element type of the KV cache
    #[arg(long, value_enum, default_value_t = Dtype::F16)]
    pub kv_dtype: Dtype,

    /// Tokens of a KV block: 8, 16, 32 or 64
    #[arg(long, default_value_t = 16)]
    pub block_tokens: u32,
}

impl MachineArguments {
    /// The device.
    ///
    /// # Errors
    /// It was asked for and cannot be used, or a link shall be modelled that is real.
    pub(in crate::command) fn device(&self) -> Result<ChosenDevice, Error> {
        let device = self.device.decide(probe)?;
        if let Some(link) = &self.mock_link {
            device.check_mock_link(link)?;
        }
        Ok(device)
    }

    /// The device, if it is not the CPU.
    ///
    /// # Errors
    /// As [`Self::device`].
    pub(in crate::command) fn gpu(&self) -> Result<Option<MeasuredOn>, Error> {
        let device = self.device()?.used;
        let modelled_link = self.mock_link.clone();
        Ok(device.is_cuda().then_some(MeasuredOn { device, modelled_link }))
    }

    /// What is asked of the machine's cores.
    pub(in crate::command) fn request(&self) -> Request {
        Request {
            threads: self.threads,
            indexer_core: self.indexer_core,
            indexer_node: self.indexer_node,
            worker_cpus: self.worker_cpus.clone(),
            arena_node: self.arena_node,
            placement: self.placement,
            indexer_priority: self.indexer_priority.into(),
        }
    }
}

/// How much the indexer comes before others on its core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IndexerPriority {
    /// As any thread: who else wants the core has a share of it
    Normal,
    /// Before every ordinary thread, under the real-time policy
    High,
}

impl From<IndexerPriority> for Priority {
    fn from(priority: IndexerPriority) -> Self {
        match priority {
            IndexerPriority::Normal => Self::Normal,
            IndexerPriority::High => Self::High,
        }
    }
}

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// Half precision: 11 significant bits
    F16,
    /// bfloat16: 8 significant bits, a wider range
    Bf16,
}

impl From<Dtype> for KvDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// What is printed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArguments {
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub json: bool,

    /// Print the text and nothing else
    #[arg(short, long)]
    pub quiet: bool,

    /// Write down what each process did when, and which bytes travelled why, into this folder
    #[arg(long, value_name = "FOLDER")]
    pub profile: Option<PathBuf>,
}
