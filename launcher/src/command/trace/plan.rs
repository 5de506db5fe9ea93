//! What is recorded, worked out before the model is loaded.

use std::path::{Path, PathBuf};

use hindsight_gpu_worker::model::ModelConfig;
use hindsight_gpu_worker::record::PROMPT_QUERIES;
use hindsight_gpu_worker::threads::Threads;
use indicatif::HumanBytes;

use super::{Layers, RecordArguments};
use crate::command::setup::LocalModel;
use crate::error::{Error, Exit};
use crate::models::Specials;
use crate::plan::TrainedContext;
use crate::topology::{Request, Root, Topology, memory};

/// Bytes of activations and scratch.
const WORK_SPACE_BYTES: u64 = 300 << 20;

/// Everything that a recording needs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) model: PathBuf,
    pub(super) config: ModelConfig,
    pub(super) prompt: Vec<u32>,
    /// The text's tokens after the prompt, one for each step; nothing if the model goes its own way.
    pub(super) continuation: Option<Vec<u32>>,
    /// Tokens that end a text of the model.
    pub(super) stop: Vec<u32>,
    pub(super) layers: Vec<usize>,
    pub(super) threads: Threads,
}

impl Plan {
    /// Works out what `arguments` mean for `model` and `text`.
    pub(super) fn new(
        arguments: &RecordArguments,
        model: LocalModel,
        text: &str,
    ) -> Result<Self, Error> {
        let layers = layers(&arguments.layers, model.config.layers)?;
        let length = Length {
            prompt_tokens: arguments.prompt_tokens as usize,
            steps: arguments.steps as usize,
            from_text: !arguments.free_running,
        };
        let trained = model.trained_context(arguments.allow_beyond_trained);
        length.fits_training(trained)?;
        let LocalModel { path: model, config, tokenizer, .. } = model;
        let mut tokens = tokenizer.encode(text, Specials::Parse)?;
        tokenizer.add_bos(&mut tokens);
        let (prompt, continuation) = length.cut(&arguments.text, tokens)?;
        let model_bytes = std::fs::metadata(&model).map_err(Error::internal)?.len();
        let root = Root::machine();
        length.fits_memory(&config, layers.len(), model_bytes, memory::available(&root))?;
        let request = Request { threads: arguments.threads, ..Request::default() };
        let placement = Topology::read(&root).choose(&request)?;
        let cpus = placement.worker_cpus.value.as_slice();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let threads = Threads {
            prefill: count(placement.prefill_threads),
            decode_cores: cpus.to_vec(),
            lent_core: placement.lent_core(),
        };
        let stop = tokenizer.stop_ids().to_vec();
        Ok(Self { model, config, prompt, continuation, stop, layers, threads })
    }
}

fn layers(wanted: &Layers, of_model: usize) -> Result<Vec<usize>, Error> {
    let layers = match wanted {
        Layers::All => (0..of_model).collect(),
        Layers::These(layers) => layers.clone(),
    };
    match layers.iter().find(|&&layer| layer >= of_model) {
        Some(layer) => {
            let message = format!("--layers {wanted}: the model has no layer {layer}");
            Err(Error::new(Exit::Usage, "no_such_layer", message)
                .with_hint(format!("its layers are 0 to {}", of_model - 1)))
        }
        None => Ok(layers),
    }
}

/// How much is recorded.
#[derive(Debug, Clone, Copy)]
struct Length {
    prompt_tokens: usize,
    steps: usize,
    /// Whether the steps' tokens are the text's.
    from_text: bool,
}

impl Length {
    const fn tokens(self) -> usize {
        self.prompt_tokens + self.steps
    }

    fn fits_training(self, trained: TrainedContext) -> Result<(), Error> {
        let (Self { prompt_tokens, steps, .. }, tokens) = (self, self.tokens());
        let what =
            format_args!("--prompt-tokens {prompt_tokens} with --steps {steps}, {tokens} tokens,");
        trained.check(what, tokens)
    }

    /// Cuts the tokens of the text into the prompt and, if the steps go on with the text, theirs.
    fn cut(self, text: &Path, mut tokens: Vec<u32>) -> Result<(Vec<u32>, Option<Vec<u32>>), Error> {
        let needed = if self.from_text { self.tokens() } else { self.prompt_tokens };
        if tokens.len() < needed {
            let message = format!(
                "{} has {} tokens, but prompt and steps take {needed} of it",
                text.display(),
                tokens.len()
            );
            return Err(Error::new(Exit::Prompt, "text_too_short", message)
                .with_hint("choose a longer text, or lower --prompt-tokens or --steps"));
        }
        tokens.truncate(needed);
        let rest = tokens.split_off(self.prompt_tokens);
        Ok((tokens, self.from_text.then_some(rest)))
    }

