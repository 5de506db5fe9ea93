//! Attention on the CPU, each kernel against what bounds it: decode against a plain read of the same memory, prefill
//! against the core's peak of fused multiply-adds. Bound and kernel are measured in the same run, on one thread.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hindsight_gpu_worker::device::cpu::{
    AttentionShape, Block, CpuAttention, DecodeScratch, Isa, Prefill, PrefillScratch,
};
use hindsight_protocol::geometry::KvDtype;

const BLOCK_TOKENS: usize = 16;

/// Head dimension and group of SmolLM2-135M and of Llama-3.1-8B.
const HEADS: [(usize, usize); 2] = [(64, 3), (128, 4)];

/// Bytes of keys and values that a round over all heads reads: far more than a cache holds, as in a real step.
const ARENA_BYTES: usize = 192 << 20;

/// Keys and values of several heads as they lie in the arena: a head's blocks one after the other, keys before values.
struct Arena {
    elements: Vec<u16>,
    head_dim: usize,
    head_elements: usize,
}

impl Arena {
    /// Small numbers, whatever the format.
    fn new(heads: usize, tokens: usize, head_dim: usize) -> Self {
        let element =
            |index: usize| 0x3800 | (index.wrapping_mul(2_654_435_761) >> 16 & 0x81ff) as u16;
        let head_elements = 2 * tokens * head_dim;
        let elements = (0..heads * head_elements).map(element).collect();
        Self { elements, head_dim, head_elements }
    }

    /// The memory of one head after the other, round and round.
    fn heads(&self) -> impl Iterator<Item = &[u16]> {
        self.elements.chunks_exact(self.head_elements).cycle()
    }

    fn blocks<'a>(&self, head: &'a [u16]) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let half = BLOCK_TOKENS * self.head_dim;
        head.chunks_exact(2 * half).map(move |block| {
            let (keys, values) = block.split_at(half);
            Block { keys, values }
        })
    }
}

fn queries(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index as f32 * 0.37).sin()).collect()
}

fn attentions(shape: AttentionShape) -> impl Iterator<Item = CpuAttention> {
    Isa::ALL.into_iter().filter_map(move |isa| CpuAttention::with_isa(shape, isa))
}

/// Reads all elements once.
fn read(elements: &[u16]) -> u64 {
    #[inline(always)]
    fn fold(elements: &[u16]) -> u64 {
        let mut folded = [0_u16; 256];
        for line in elements.chunks_exact(folded.len()) {
            for (folded, &element) in folded.iter_mut().zip(line) {
                *folded ^= element;
            }
        }
        folded.into_iter().map(u64::from).sum()
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn fold_avx2(elements: &[u16]) -> u64 {
            fold(elements)
        }
        // SAFETY: the CPU has AVX2.
        return unsafe { fold_avx2(elements) };
    }
    fold(elements)
}

fn decode(criterion: &mut Criterion) {
    for (head_dim, group) in HEADS {
        for tokens in [7 * 1024, 32 * 1024] {
            let head_bytes = 4 * tokens * head_dim;
            let arena = Arena::new(ARENA_BYTES / head_bytes, tokens, head_dim);
            let queries = queries(group * head_dim);
            let (mut out, mut lse) = (vec![0.0; group * head_dim], vec![0.0; group]);
            let mut scratch = DecodeScratch::default();

            let name = format!("decode {head_dim}x{group}, {tokens} tokens");
            let mut bench = criterion.benchmark_group(name);
            bench.throughput(Throughput::Bytes(head_bytes as u64));
            let mut heads = arena.heads();
            let mut next_head = || heads.next().expect("heads go round and round");
            bench.bench_function("read", |bencher| bencher.iter(|| read(black_box(next_head()))));
            for dtype in [KvDtype::F16, KvDtype::Bf16] {
                let shape = AttentionShape::new(head_dim, group, dtype).expect("a usual shape");
                for attention in attentions(shape) {
                    bench.bench_function(format!("{} {dtype}", attention.isa()), |bencher| {
                        bencher.iter(|| {
                            let blocks = arena.blocks(next_head());
                            attention.decode(&queries, blocks, &mut out, &mut lse, &mut scratch);
                        });
                    });
                }
            }
            bench.finish();
        }
    }
}

/// Blocks of a head that a selection names.
const SELECTED: usize = 112;

