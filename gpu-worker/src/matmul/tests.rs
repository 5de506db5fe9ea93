//! Products against candle's, and the instruction sets against each other.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use proptest::prelude::*;

use super::kernels::Path;
use super::matrix::multiply_each_on;
use super::{Activations, MatrixError, QuantMatrix, multiply_each};
use crate::threads::Serial;

const SIMPLE: [GgmlDType; 5] =
    [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q8_0];
const NESTED: [GgmlDType; 3] = [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K];

/// Values between −1 and 1 with a few large ones.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|i| if i % 61 == 7 { 8.0 * next() } else { next() }).collect()
}

fn weights(dtype: GgmlDType, n: usize, k: usize, seed: u64) -> QTensor {
    let w = Tensor::from_vec(values(seed, n * k), (n, k), &Device::Cpu).unwrap();
    QTensor::quantize(&w, dtype).unwrap()
}

fn product(path: Path, matrix: &QuantMatrix, x: &[f32]) -> Vec<f32> {
    let mut activations = Activations::new();
    activations.quantize_on(path, x, &[matrix], &Serial);
    let mut out = vec![f32::NAN; activations.rows() * matrix.rows()];
    multiply_each_on(path, [(matrix, &mut out)], &activations, &Serial);
    out
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt()
}

/// Asserts that two products of `x` agree to `tolerance` times the norms of the rows they come from.
fn assert_close(a: &[f32], b: &[f32], matrix: &QuantMatrix, x: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let mut row = vec![0.0; matrix.columns()];
    for n in 0..matrix.rows() {
        matrix.dequantize_row(n, &mut row);
        for (m, x) in x.chunks_exact(matrix.columns()).enumerate() {
            let (a, b) = (a[m * matrix.rows() + n], b[m * matrix.rows() + n]);
            let scale = norm(&row) * norm(x);
            assert!((a - b).abs() <= tolerance * scale, "row {m}, column {n}: {a} and {b}");
        }
    }
}

#[test]
fn rows_are_dequantized_as_candle_does() {
    for (dtype, k) in SIMPLE.map(|d| (d, 96)).into_iter().chain(NESTED.map(|d| (d, 512))) {
        let tensor = weights(dtype, 37, k, 5);
        let expected = tensor.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        let matrix = QuantMatrix::from_qtensor(&tensor).unwrap();
        let mut row = vec![0.0; k];
        for (n, expected) in expected.iter().enumerate() {
            matrix.dequantize_row(n, &mut row);
            assert_eq!(&row, expected, "row {n} of {dtype:?}");
        }
    }
}

#[test]
fn products_agree_with_candle_on_every_path() {
    // Candle multiplies Q8_0 of 16·i rows and 256·j columns with other activation blocks: not these shapes.
    for (dtype, k) in SIMPLE.map(|d| (d, 576)).into_iter().chain(NESTED.map(|d| (d, 768))) {
        for (n, m) in [(48, 1), (33, 9)] {
            let tensor = weights(dtype, n, k, 11);
            let matrix = QuantMatrix::from_qtensor(&tensor).unwrap();
            let x = values(23, m * k);
            let candle = QMatMul::from_qtensor(tensor).unwrap();
            let input = Tensor::from_slice(&x, (m, k), &Device::Cpu).unwrap();
            let expected = candle.forward(&input).unwrap().flatten_all().unwrap();
            let expected = expected.to_vec1::<f32>().unwrap();
            for path in Path::available() {
                assert_close(&product(path, &matrix, &x), &expected, &matrix, &x, 1e-6);
            }
        }
    }
}

#[test]
fn zero_rows_give_zero() {
    for (dtype, k) in SIMPLE.map(|d| (d, 32)).into_iter().chain(NESTED.map(|d| (d, 256))) {
        let matrix = QuantMatrix::from_qtensor(&weights(dtype, 17, k, 3)).unwrap();
        for path in Path::available() {
            assert_eq!(product(path, &matrix, &vec![0.0; 2 * k]), vec![0.0; 2 * 17]);
        }
    }
}

