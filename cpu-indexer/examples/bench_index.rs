//! Times exact and LFPS selection at the shape of Llama-3.1-8B, over keys and queries derived from a recorded trace.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use hindsight_cpu_indexer::Index;
use hindsight_cpu_indexer::parameters::{IndexParameters, Policy};
use hindsight_cpu_indexer::replay::{KvCache, Trace};
use hindsight_cpu_indexer::selection::Selection;
use hindsight_protocol::geometry::{Geometry, KvDtype};

/// Time selections.
#[derive(Debug, Parser)]
struct Arguments {
    /// A trace of a model with 4 query heads for each KV head and keys of 256 elements.
    trace: PathBuf,
    /// Tokens of context.
    #[arg(long, default_value_t = 131_072)]
    context: usize,
    /// KV heads.
    #[arg(long, default_value_t = 8)]
    kv_heads: u32,
    /// Tokens selected besides sink and window.
    #[arg(long, default_value_t = 2048)]
    top_k: usize,
    /// Decode steps timed.
    #[arg(long, default_value_t = 16)]
    steps: usize,
    /// Set a parameter, as name=value; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Only this policy, without audits and bandwidth.
    #[arg(long)]
    only: Option<String>,
    /// Read other memory before each selection, as the other layers' do, so that caches hold nothing of this one's.
    #[arg(long)]
    cold: bool,
    /// Keep keys and values as f16 rather than bfloat16.
    #[arg(long)]
    f16: bool,
}

const DIM: usize = 128;
const GROUP: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut values = serde_json::to_value(IndexParameters::default())?;
    values["top_k"] = arguments.top_k.into();
    values["dense_layers"] = 0.into();
    for setting in &arguments.set {
        let (name, value) = setting.split_once('=').ok_or("--set wants name=value")?;
        values[name] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    }
    let parameters: IndexParameters = serde_json::from_value(values)?;
    let trace = Trace::read(&arguments.trace, 16, KvDtype::F16)?;
    let source = trace.cache().tokens();
    let geometry = Geometry {
        layers: 1,
        heads: arguments.kv_heads * GROUP as u32,
        kv_heads: arguments.kv_heads,
        head_dim: DIM as u32,
        block_tokens: 16,
        dtype: if arguments.f16 { KvDtype::F16 } else { KvDtype::Bf16 },
    };
    let layer_of = |head: usize| head % trace.layers().len();
    let mut state = 7_u64;
    let mut noise = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    // Of the 128 rotary pairs (i, i + 128) the 64 are kept that contribute most to scores; copies of the text differ by a
    // little noise.
    let kept: Vec<Vec<usize>> =
        (0..trace.layers().len()).map(|layer| pairs_that_matter(&trace, layer)).collect();
    let element = |head: usize, at: usize| kept[layer_of(head)][at % 64] + at / 64 * 128;
    let cache = KvCache::fill(geometry, arguments.context, |_, head, token, key, value| {
        let token = (token + 997 * head) % source;
        let view = trace.cache().head(layer_of(head), 0, source);
        let recorded = view.key(token);
        for (at, out) in key.iter_mut().enumerate() {
            let bits = recorded[element(head, at)];
            *out = half::f16::from_bits(bits).to_f32() * (1.0 + 0.02 * noise());
        }
        value.fill(0.0);
    })?;
    let queries = |step: usize, head: usize| -> Vec<f32> {
        let recorded = trace.queries(step, layer_of(head), 0);
        recorded.chunks(256).flat_map(|q| (0..DIM).map(|at| q[element(head, at)])).collect()
    };
    let scale = trace.softmax_scale();
    let tokens = arguments.context;
    let heads = arguments.kv_heads as usize;
    let kernels = hindsight_cpu_indexer::kernels::Kernels::detect();
    let plain = vec![1_u16; 1 << 26];
    for _ in 0..if arguments.only.is_some() { 0 } else { 2 } {
        for (name, part) in [
            ("plain", 0),
            ("K and V", 1),
            ("K only", 2),
            ("K ahead 1", 3),
            ("K ahead 2", 4),
            ("K ahead 4", 6),
            ("half extents", 9),
        ] {
            let mut best = 0.0_f64;
            for _ in 0..8 {
                for head in 0..heads {
                    let view = cache.head(0, head, tokens);
                    let (mut sum, mut words) = (0, 0);
                    let start = Instant::now();
                    if part == 0 {
                        sum += kernels.read(
                            &plain[head << 23..(head + 1) << 23],
                            &plain[(head << 23) + 4096..],
                        );
                        words += 1 << 23;
                    } else {
                        for block in 0..view.blocks() {
                            if part == 9 {
                                if block % 64 < 32 && block + 1 < view.blocks() {
                                    sum += kernels.read(view.keys(block), view.keys(block + 1));
                                    sum += kernels.read(view.values(block), view.values(block + 1));
                                    words += view.keys(block).len() * 2;
                                }
                                continue;
                            }
                            let ahead = if part > 2 {
                                view.keys((block + part - 2).min(view.blocks() - 1))
                            } else {
                                &[]
                            };
                            sum += kernels.read(view.keys(block), ahead);
                            words += view.keys(block).len();
                            if part == 1 {
                                sum += kernels.read(view.values(block), &[]);
                                words += view.keys(block).len();
                            }
                        }
                    }
                    std::hint::black_box(sum);
                    best = best.max(2.0 * words as f64 / start.elapsed().as_secs_f64());
                }
            }
            println!("read {name}: {:.1} GB/s", best / 1e9);
        }
    }
    for policy in [Policy::Exact, Policy::Lfps] {
        if arguments.only.as_ref().is_some_and(|only| *only != policy.to_string()) {
            continue;
        }
        let mut index = Index::new(geometry, scale, policy, parameters.clone(), tokens)?;
        let start = Instant::now();
        for head in 0..heads {
            let seeds: Vec<f32> = (0..32).flat_map(|step| queries(step, head)).collect();
            let view = cache.head(0, head, tokens - arguments.steps);
            index.append(0, head, view, 0..tokens - arguments.steps);
            index.seed(0, head, view, &seeds);
        }
        let seed = start.elapsed();
        let mut times = Vec::new();
        let mut candidates = 0;
        let mut repaired = 0;
        let mut bytes = 0;
        let mut audits = Vec::new();
        let mut out = Selection::with_capacity(arguments.top_k, tokens);
        for step in 0..arguments.steps {
            let tokens = tokens - arguments.steps + step + 1;
            let mut elapsed = f64::INFINITY;
            for head in 0..heads {
                let queries = queries((32 + step) % 128, head);
                let view = cache.head(0, head, tokens);
                if arguments.cold {
                    std::hint::black_box(kernels.read(&plain, &[]));
                }
                let start = Instant::now();
                index.append(0, head, view, tokens - 1..tokens);
                index.select(0, head, view, &queries, &mut out);
                elapsed = elapsed.min(start.elapsed().as_secs_f64() * 1e6);
                candidates += out.effort.candidates;
                repaired += usize::from(out.effort.repaired);
                bytes += out.effort.bytes();
                if arguments.only.is_none() || step == 0 {
                    audits.push(index.audit(view, &queries, &out));
                }
            }
            times.push(elapsed);
        }
        times.sort_by(f64::total_cmp);
        let count = audits.len() as f32;
        println!(
            "{policy:6} head {:.0} us median of best, {:.0} best; seed {:.0} ms; candidates {}; repaired {:.3}; bytes share {:.4}; recall {:.3} mass {:.4}; \
             state {:.4}",
            times[times.len() / 2],
            times[0],
            seed.as_secs_f64() * 1e3,
            candidates / arguments.steps / heads,
            repaired as f64 / (arguments.steps * heads) as f64,
            bytes as f64 / (arguments.steps * heads) as f64 / (tokens * DIM * 2) as f64,
            audits.iter().map(|a| a.recall).sum::<f32>() / count,
            audits.iter().map(|a| a.mass).sum::<f32>() / count,
            index.state_bytes() as f64 / cache.bytes() as f64,
        );
    }
    Ok(())
}

