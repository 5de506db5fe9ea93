//! scratch
use candle_core::{Device, Tensor};
use hindsight_gpu_worker::attention::*;
use hindsight_gpu_worker::model::*;
use std::time::Instant;
struct Null;
impl Attention for Null {
    fn forward(
        &mut self,
        _: usize,
        _: usize,
        q: &Tensor,
        _k: &Tensor,
        _v: &Tensor,
    ) -> AttentionResult {
        Ok(q.flatten_from(1)?)
    }
}
fn med(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let threads: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let t = Instant::now();
    let model = Transformer::load(path.as_ref(), &Device::Cpu).unwrap();
    eprintln!("load {:?}", t.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for l in status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")) {
        eprintln!("{l}");
    }
    let run = || {
        let tokens: Vec<u32> = (0..512).map(|i| i * 37 % 40000).collect();
        for (name, n, logits) in [
            ("m=1 none", 1usize, Logits::None),
            ("m=1 last", 1, Logits::Last),
            ("m=512 none", 512, Logits::None),
        ] {
            let reps = if n == 1 { 600 } else { 1 };
            let mut v = vec![];
            for r in 0..reps {
                let t = Instant::now();
                let out = model.forward(&tokens[..n], 1000 + r, &mut Null, logits).unwrap();
                std::hint::black_box(&out);
                v.push(t.elapsed().as_secs_f64() * 1e3);
            }
            let min = v.iter().copied().fold(f64::INFINITY, f64::min);
            println!("{name}: median {:.3} ms, min {min:.3} ms", med(v));
        }
    };
    if threads > 1 {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
    } else {
        run()
    }
}
