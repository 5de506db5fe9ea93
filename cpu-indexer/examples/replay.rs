//! Replays a policy over recorded traces and prints the figures.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use hindsight_cpu_indexer::parameters::IndexParameters;
use hindsight_cpu_indexer::replay::{ReplayPolicy, ReplayReport, Trace, replay};
use hindsight_protocol::geometry::KvDtype;
use serde_json::Value;

/// Replay a policy over recorded attention.
#[derive(Debug, Parser)]
struct Arguments {
    /// Traces, as safetensors files.
    #[arg(required = true)]
    traces: Vec<PathBuf>,
    /// exact, lfps, page-minmax or sliding-window; may be repeated.
    #[arg(long, default_value = "lfps")]
    policy: Vec<String>,
    /// Tokens selected besides sink and window.
    #[arg(long, default_value_t = 256)]
    top_k: usize,
    /// Tokens of a block.
    #[arg(long, default_value_t = 16)]
    block_tokens: u32,
    /// Keep keys and values as bfloat16.
    #[arg(long)]
    bf16: bool,
    /// Set a parameter, as name=value; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let parameters = parameters(&arguments)?;
    let dtype = if arguments.bf16 { KvDtype::Bf16 } else { KvDtype::F16 };
    let mut reports = Vec::new();
    for path in &arguments.traces {
        let trace = Trace::read(path, arguments.block_tokens, dtype)?;
        for policy in &arguments.policy {
            let policy: ReplayPolicy = serde_json::from_value(Value::String(policy.clone()))?;
            let report = replay(&trace, policy, &parameters)?;
            if !arguments.json {
                print(&report);
            }
            reports.push(report);
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    Ok(())
}

fn parameters(arguments: &Arguments) -> Result<IndexParameters, Box<dyn Error>> {
    let mut values = serde_json::to_value(IndexParameters::default())?;
    values["top_k"] = arguments.top_k.into();
    for setting in &arguments.set {
        let (name, value) = setting.split_once('=').ok_or("--set wants name=value")?;
        values[name] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    }
    Ok(serde_json::from_value(values)?)
}

fn print(report: &ReplayReport) {
    println!(
        "{:16} {:14} cand {:6.0} bytes {:.3} rec {:.3} mass {:.5} p1 {:.4} min {:.4} | blocks {:4.0} mass {:.5} p1 {:.4} \
         min {:.4} | err {:.4} p99 {:.3} max {:.3} (exact {:.4}) | {:.0} us, exact {:.0}, x{:.1} seed {:.0} repair {:.3} \
         state {:.4}",
        report.trace,
        report.policy,
        report.candidates_mean,
        report.bytes_share,
        report.recall_mean,
        report.mass_mean,
        report.mass_p1,
        report.mass_min,
        report.blocks_mean,
        report.block_mass_mean,
        report.block_mass_p1,
        report.block_mass_min,
        report.output_error_mean,
        report.output_error_p99,
        report.output_error_max,
        report.exact_output_error_mean,
        report.select_us_mean,
        report.exact_us_mean,
        report.speedup,
        report.seed_us_mean,
        report.repair_rate,
        report.state_share,
    );
}