/// The 64 rotary pairs whose products of queries and keys vary most.
fn pairs_that_matter(trace: &Trace, layer: usize) -> Vec<usize> {
    let view = trace.cache().head(layer, 0, trace.cache().tokens());
    let (mut sum, mut square) = (vec![0.0_f64; 256], vec![0.0_f64; 256]);
    for token in (0..view.tokens()).step_by(16) {
        for (at, &bits) in view.key(token).iter().enumerate() {
            let x = half::f16::from_bits(bits).to_f64();
            sum[at] += x;
            square[at] += x * x;
        }
    }
    let count = view.tokens().div_ceil(16) as f64;
    let mut weight = vec![0.0_f64; 256];
    for step in 0..trace.steps() {
        for query in trace.queries(step, layer, 0).chunks(256) {
            for (at, q) in query.iter().enumerate() {
                weight[at] += f64::from(q * q) * (square[at] / count - (sum[at] / count).powi(2));
            }
        }
    }
    let mut pairs: Vec<usize> = (0..128).collect();
    pairs.sort_by(|&a, &b| (weight[b] + weight[b + 128]).total_cmp(&(weight[a] + weight[a + 128])));
    let kept: f64 = pairs[..64].iter().map(|&at| weight[at] + weight[at + 128]).sum();
    println!(
        "layer {layer}: the pairs kept hold {:.4} of what scores vary by",
        kept / weight.iter().sum::<f64>()
    );
    pairs.truncate(64);
    pairs
}
