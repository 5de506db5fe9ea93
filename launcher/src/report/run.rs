//! The summary of a run.

use std::fmt;

use hindsight_protocol::control::messages::{Generated, StopReason};
use hindsight_protocol::records::AttentionPolicy;
use hindsight_protocol::telemetry::Telemetry;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::plan::ChosenDevice;
use crate::report::placement::PlacementReport;
use crate::report::traffic::GpuTraffic;
use crate::supervise::Role;

/// More than one stall of a decode thread in so many steps is worth a warning.
const STEPS_PER_STALL: u64 = 8;

/// What a run was made with.
#[derive(Debug, Clone, Serialize)]
pub struct RunSetting {
    /// The model, as the user named it.
    pub model: String,
    /// Which keys were attended to.
    pub attention: AttentionPolicy,
    /// Keys that each KV head selected, besides sink and window.
    pub top_k: usize,
    /// Tokens that prompt and text could hold.
    pub context: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Bytes of keys and values of one token.
    #[serde(skip)]
    pub token_bytes: u64,
    /// Of these, bytes in layers that stay on the device whole.
    #[serde(skip)]
    pub dense_token_bytes: u64,
    /// The device that computed.
    pub device: ChosenDevice,
    /// The link that the mock driver modelled: no time of the run was measured on a device then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelled_link: Option<String>,
    /// Bytes of the worker's block cache.
    pub cache_bytes: u64,
    /// Cores that the indexer may run on.
    #[serde(skip)]
    pub indexer_cores: Vec<u32>,
    /// The processes.
    pub processes: Vec<ProcessReport>,
}

/// A process of the run.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessReport {
    /// Its role.
    pub role: Role,
    /// Its process id.
    pub pid: u32,
}

/// How good the predictions were, by the selections that were checked against an exact scan.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AuditReport {
    /// Share of the exact top-k that was selected; nothing where nothing was checked.
    pub recall: Option<f64>,
    /// Softmax mass of the selection over that of the exact top-k.
    pub mass: Option<f64>,
    /// Selections checked.
    pub samples: u64,
}

/// All figures of a finished run.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    #[serde(flatten)]
    setting: RunSetting,
    token_ids: Vec<u32>,
    text: String,
    stop_reason: StopReason,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    time_to_first_token_s: f64,
    kv_bytes: u64,
    /// Bytes of selected blocks and of new keys and values that travelled per decoded token, or would have with a device
    /// apart. With full attention they are computed: all keys and values, but for layers that lie on a GPU.
    link_bytes_per_token: f64,
    full_link_bytes_per_token: f64,
    /// The first over the second.
    share_of_full_streaming: f64,
    blocks_per_token: f64,
    cache_hit_rate: Option<f64>,
    evictions_per_token: f64,
    /// What travelled between host and GPU, if one computed.
    gpu_traffic: Option<GpuTraffic>,
    candidates_per_selection: f64,
    repair_rate: Option<f64>,
    /// Share of the selections from candidates that expected queries had proposed in time.
    rehearsed_rate: Option<f64>,
    /// Share of the selections for which expected queries proposed in vain.
    misled_rate: Option<f64>,
    /// Steps that attended to every key, as the context was short.
    dense_steps: u64,
    select_us_per_token: f64,
    waiting_us_per_token: f64,
    attention_us_per_token: f64,
    kv_overflows: u64,
    /// Times that a decode thread lost its core in the midst of a task, and decode went on with fewer for a while.
    helper_stalls: u64,
    decode_steps: u64,
    audit: AuditReport,
    indexer_core: Option<u32>,
    placement: PlacementReport,
}

impl RunReport {
    /// Why the text ended.
    #[must_use]
    pub const fn stop_reason(&self) -> StopReason {
        self.stop_reason
    }