/// `SELECTED` blocks of a head of `blocks`, ascending: others for every `turn`, so that none is left in a cache.
fn selected(turn: usize, blocks: usize) -> [usize; SELECTED] {
    let share = blocks / SELECTED;
    std::array::from_fn(|at| {
        at * share + (turn * SELECTED + at).wrapping_mul(2_654_435_761) % share
    })
}

fn decode_selected(criterion: &mut Criterion) {
    const TOKENS: usize = 32 * 1024;
    for (head_dim, group) in HEADS {
        let head_bytes = 4 * TOKENS * head_dim;
        let arena = Arena::new(2 * ARENA_BYTES / head_bytes, TOKENS, head_dim);
        let block = 2 * BLOCK_TOKENS * head_dim;
        let queries = queries(group * head_dim);
        let (mut out, mut lse) = (vec![0.0; group * head_dim], vec![0.0; group]);
        let mut scratch = DecodeScratch::default();

        let name =
            format!("decode {head_dim}x{group}, {SELECTED} of {} blocks", TOKENS / BLOCK_TOKENS);
        let mut bench = criterion.benchmark_group(name);
        bench.throughput(Throughput::Bytes((SELECTED * 2 * block) as u64));
        let mut heads = arena.heads().enumerate();
        let mut next_blocks = || {
            let (turn, head) = heads.next().expect("heads go round and round");
            selected(turn, head.len() / block).map(|at| &head[at * block..][..block])
        };
        bench.bench_function("read", |bencher| {
            bencher.iter(|| next_blocks().into_iter().map(read).sum::<u64>());
        });
        let shape = AttentionShape::new(head_dim, group, KvDtype::F16).expect("a usual shape");
        for attention in attentions(shape) {
            bench.bench_function(attention.isa().to_string(), |bencher| {
                bencher.iter(|| {
                    let blocks = next_blocks().map(|block| {
                        let (keys, values) = block.split_at(block.len() / 2);
                        Block { keys, values }
                    });
                    attention.decode(&queries, blocks, &mut out, &mut lse, &mut scratch);
                });
            });
        }
        bench.finish();
    }
}

/// Floating-point operations of one call of [`multiply_add`].
const PEAK_OPERATIONS: usize = 2 * 16 * 16 * 3 * 1024;

/// Independent fused multiply-adds in registers, enough of them to hide their latency.
fn multiply_add(factor: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;

        #[target_feature(enable = "avx512f")]
        fn avx512(factor: f32) -> f32 {
            let factor = _mm512_set1_ps(factor);
            let mut sums = [factor; 16];
            for _ in 0..PEAK_OPERATIONS / (2 * 16 * 16) {
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
            for _ in 0..PEAK_OPERATIONS / (2 * 8 * 12) {
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
    for _ in 0..PEAK_OPERATIONS / (2 * 32) {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    sums.into_iter().sum()
}

fn prefill(criterion: &mut Criterion) {
    const START: usize = 4096 - TOKENS;
    const TOKENS: usize = 512;
    let mut bench = criterion.benchmark_group("peak");
    bench.throughput(Throughput::Elements(PEAK_OPERATIONS as u64));
    bench.bench_function("multiply-add", |bencher| bencher.iter(|| multiply_add(black_box(0.5))));
    bench.finish();
    for (head_dim, group) in HEADS {
        let arena = Arena::new(1, START + TOKENS, head_dim);
        let queries = queries(TOKENS * group * head_dim);
        let mut out = vec![0.0; queries.len()];
        let mut scratch = PrefillScratch::default();
        let chunk = Prefill {
            start: START,
            tokens: TOKENS,
            kv_heads: 1,
            queries: &queries,
            query_stride: group * head_dim,
        };
        let mut bench =
            criterion.benchmark_group(format!("prefill {head_dim}x{group}, 512 of 4096"));
        let pairs = (START + 1..=START + TOKENS).sum::<usize>() * group;
        bench.throughput(Throughput::Elements((4 * pairs * head_dim) as u64));
        let shape = AttentionShape::new(head_dim, group, KvDtype::F16).expect("a usual shape");
        for attention in attentions(shape) {
            bench.bench_function(attention.isa().to_string(), |bencher| {
                bencher.iter(|| {
                    let blocks = |_| arena.blocks(&arena.elements);
                    let stride = chunk.query_stride;
                    attention.prefill(&chunk, blocks, &mut out, stride, &mut scratch, None);
                });
            });
        }
        bench.finish();
    }
}

criterion_group!(benches, decode, decode_selected, prefill);
criterion_main!(benches);
