//! The elementwise steps between the matrix products.
//!
//! On the CPU they are loops of our own: fused, vectorisable with the baseline instruction set, and, when there are
//! elements enough, spread over the threads that run the matrix products. On other devices they are candle's.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::RopeStyle;
use super::rope::RopeTable;
use crate::threads::{Current, Parallel};

/// Elements below which one thread is faster than waking the others.
const PARALLEL_FROM: usize = 64 * 1024;
/// Elements of one unit of parallel work.
const UNIT: usize = 16 * 1024;

/// `x / rms(x) * weight` over the last dimension.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.apply_op2_no_bwd(weight, &RmsNorm { epsilon })
    } else {
        candle_nn::ops::rms_norm(x, weight, epsilon)
    }
}

/// `silu(gate) * up`, elementwise.
pub(super) fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.device().is_cpu() { gate.apply_op2_no_bwd(up, &SiluMul) } else { gate.silu()? * up }
}

/// `x + y`, `y` being of the same shape, or one row that is added to every row.
pub(super) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.apply_op2_no_bwd(y, &Add) } else { x.broadcast_add(y) }
}

/// Rotates `x`, `[tokens, heads, head_dim]`, by the angles of `table`; dimensions beyond the table's pass unchanged.
pub(super) fn rotate(x: &Tensor, table: &RopeTable, style: RopeStyle) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.apply_op3_no_bwd(&table.cos, &table.sin, &Rotate { style })
    } else {
        rotate_with_candle(x, table, style)
    }
}

fn rotate_with_candle(x: &Tensor, table: &RopeTable, style: RopeStyle) -> Result<Tensor> {
    let head_dim = x.dim(2)?;
    let rotated = table.cos.dim(1)? * 2;
    let heads_first = x.narrow(2, 0, rotated)?.transpose(0, 1)?.unsqueeze(0)?.contiguous()?;
    let turned = match style {
        RopeStyle::Interleaved => {
            candle_nn::rotary_emb::rope_i(&heads_first, &table.cos, &table.sin)?
        }
        RopeStyle::Halves => candle_nn::rotary_emb::rope(&heads_first, &table.cos, &table.sin)?,
    };
    let turned = turned.squeeze(0)?.transpose(0, 1)?;
    if rotated == head_dim {
        turned.contiguous()
    } else {
        Tensor::cat(&[turned, x.narrow(2, rotated, head_dim - rotated)?], 2)
    }
}

