//! A running pair of processes that is asked one thing after the other.

use hindsight_gpu_worker::sampling::SamplingParameters;
use hindsight_protocol::control::messages::{Generate, Generated, Score};
use hindsight_protocol::records::AttentionPolicy;
use hindsight_protocol::telemetry::TelemetryPage;

use super::interrupt::{Interrupts, interrupted};
use crate::error::Error;
use crate::eval::perplexity::Predicted;
use crate::plan::MeasuredOn;
use crate::report::progress::RunProgress;
use crate::supervise::{Event, Processes, Settings};

/// A running pair of processes, which remember the prompt before.
#[derive(Debug)]
pub(in crate::command) struct Session {
    processes: Processes,
    measured_on: MeasuredOn,
    top_k: u32,
    token_bytes: u64,
    /// Of these, bytes in layers that lie on a GPU whole.
    resident_token_bytes: u64,
    stop: Vec<u32>,
    sampling: SamplingParameters,
    progress: Option<RunProgress>,
}

/// A text that was generated.
#[derive(Debug)]
pub(in crate::command) struct Text {
    pub(in crate::command) tokens: Vec<u32>,
    pub(in crate::command) generated: Generated,
    /// Bytes that travelled to the worker, or would have with a device of its own.
    pub(in crate::command) link_bytes: f64,
}

/// What was predicted of a given text.
#[derive(Debug, Default)]
pub(in crate::command) struct Scores {
    pub(in crate::command) log_probabilities: Vec<f32>,
    pub(in crate::command) likeliest: Vec<u32>,
    pub(in crate::command) leads: Vec<f32>,
    pub(in crate::command) decode_s: f64,
}

impl Scores {
    /// The same as it is kept, by the number of the text.
    pub(in crate::command) fn keep(self, index: u64) -> Predicted {
        let Self { log_probabilities, likeliest, leads, decode_s } = self;
        Predicted { index, log_probabilities, likeliest, leads, decode_s }
    }
}

impl Session {
    /// Starts the processes. Texts end with a token of `stop`; each token is the likeliest.
    pub(in crate::command) async fn start(
        settings: Settings,
        stop: &[u32],
        interrupts: &mut Interrupts,
    ) -> Result<Self, Error> {
        if settings.device.fell_back() {
            tracing::warn!(why = settings.device.why, "the CPU computes");
        }
        let top_k = u32::try_from(settings.index.top_k).map_err(Error::internal)?;
        let geometry = &settings.arena.geometry;
        let token_bytes = geometry.token_bytes() as u64;
        let measured_on = settings.measured_on();
        let resident_token_bytes = if measured_on.device.is_cuda() {
            let layers = u64::from(geometry.layers);
            token_bytes / layers * layers.min(settings.index.dense_layers as u64)
        } else {
            0
        };
        let processes = tokio::select! {
            started = Processes::start(settings) => started?,
            () = interrupts.next() => return Err(interrupted()),
        };
        let sampling = SamplingParameters::default();
        Ok(Self {
            processes,
            measured_on,
            top_k,
            token_bytes,
            resident_token_bytes,
            stop: stop.to_vec(),
            sampling,
            progress: None,
        })
    }

    /// Tokens are chosen in another way.
    #[must_use]
    pub(in crate::command) fn with_sampling(self, sampling: SamplingParameters) -> Self {
        Self { sampling, ..self }
    }

    /// Each token, be it decoded or predicted, is one unit of work done.
    #[must_use]
    pub(in crate::command) fn with_progress(self, progress: RunProgress) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// The text after a prompt, token by token.
    pub(in crate::command) async fn generate(
        &mut self,
        prompt: &[u32],
        max_tokens: u32,
        policy: AttentionPolicy,
        interrupts: &mut Interrupts,
    ) -> Result<Text, Error> {
        self.generate_stretched(prompt, None, max_tokens, policy, interrupts).await
    }

