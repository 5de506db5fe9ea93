//! Attention on the CPU, each kernel against what bounds it: decode against a plain read of the same memory, prefill
//! against the core's peak of fused multiply-adds. Both bounds are measured in the same run.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hindsight_gpu_worker::device::cpu::{
    AttentionShape, Block, CpuAttention, DecodeScratch, Isa, Prefill, PrefillScratch,
};
use hindsight_protocol::geometry::KvDtype;

const BLOCK_TOKENS: usize = 16;

/// Heads of SmolLM2-135M and of Llama-3.1-8B: head dimension and group.
const HEADS: [(usize, usize); 2] = [(64, 3), (128, 4)];

/// Blocks as they lie in the arena: keys, then values, one block after the other.
struct Arena {
    elements: Vec<u16>,
    head_dim: usize,
}

impl Arena {
    /// Small numbers in either format.
    fn new(tokens: usize, head_dim: usize) -> Self {
        let element = |index: usize| 0x3800 + (index * 2_654_435_761 >> 7 & 0x81ff) as u16;
        Self { elements: (0..2 * tokens * head_dim).map(element).collect(), head_dim }
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let half = BLOCK_TOKENS * self.head_dim;
        self.elements.chunks_exact(2 * half).map(move |block| {
            let (keys, values) = block.split_at(half);
            Block { keys, values }
        })
    }

    fn bytes(&self) -> u64 {
        size_of_val(&self.elements[..]) as u64
    }
}

fn queries(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index as f32 * 0.37).sin()).collect()
}

/// Reads every element once, as fast as the core can.
fn sum(elements: &[u16]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn sum_avx2(elements: &[u16]) -> u64 {
            sum_words(elements)
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { sum_avx2(elements) };
        }
    }
    sum_words(elements)
}

#[inline(always)]
fn sum_words(elements: &[u16]) -> u64 {
    let mut sums = [0_u16; 256];
    for line in elements.chunks_exact(256) {
        for (sum, &element) in sums.iter_mut().zip(line) {
            *sum ^= element;
        }
    }
    sums.into_iter().map(u64::from).sum()
}

fn decode(criterion: &mut Criterion) {
    for (head_dim, group) in HEADS {
        for tokens in [7 * 1024, 32 * 1024] {
            let arena = Arena::new(tokens, head_dim);
            let queries = queries(group * head_dim);
            let (mut out, mut lse) = (vec![0.0; group * head_dim], vec![0.0; group]);
            let mut scratch = DecodeScratch::default();
            let mut bench =
                criterion.benchmark_group(format!("decode/{head_dim}x{group}/{tokens}"));
            bench.throughput(Throughput::Bytes(arena.bytes()));
            bench
                .bench_function("read", |bencher| bencher.iter(|| sum(black_box(&arena.elements))));
            for dtype in [KvDtype::F16, KvDtype::Bf16] {
                let shape = AttentionShape::new(head_dim, group, dtype).expect("a usual shape");
                for attention in
                    Isa::ALL.into_iter().filter_map(|isa| CpuAttention::with_isa(shape, isa))
                {
                    bench.bench_function(format!("{}/{dtype:?}", attention.isa()), |bencher| {
                        bencher.iter(|| {
                            attention.decode(
                                &queries,
                                arena.blocks(),
                                &mut out,
                                &mut lse,
                                &mut scratch,
                            );
                        });
                    });
                }
            }
            bench.finish();
        }
    }
}

/// Floating-point operations of one call of [`multiply_add`].
const PEAK_FLOPS: u64 = 2 * 16 * 16 * 1024;

/// Independent fused multiply-adds in registers, enough of them to hide their latency.
fn multiply_add(factor: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;

        #[target_feature(enable = "avx512f")]
        fn avx512(factor: f32) -> f32 {
            let factor = _mm512_set1_ps(factor);
            let mut sums = [factor; 16];
            for _ in 0..PEAK_FLOPS / (2 * 16 * 16) {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, factor, factor);
                }
            }
            let total = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b));
            total.map_or(0.0, |total| _mm512_reduce_add_ps(total))
        }

        #[target_feature(enable = "avx2,fma")]
        fn avx2(factor: f32) -> f32 {
            let factor = _mm256_set1_ps(factor);
            let mut sums = [factor; 12];
            for _ in 0..PEAK_FLOPS / (2 * 8 * 12) {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(*sum, factor, factor);
                }
            }
            let total = sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b));
            total.map_or(0.0, |total| _mm256_cvtss_f32(total))
        }

        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512 F.
            return unsafe { avx512(factor) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA.
            return unsafe { avx2(factor) };
        }
    }
    let mut sums = [factor; 32];
    for _ in 0..PEAK_FLOPS / (2 * 32) {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    sums.into_iter().sum()
}

fn prefill(criterion: &mut Criterion) {
    const START: usize = 4096 - 512;
    const TOKENS: usize = 512;
    let mut bench = criterion.benchmark_group("prefill/peak");
    bench.throughput(Throughput::Elements(PEAK_FLOPS));
    bench.bench_function("multiply-add", |bencher| bencher.iter(|| multiply_add(black_box(0.5))));
    bench.finish();
    for (head_dim, group) in HEADS {
        let arena = Arena::new(START + TOKENS, head_dim);
        let queries = queries(TOKENS * group * head_dim);
        let mut out = vec![0.0; queries.len()];
        let mut scratch = PrefillScratch::default();
        let mut bench =
            criterion.benchmark_group(format!("prefill/{head_dim}x{group}/512 at 4096"));
        let pairs = (START + 1..=START + TOKENS).sum::<usize>() * group;
        bench.throughput(Throughput::Elements((4 * pairs * head_dim) as u64));
        let chunk = Prefill {
            start: START,
            tokens: TOKENS,
            kv_heads: 1,
            queries: &queries,
            query_stride: group * head_dim,
        };
        let shape = AttentionShape::new(head_dim, group, KvDtype::F16).expect("a usual shape");
        for attention in Isa::ALL.into_iter().filter_map(|isa| CpuAttention::with_isa(shape, isa)) {
            bench.bench_function(attention.isa().to_string(), |bencher| {
                bencher.iter(|| {
                    let blocks = |_| arena.blocks();
                    attention.prefill(
                        &chunk,
                        blocks,
                        &mut out,
                        chunk.query_stride,
                        &mut scratch,
                        None,
                    );
                });
            });
        }
        bench.finish();
    }
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