    /// Puts the figures together.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts become rates of a few digits")]
    pub fn new(
        setting: RunSetting,
        placement: PlacementReport,
        generated: &Generated,
        token_ids: Vec<u32>,
        text: String,
        telemetry: &Telemetry,
    ) -> Self {
        let steps = generated.decode_steps;
        let per_step = |count: u64| count as f64 / steps.max(1) as f64;
        let rate = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let indexer = &telemetry.indexer;
        let worker = &telemetry.worker;
        let hits = indexer.hit_blocks.get();
        let misses = indexer.miss_blocks.get();
        let audits = indexer.audits.get();
        let audited = |sum: f64| (audits > 0).then(|| sum / audits as f64);
        let held = setting.prompt_tokens as u64 + steps;
        // A step at which n tokens are held ships them all; over the steps that is the mean context.
        let mean_context = setting.prompt_tokens as f64 + (steps as f64 + 1.0) / 2.0;
        let append = setting.token_bytes as f64;
        let full = mean_context * setting.token_bytes as f64 + append;
        let on_gpu = setting.device.used.is_cuda();
        let resident = if on_gpu { mean_context * setting.dense_token_bytes as f64 } else { 0.0 };
        let blocks = if on_gpu { &worker.miss_bytes } else { &indexer.shipped_bytes };
        let shipped = match setting.attention {
            AttentionPolicy::Full => full - resident,
            _ => per_step(blocks.get()) + append,
        };
        Self {
            prefill_tokens_per_s: setting.prompt_tokens as f64 / generated.prefill_s.max(1e-9),
            decode_tokens_per_s: if steps == 0 { 0.0 } else { steps as f64 / generated.decode_s },
            time_to_first_token_s: generated.first_token_s,
            kv_bytes: held * setting.token_bytes,
            link_bytes_per_token: shipped,
            full_link_bytes_per_token: full,
            share_of_full_streaming: shipped / full,
            blocks_per_token: per_step(misses),
            cache_hit_rate: rate(hits, hits + misses),
            evictions_per_token: per_step(indexer.evictions.get()),
            gpu_traffic: on_gpu.then(|| GpuTraffic::of(worker)),
            candidates_per_selection: rate(indexer.candidates.get(), indexer.selections.get())
                .unwrap_or(0.0),
            repair_rate: rate(indexer.repairs.get(), indexer.selections.get()),
            rehearsed_rate: rate(indexer.rehearsed.get(), indexer.selections.get()),
            misled_rate: rate(indexer.misled.get(), indexer.selections.get()),
            dense_steps: worker.dense_steps.get(),
            select_us_per_token: per_step(indexer.select_ns.get()) / 1e3,
            waiting_us_per_token: per_step(worker.waiting_ns.get()) / 1e3,
            attention_us_per_token: per_step(worker.attention_ns.get()) / 1e3,
            kv_overflows: worker.overflows.get(),
            helper_stalls: worker.helper_stalls.get(),
            decode_steps: steps,
            audit: AuditReport {
                recall: audited(indexer.audit_recall.get()),
                mass: audited(indexer.audit_mass.get()),
                samples: audits,
            },
            indexer_core: match setting.indexer_cores[..] {
                [core] => Some(core),
                _ => None,
            },
            placement,
            stop_reason: generated.stop_reason,
            token_ids,
            text,
            setting,
        }
    }
}