    /// The same after a prompt whose keys and values are repeated until there are so many: a text of that length, as far
    /// as its cost goes.
    pub(in crate::command) async fn generate_stretched(
        &mut self,
        prompt: &[u32],
        stretched_to: Option<u64>,
        max_tokens: u32,
        policy: AttentionPolicy,
        interrupts: &mut Interrupts,
    ) -> Result<Text, Error> {
        let held = stretched_to.and_then(|to| usize::try_from(to).ok()).unwrap_or(prompt.len());
        let shipped = self.block_bytes();
        let request = Generate {
            prompt: prompt.to_vec(),
            stretched_to,
            max_tokens,
            stop: self.stop.clone(),
            policy,
            top_k: self.top_k,
            sampling: self.sampling,
        };
        self.processes.generate(request).await?;
        let mut tokens = Vec::new();
        let generated = loop {
            match self.next_event(interrupts).await? {
                Event::Token(token) => tokens.push(token),
                Event::Finished(generated) => break generated,
                Event::Prefilled(_) | Event::Scored { .. } => {}
            }
        };
        let shipped = self.block_bytes() - shipped;
        let link_bytes = self.link_bytes(held, generated.decode_steps, policy, shipped);
        Ok(Text { tokens, generated, link_bytes })
    }

    /// How well each token of `text` is predicted after a prompt.
    pub(in crate::command) async fn score(
        &mut self,
        prompt: &[u32],
        text: &[u32],
        policy: AttentionPolicy,
        interrupts: &mut Interrupts,
    ) -> Result<Scores, Error> {
        let (prompt, text) = (prompt.to_vec(), text.to_vec());
        self.processes.score(Score { prompt, text, policy, top_k: self.top_k }).await?;
        let mut scores = Scores::default();
        loop {
            match self.next_event(interrupts).await? {
                Event::Scored { log_probability, likeliest, lead } => {
                    scores.log_probabilities.push(log_probability);
                    scores.likeliest.push(likeliest);
                    scores.leads.push(lead);
                }
                Event::Finished(generated) => {
                    scores.decode_s = generated.decode_s;
                    return Ok(scores);
                }
                Event::Prefilled(_) | Event::Token(_) => {}
            }
        }
    }

    /// The device.
    pub(in crate::command) const fn measured_on(&self) -> &MeasuredOn {
        &self.measured_on
    }

    /// The counters of both processes.
    pub(in crate::command) const fn telemetry(&self) -> &TelemetryPage {
        self.processes.telemetry()
    }

    async fn next_event(&mut self, interrupts: &mut Interrupts) -> Result<Event, Error> {
        let event = tokio::select! {
            event = self.processes.next_event() => event?,
            () = interrupts.next() => return Err(interrupted()),
        };
        if let (Event::Token(_) | Event::Scored { .. }, Some(progress)) = (&event, &self.progress) {
            progress.advance(1);
        }
        Ok(event)
    }

    /// Bytes of selected blocks that travelled so far, or would have with a device of its own.
    fn block_bytes(&self) -> u64 {
        let telemetry = self.processes.telemetry();
        if self.measured_on.device.is_cuda() {
            telemetry.worker.miss_bytes.get()
        } else {
            telemetry.indexer.shipped_bytes.get()
        }
    }

    /// With full attention a step ships every key and value held that is not on the device already; the new token's own
    /// travel the other way.
    #[expect(clippy::cast_precision_loss, reason = "bytes become means of a few digits")]
    fn link_bytes(&self, held: usize, steps: u64, policy: AttentionPolicy, shipped: u64) -> f64 {
        let (token, steps) = (self.token_bytes as f64, steps as f64);
        let shipped = match policy {
            AttentionPolicy::Full => {
                let travelling = (self.token_bytes - self.resident_token_bytes) as f64;
                steps * (held as f64 + (steps + 1.0) / 2.0) * travelling
            }
            AttentionPolicy::Exact | AttentionPolicy::Lfps => shipped as f64,
        };
        shipped + steps * token
    }

    /// Ends the processes: at once if something has failed. Hands on what came of the work.
    pub(in crate::command) async fn end<T>(self, outcome: Result<T, Error>) -> Result<T, Error> {
        match outcome {
            Ok(_) => self.processes.end().await,
            Err(_) => self.processes.abort().await,
        }
        outcome
    }
}
