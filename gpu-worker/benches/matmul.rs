//! Our matrix products against candle's on the same weights, in turn in the same run.
//!
//! `cargo bench -p hindsight-gpu-worker --bench matmul [-- WORD...]` prints one line for each shape whose name holds
//! all the words. Both sides use as many threads as `RAYON_NUM_THREADS` says (1 if unset). With one row, enough copies
//! of the weights are read in turn that they come from memory.

use std::borrow::Cow;
use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use hindsight_gpu_worker::matmul::{Activations, QuantMatrix};
use hindsight_gpu_worker::threads::{Parallel, Serial};

/// Weight bytes that do not fit into the caches.
const COLD: usize = 128 << 20;
/// Rounds, in which the two sides take turns.
const ROUNDS: usize = 7;
/// Seconds of one side of a round.
const ROUND: f64 = 0.03;

const SHAPES: [(GgmlDType, usize, usize); 14] = [
    (GgmlDType::Q4_1, 576, 576),
    (GgmlDType::Q4_1, 1536, 576),
    (GgmlDType::Q4_1, 576, 1536),
    (GgmlDType::Q4_1, 49152, 576),
    (GgmlDType::Q8_0, 49152, 576),
    (GgmlDType::Q4_0, 4864, 896),
    (GgmlDType::Q5_0, 4864, 896),
    (GgmlDType::Q5_0, 896, 4864),
    (GgmlDType::Q5_1, 896, 4864),
    (GgmlDType::Q4K, 896, 4864),
    (GgmlDType::Q5K, 896, 4864),
    (GgmlDType::Q6K, 896, 4864),
    (GgmlDType::Q4K, 8960, 1536),
    (GgmlDType::Q6K, 1536, 8960),
];

/// Adds the seconds of each call of `f` to `times`, for about [`ROUND`] seconds.
fn time(times: &mut Vec<f64>, mut f: impl FnMut(usize)) {
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < ROUND {
        let start = Instant::now();
        f(times.len());
        times.push(start.elapsed().as_secs_f64());
    }
}

/// The lower quartile: most calls that another process interrupted are above it.
fn typical(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

/// One line about `[m, k]` times the transpose of `[n, k]` weights.
fn measure(
    (dtype, n, k): (GgmlDType, usize, usize),
    m: usize,
    threads: &dyn Parallel,
) -> Result<String, Box<dyn Error>> {
    let wave = |i: usize| ((i * 7919) % 8191) as f32 / 4096.0 - 1.0;
    let w = Tensor::from_vec((0..n * k).map(wave).collect(), (n, k), &Device::Cpu)?;
    let tensor = QTensor::quantize(&w, dtype)?;
    let blocks = tensor.data()?.into_owned();
    let copies = if m == 1 { COLD.div_ceil(blocks.len()) } else { 1 };
    let mut ours = Vec::new();
    let mut candle = Vec::new();
    for _ in 0..copies {
        ours.push(QuantMatrix::from_blocks(dtype, n, k, &blocks)?);
        let storage = QStorage::from_data(Cow::Borrowed(&blocks), &Device::Cpu, dtype)?;
        candle.push(QMatMul::from_qtensor(QTensor::new(storage, (n, k))?)?);
    }

    let x: Vec<f32> = (0..m * k).map(|i| wave(3 * i + 1)).collect();
    let input = Tensor::from_slice(&x, (m, k), &Device::Cpu)?;
    let mut out = vec![0.0; m * n];
    let mut activations = Activations::new();
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        time(&mut times.0, |call| {
            ours[call % copies].forward(&x, &mut out, &mut activations, threads);
        });
        time(&mut times.1, |call| {
            black_box(candle[call % copies].forward(&input)).expect("shapes fit");
        });
    }
    let (ours, candle) = (typical(times.0), typical(times.1));
    Ok(format!(
        "{dtype:?} {n}x{k} m={m}: {:.1} us, {:.1} GB/s, {:.1} GMAC/s; candle / ours = {:.2}",
        ours * 1e6,
        blocks.len() as f64 / ours / 1e9,
        (m * n * k) as f64 / ours / 1e9,
        candle / ours
    ))
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let count = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    if count == 1 {
        // SAFETY: no other thread runs yet; candle reads it when its pool starts.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build()?;
    let threads: &dyn Parallel = if count == 1 { &Serial } else { &pool };
    for shape in SHAPES {
        for m in [1, 256] {
            let name = format!("{:?} {}x{} m={m}", shape.0, shape.1, shape.2);
            if words.iter().all(|word| name.contains(word)) {
                writeln!(std::io::stdout(), "{}", measure(shape, m, threads)?)?;
            }
        }
    }
    Ok(())
}
