//! The native form of prefill attention against the emulated kernel.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, LaunchConfig, PushKernelArg};
use half::{bf16, f16};
use hindsight_cuda_mock_driver::Mock;

use crate::child::{Programs, answer, run};
use crate::kernels::load;

pub(crate) const PROGRAMS: Programs = &[("prefill", prefill)];

#[derive(Clone, Copy)]
struct Shape {
    bf16: bool,
    dim: usize,
    kv_heads: u32,
    group: u32,
    tokens: u32,
    block_tokens: u32,
    /// Keys that come in each part: number, and the position of the first.
    parts: &'static [(u32, u32)],
    query_start: u32,
}

const SHAPES: &[Shape] = &[
    // A prompt's first chunk: each query sees the keys up to its own.
    Shape {
        bf16: false,
        dim: 64,
        kv_heads: 2,
        group: 3,
        tokens: 70,
        block_tokens: 16,
        parts: &[(70, 0)],
        query_start: 0,
    },
    // A later chunk, whose keys come in three parts; the last of them is the chunk's own.
    Shape {
        bf16: true,
        dim: 64,
        kv_heads: 1,
        group: 1,
        tokens: 33,
        block_tokens: 8,
        parts: &[(64, 0), (40, 64), (33, 104)],
        query_start: 104,
    },
    // Keys that only some queries see, and some that none does.
    Shape {
        bf16: false,
        dim: 128,
        kv_heads: 1,
        group: 4,
        tokens: 20,
        block_tokens: 32,
        parts: &[(64, 10)],
        query_start: 0,
    },
    Shape {
        bf16: true,
        dim: 256,
        kv_heads: 1,
        group: 2,
        tokens: 9,
        block_tokens: 16,
        parts: &[(90, 0)],
        query_start: 81,
    },
];

/// Numbers between -2 and 2 that look random, the same for the same seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

fn attend(
    context: &Arc<CudaContext>,
    stream: &Arc<CudaStream>,
    shape: &Shape,
) -> (Vec<f32>, Vec<f32>) {
    let name =
        format!("prefill_attention_{}_d{}", if shape.bf16 { "bf16" } else { "f16" }, shape.dim);
    let kernel = load(context, &name).unwrap();
    let rows = (shape.tokens * shape.kv_heads * shape.group) as usize;
    let queries = stream.clone_htod(&numbers(rows * shape.dim, 1)).unwrap();
    let mut out = stream.alloc_zeros::<f32>(rows * shape.dim).unwrap();
    let mut lse = stream.alloc_zeros::<f32>(rows).unwrap();
    let scale = 1.0 / (shape.dim as f32).sqrt();
    for (part, &(keys, key_start)) in shape.parts.iter().enumerate() {
        let stride = keys.div_ceil(shape.block_tokens) + 1;
        // The lists name the slots backwards, so that slots and positions differ.
        let blocks = shape.kv_heads * stride;
        let slots: Vec<u32> = (0..blocks).rev().collect();
        let values =
            numbers((blocks * 2 * shape.block_tokens) as usize * shape.dim, 2 + part as u64);
        let bits = |value: &f32| {
            if shape.bf16 {
                bf16::from_f32(*value).to_bits()
            } else {
                f16::from_f32(*value).to_bits()
            }
        };
        let pool = stream.clone_htod(&values.iter().map(bits).collect::<Vec<u16>>()).unwrap();
        let slots = stream.clone_htod(&slots).unwrap();
        let accumulate = u32::from(part > 0);
        // 128 threads; rows of a tile: four for each thread, shared by the threads of one row.
        let tile_tokens = 128 * 4 / (shape.dim as u32 / 8) / shape.group;
        let config = LaunchConfig {
            grid_dim: (shape.tokens.div_ceil(tile_tokens), shape.kv_heads, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(&kernel);
        launch
            .arg(&queries)
            .arg(&shape.tokens)
            .arg(&shape.kv_heads)
            .arg(&shape.group)
            .arg(&pool)
            .arg(&slots)
            .arg(&stride);
        launch
            .arg(&shape.block_tokens)
            .arg(&keys)
            .arg(&key_start)
            .arg(&shape.query_start)
            .arg(&scale);
        launch.arg(&mut out).arg(&mut lse).arg(&accumulate);
        // SAFETY: the arguments are those of the kernel, and the buffers have the sizes that they tell.
        unsafe { launch.launch(config) }.unwrap();
    }
    (stream.clone_dtoh(&out).unwrap(), stream.clone_dtoh(&lse).unwrap())
}

fn prefill() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    for shape in SHAPES {
        let (out, lse) = attend(&context, &stream, shape);
        // JSON has no infinities: floats travel as their bits.
        let bits = [out, lse]
            .map(|values| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>());
        answer(serde_json::to_string(&bits).unwrap());
    }
}

/// Output and log-sum-exp of each shape.
fn results(native_prefill: bool) -> Vec<[Vec<f32>; 2]> {
    let said = run("prefill", &Mock { native_prefill, ..Mock::default() });
    let parse = |answer: &String| {
        let bits: [Vec<u32>; 2] = serde_json::from_str(answer).unwrap();
        bits.map(|bits| bits.into_iter().map(f32::from_bits).collect())
    };
    said.answers.iter().map(parse).collect()
}

#[test]
fn the_native_form_computes_what_the_kernel_does() {
    let (native, emulated) = (results(true), results(false));
    assert_eq!(native.len(), SHAPES.len());
    for (index, (native, emulated)) in native.iter().zip(&emulated).enumerate() {
        for (native, emulated) in native.iter().zip(emulated) {
            assert_eq!(native.len(), emulated.len());
            for (a, b) in native.iter().zip(emulated) {
                assert!(
                    a == b || (a - b).abs() <= 1e-4 * b.abs().max(1.0),
                    "shape {index}: {a} instead of {b}"
                );
            }
        }
    }
    // The third shape has queries that see no key.
    assert!(native[2][1].contains(&f32::NEG_INFINITY));
}