    fn fits_memory(
        self,
        config: &ModelConfig,
        recorded_layers: usize,
        model_bytes: u64,
        available: u64,
    ) -> Result<(), Error> {
        let bytes = |tokens: usize, rows: usize| {
            let elements = tokens.saturating_mul(rows).saturating_mul(config.head_dim);
            (elements as u64).saturating_mul(2)
        };
        let cache = bytes(self.tokens(), 2 * config.layers * config.kv_heads);
        let queries = bytes(PROMPT_QUERIES + self.steps, recorded_layers * config.heads);
        let parts = [cache, queries, model_bytes, WORK_SPACE_BYTES];
        let needed = parts.into_iter().fold(0, u64::saturating_add);
        if needed <= available {
            return Ok(());
        }
        let [cache, queries, model, work_space] = parts.map(HumanBytes);
        let message = format!(
            "this recording needs {}: keys and values of all layers {cache}, queries {queries}, model {model}, \
             work space {work_space}; but {} are available",
            HumanBytes(needed),
            HumanBytes(available),
        );
        Err(Error::new(Exit::DoesNotFit, "memory", message)
            .with_hint("lower --prompt-tokens or --steps, or choose a smaller model"))
    }
}

#[cfg(test)]
mod tests {
    use hindsight_gpu_worker::model::{Architecture, RopeConfig, RopeScaling, RopeStyle};

    use super::*;

    const LENGTH: Length = Length { prompt_tokens: 7, steps: 3, from_text: true };

    #[test]
    fn a_text_is_cut_into_prompt_and_steps() {
        let (prompt, rest) = LENGTH.cut(Path::new("book"), (0..20).collect()).unwrap();
        assert_eq!((prompt, rest), ((0..7).collect(), Some(vec![7, 8, 9])));
        let free = Length { from_text: false, ..LENGTH };
        assert_eq!(free.cut(Path::new("book"), (0..7).collect()).unwrap().1, None);
    }

    #[test]
    fn a_text_that_is_too_short_is_refused_with_both_lengths() {
        let error = LENGTH.cut(Path::new("book"), (0..9).collect()).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::Prompt, "text_too_short"));
        assert!(error.message.contains("book has 9 tokens"), "{error}");
        assert!(error.message.contains("10"), "{error}");
    }

    #[test]
    fn more_than_the_model_was_trained_on_is_refused() {
        let trained = |tokens| TrainedContext { tokens, beyond: false };
        assert!(LENGTH.fits_training(trained(10)).is_ok());
        let error = LENGTH.fits_training(trained(9)).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::DoesNotFit, "context_beyond_trained"));
    }

    #[test]
    fn a_layer_that_the_model_does_not_have_is_named() {
        assert_eq!(layers(&Layers::All, 3).unwrap(), [0, 1, 2]);
        let error = layers(&Layers::These(vec![1, 30]), 30).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::Usage, "no_such_layer"));
        assert!(error.message.contains("no layer 30"), "{error}");
        assert!(error.hint.unwrap().contains("0 to 29"));
    }

    #[test]
    fn what_does_not_fit_the_memory_is_refused_with_the_arithmetic() {
        let rope = RopeConfig {
            style: RopeStyle::Interleaved,
            theta: 1e4,
            dimension: 64,
            scaling: RopeScaling::None,
        };
        let config = ModelConfig {
            architecture: Architecture::Llama,
            layers: 32,
            heads: 8,
            kv_heads: 8,
            head_dim: 64,
            embedding: 512,
            feed_forward: 512,
            vocabulary: 100,
            rms_epsilon: 1e-5,
            rope,
            trained_context: 1 << 20,
            tied_embeddings: true,
        };
        let long = Length { prompt_tokens: (1 << 20) - 16, steps: 16, from_text: true };
        // 2^20 tokens x 32 layers x 8 heads x 64 elements x 2 bytes, for keys and again for values.
        assert!(long.fits_memory(&config, 1, 0, 65 << 30).is_ok());
        let error = long.fits_memory(&config, 1, 0, 64 << 30).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::DoesNotFit, "memory"));
        assert!(error.message.contains("all layers 64.00 GiB"), "{error}");
    }
}