#[test]
fn values_that_are_not_finite_show_in_their_row_alone() {
    for (dtype, k) in [(GgmlDType::Q4_1, 64), (GgmlDType::Q6K, 256)] {
        let matrix = QuantMatrix::from_qtensor(&weights(dtype, 16, k, 3)).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = values(1, 2 * k);
            x[5] = bad;
            for path in Path::available() {
                let out = product(path, &matrix, &x);
                assert!(out[..16].iter().all(|value| !value.is_finite()));
                assert!(out[16..].iter().all(|value| value.is_finite()));
            }
        }
    }
}

#[test]
fn one_quantization_serves_matrices_of_all_formats() {
    let k = 512;
    let mixed = [GgmlDType::Q4K, GgmlDType::Q8_0]
        .map(|dtype| QuantMatrix::from_qtensor(&weights(dtype, 40, k, 9)).unwrap());
    let x = values(4, 3 * k);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut activations = Activations::new();
    activations.quantize(&x, &[&mixed[0], &mixed[1]], &pool);
    let (mut a, mut b) = (vec![0.0; 3 * 40], vec![0.0; 3 * 40]);
    multiply_each([(&mixed[0], &mut a), (&mixed[1], &mut b)], &activations, &pool);
    assert_eq!(a, product(Path::best(), &mixed[0], &x));
    assert_eq!(b, product(Path::best(), &mixed[1], &x));
}

#[test]
fn unfit_weights_are_refused() {
    let refused = |dtype, n, k, bytes| QuantMatrix::from_blocks(dtype, n, k, &vec![0; bytes]).err();
    assert!(matches!(refused(GgmlDType::Q2K, 1, 256, 84), Some(MatrixError::Format(_))));
    assert!(matches!(refused(GgmlDType::Q4_1, 1, 48, 30), Some(MatrixError::Columns { .. })));
    assert!(matches!(refused(GgmlDType::Q4_1, 1, 0, 0), Some(MatrixError::Columns { .. })));
    assert!(matches!(refused(GgmlDType::Q4_1, 2, 32, 39), Some(MatrixError::Bytes { .. })));
    assert!(matches!(refused(GgmlDType::Q4_1, usize::MAX, 32, 0), Some(MatrixError::Bytes { .. })));
    let most = usize::MAX / 32 * 32;
    assert!(matches!(refused(GgmlDType::Q8_0, 1, most, 0), Some(MatrixError::Bytes { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn paths_agree(
        dtype in prop::sample::select([&SIMPLE[..], &NESTED].concat()),
        n in 1_usize..50,
        blocks in 1_usize..8,
        m in 1_usize..10,
        seed: u64,
    ) {
        let k = blocks * dtype.block_size();
        let matrix = QuantMatrix::from_qtensor(&weights(dtype, n, k, seed)).unwrap();
        let x = values(!seed, m * k);
        let paths: Vec<Path> = Path::available().collect();
        let products: Vec<Vec<f32>> =
            paths.iter().map(|&path| product(path, &matrix, &x)).collect();
        let (scalar, vector) = products.split_last().unwrap();
        for product in vector {
            assert_close(product, scalar, &matrix, &x, 1e-6);
            prop_assert_eq!(product, &vector[0], "vector paths differ");
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_in_any_batch_and_on_any_threads(
        dtype in prop::sample::select([&SIMPLE[..], &NESTED].concat()),
        n in 1_usize..200,
        m in 2_usize..18,
        seed: u64,
    ) {
        let k = dtype.block_size() * 3;
        let matrix = QuantMatrix::from_qtensor(&weights(dtype, n, k, seed)).unwrap();
        let x = values(!seed, m * k);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let mut out = vec![f32::NAN; m * n];
        matrix.forward(&x, &mut out, &mut Activations::new(), &pool);
        for (x, out) in x.chunks_exact(k).zip(out.chunks_exact(n)) {
            prop_assert_eq!(product(Path::best(), &matrix, x), out);
        }
    }
}