/// One screen for people.
impl fmt::Display for RunReport {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes are shown whole"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |bytes: f64| HumanBytes(bytes as u64);
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let RunSetting { prompt_tokens, context, attention, top_k, cache_bytes, .. } =
            &self.setting;
        let tokens = self.token_ids.len();
        let reason = match self.stop_reason {
            StopReason::EndOfText => "end of text",
            StopReason::MaxTokens => "token limit",
            StopReason::ContextFull => "context full",
            StopReason::Cancelled => "interrupted",
        };
        writeln!(
            f,
            "context   {prompt_tokens} prompt + {tokens} generated of {context} tokens ({reason})"
        )?;
        writeln!(
            f,
            "speed     prefill {:.0} tokens/s, first token after {:.2} s, decode {:.1} tokens/s",
            self.prefill_tokens_per_s, self.time_to_first_token_s, self.decode_tokens_per_s
        )?;
        writeln!(f, "device    {} ({})", self.setting.device, self.setting.device.why)?;
        if let Some(link) = &self.setting.modelled_link {
            writeln!(f, "          with a modelled link, {link}: times are no measurements")?;
        }
        writeln!(f, "KV cache  {} in host memory", HumanBytes(self.kv_bytes))?;
        let on_gpu = self.gpu_traffic.is_some();
        let [travel, blocks_travel, are] = if on_gpu {
            ["travelled to and from the GPU", "travelled", "were"]
        } else {
            ["would travel to a GPU", "travel", "are"]
        };
        match attention {
            AttentionPolicy::Full => writeln!(
                f,
                "link      {}{} per token {travel}",
                if on_gpu { "about " } else { "" },
                whole(self.link_bytes_per_token)
            )?,
            _ => {
                writeln!(
                    f,
                    "link      {} per token {travel}, {} of the {} of full attention",
                    whole(self.link_bytes_per_token),
                    percent(self.share_of_full_streaming),
                    whole(self.full_link_bytes_per_token)
                )?;
                writeln!(
                    f,
                    "          {:.0} blocks per token {blocks_travel}, {} of those attended {are} cached ({} on the device, and {} of dense layers)",
                    self.blocks_per_token,
                    self.cache_hit_rate.map_or_else(|| "none".to_owned(), percent),
                    HumanBytes(*cache_bytes),
                    HumanBytes(self.setting.dense_token_bytes * (*prompt_tokens + tokens) as u64)
                )?;
                if on_gpu {
                    let evictions = self.evictions_per_token;
                    writeln!(f, "          {evictions:.1} cached blocks per token made room")?;
                }
            }
        }
        if let Some(traffic) = &self.gpu_traffic {
            writeln!(f, "          {traffic}")?;
        }
        if *attention != AttentionPolicy::Full {
            writeln!(
                f,
                "index     {attention}, top-k {top_k}: {:.0} candidates per selection, {:.0} us per token, worker waits {:.0} us",
                self.candidates_per_selection, self.select_us_per_token, self.waiting_us_per_token
            )?;
            if let (Some(rehearsed), Some(misled)) = (self.rehearsed_rate, self.misled_rate)
                && rehearsed > 0.0
            {
                let [rehearsed, misled] = [rehearsed, misled].map(percent);
                writeln!(
                    f,
                    "          candidates of {rehearsed} of the selections proposed before their query came, {misled} in vain"
                )?;
            }
            if self.dense_steps > 0 {
                let steps = self.dense_steps;
                writeln!(
                    f,
                    "          {steps} steps attended to every key, as the context was short (--dense-tokens)"
                )?;
            }
        }
        if let (Some(recall), Some(mass)) = (self.audit.recall, self.audit.mass) {
            writeln!(
                f,
                "audit     recall {}, attention mass {} of the exact top-k ({} selections checked)",
                percent(recall),
                percent(mass),
                self.audit.samples
            )?;
        }
        write!(f, "{}", self.placement)?;
        // One now and then is the indexer's learning at the end of a prompt.
        if self.helper_stalls * STEPS_PER_STALL > self.decode_steps.max(STEPS_PER_STALL) {
            writeln!(
                f,
                "warning   decode threads were put off their cores {} times: other programs are busy there",
                self.helper_stalls
            )?;
        }
        for warning in self.gpu_traffic.iter().flat_map(GpuTraffic::warnings) {
            writeln!(f, "warning   {warning}")?;
        }
        if self.kv_overflows > 0 {
            writeln!(
                f,
                "warning   {} keys or values were too large for the KV cache's type: use --kv-dtype bf16",
                self.kv_overflows
            )?;
        }
        Ok(())
    }
}