struct RmsNorm {
    epsilon: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (contiguous(x, lx)?, contiguous(w, lw)?);
        let width = w.len();
        if width == 0 || lx.dims().last() != Some(&width) {
            candle_core::bail!("rms-norm over {:?} with a weight of {width}", lx.dims())
        }
        let mut out = vec![0f32; x.len()];
        for_each_rows(&mut out, width, |first, rows| {
            for (out, x) in rows.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width))
            {
                let scale = 1.0 / (sum_of_squares(x) / width as f32 + self.epsilon).sqrt();
                for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
                    *out = x * scale * w;
                }
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

struct SiluMul;

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        lg: &Layout,
        u: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if lg.shape() != lu.shape() {
            candle_core::bail!("silu-mul of {:?} and {:?}", lg.dims(), lu.dims())
        }
        let (gate, up) = (contiguous(g, lg)?, contiguous(u, lu)?);
        let mut out = vec![0f32; gate.len()];
        for_each_rows(&mut out, 1, |first, part| {
            for ((out, gate), up) in part.iter_mut().zip(&gate[first..]).zip(&up[first..]) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        });
        Ok((CpuStorage::F32(out), lg.shape().clone()))
    }
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        y: &CpuStorage,
        ly: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (contiguous(x, lx)?, contiguous(y, ly)?);
        let width = lx.dims().last().copied().unwrap_or(0);
        let one_row = ly.dims() == [width];
        if width == 0 || !(one_row || lx.shape() == ly.shape()) {
            candle_core::bail!("adding {:?} to {:?}", ly.dims(), lx.dims())
        }
        let mut out = x.to_vec();
        for_each_rows(&mut out, width, |first, rows| {
            let y = if one_row { y } else { &y[first * width..] };
            for (out, y) in rows.chunks_exact_mut(width).zip(y.chunks_exact(width).cycle()) {
                for (out, y) in out.iter_mut().zip(y) {
                    *out += y;
                }
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

struct Rotate {
    style: RopeStyle,
}

impl CustomOp3 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        cos: &CpuStorage,
        lcos: &Layout,
        sin: &CpuStorage,
        lsin: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, heads, head_dim) = lx.shape().dims3()?;
        let (rows, pairs) = lcos.shape().dims2()?;
        if lsin.shape() != lcos.shape() || rows != tokens || 2 * pairs > head_dim || pairs == 0 {
            candle_core::bail!(
                "rotating {:?} by tables of {:?} and {:?}",
                lx.dims(),
                lcos.dims(),
                lsin.dims()
            )
        }
        let (x, cos, sin) = (contiguous(x, lx)?, contiguous(cos, lcos)?, contiguous(sin, lsin)?);
        let mut out = x.to_vec();
        let width = heads * head_dim;
        for_each_rows(&mut out, width, |first, part| {
            for (token, row) in (first..).zip(part.chunks_exact_mut(width)) {
                let angles = token * pairs..(token + 1) * pairs;
                let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                for head in row.chunks_exact_mut(head_dim) {
                    match self.style {
                        RopeStyle::Interleaved => {
                            rotate_interleaved(&mut head[..2 * pairs], cos, sin)
                        }
                        RopeStyle::Halves => rotate_halves(&mut head[..2 * pairs], cos, sin),
                    }
                }
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

fn rotate_interleaved(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * c - b * s;
        pair[1] = a * s + b * c;
    }
}

fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
    }
}

/// Sums in eight lanes: a single running sum would be one long chain of dependent additions.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (groups, rest) = x.as_chunks::<8>();
    for group in groups {
        for (lane, v) in lanes.iter_mut().zip(group) {
            *lane += v * v;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|v| v * v).sum::<f32>()
}

/// `e^x` within two units in the last place, without a branch or a call, so that loops over it vectorise.
///
/// The argument is split as `n ln 2 + r`; `e^r` is Cephes' polynomial. Saturates outside ±87; NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it leaves the nearest whole number in a float's low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let power =
        f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * power
}

/// The elements of a contiguous f32 tensor.
pub(super) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

/// Calls `work(first_row, rows)` for disjoint groups of whole rows that together are `out`, in parallel when there are
/// elements enough.
fn for_each_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < PARALLEL_FROM || Current.threads() == 1 {
        return work(0, out);
    }
    let rows = (UNIT / width).max(1);
    let units: Vec<_> = out.chunks_mut(rows * width).map(Mutex::new).collect();
    Current.run(units.len(), &|unit| {
        let mut part = units[unit].lock().unwrap_or_else(PoisonError::into_inner);
        work(unit * rows, &mut part);
    });
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::rope::Rope;
    use crate::model::{RopeConfig, RopeScaling};

    /// Values between -4 and 4 without a pattern that the loops could share.
    fn random(shape: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32)
            .map(|i| (i.wrapping_mul(2_654_435_769) >> 16) as f32 / 8192.0 - 4.0)
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn assert_close(ours: &Tensor, theirs: &Tensor) {
        assert_eq!(ours.dims(), theirs.dims());
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in flat(ours).into_iter().zip(flat(theirs)) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} against {b}");
        }
    }

    /// Calls `check` outside and inside a pool.
    fn alone_and_in_a_pool(check: impl Fn() + Send) {
        check();
        rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(check);
    }

    /// Row counts on both sides of the parallel threshold.
    const ROWS: [usize; 3] = [1, 7, 700];

    #[test]
    fn rms_norm_agrees_with_candle() {
        alone_and_in_a_pool(|| {
            for rows in ROWS {
                let (x, w) = (random(&[rows, 100]), random(&[100]));
                assert_close(
                    &rms_norm(&x, &w, 1e-5).unwrap(),
                    &candle_nn::ops::rms_norm(&x, &w, 1e-5).unwrap(),
                );
            }
        });
    }

    #[test]
    fn silu_mul_agrees_with_candle() {
        alone_and_in_a_pool(|| {
            for rows in ROWS {
                let (gate, up) = (random(&[rows, 100]), random(&[rows, 100]));
                assert_close(&silu_mul(&gate, &up).unwrap(), &(gate.silu().unwrap() * up).unwrap());
            }
        });
    }

    #[test]
    fn add_agrees_with_candle() {
        alone_and_in_a_pool(|| {
            for rows in ROWS {
                let x = random(&[rows, 100]);
                for y in [random(&[rows, 100]), random(&[100])] {
                    assert_close(&add(&x, &y).unwrap(), &x.broadcast_add(&y).unwrap());
                }
            }
        });
    }

    #[test]
    fn rotate_agrees_with_candle() {
        alone_and_in_a_pool(|| {
            for style in [RopeStyle::Interleaved, RopeStyle::Halves] {
                for dimension in [16, 10] {
                    let config =
                        RopeConfig { style, theta: 1e4, dimension, scaling: RopeScaling::None };
                    let rope = Rope::new(&config, None, &Device::Cpu).unwrap();
                    for tokens in ROWS {
                        let x = random(&[tokens, 9, 16]);
                        let table = rope.table(1000, tokens).unwrap();
                        let ours = rotate(&x, &table, style).unwrap();
                        assert_close(&ours, &rotate_with_candle(&x, &table, style).unwrap());
                    }
                }
            }
        });
    }

    #[test]
    fn mismatched_shapes_are_errors() {
        assert!(rms_norm(&random(&[2, 8]), &random(&[4]), 1e-5).is_err());
        assert!(silu_mul(&random(&[2, 8]), &random(&[2, 4])).is_err());
        assert!(add(&random(&[2, 8]), &random(&[2, 4])).is_err());
        let table = RopeTable { cos: random(&[3, 4]), sin: random(&[3, 4]) };
        assert!(rotate(&random(&[2, 1, 8]), &table, RopeStyle::Halves).is_err());
    }

    #[test]
    fn exp_is_accurate() {
        for i in -87_000..=87_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.5e-7, "exp({x}) is off by {error:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::NEG_INFINITY) > 0.0);
    }
}
