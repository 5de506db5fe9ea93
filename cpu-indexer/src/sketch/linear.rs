//! The little linear algebra that calibration needs: Cholesky factors and eigenvectors of symmetric matrices.
//!
//! Matrices are square, row-major and of double precision.

/// Lower triangular `L` with `L Lᵀ = matrix`, for a positive definite matrix of `n` rows.
///
/// Pivots that rounding has made tiny or negative are raised, so that the factor can always be inverted.
pub(super) fn cholesky(matrix: &[f64], n: usize) -> Vec<f64> {
    let largest = (0..n).map(|i| matrix[i * n + i]).fold(0.0, f64::max);
    let smallest_pivot = (largest * 1e-9).max(f64::MIN_POSITIVE);
    let mut lower = vec![0.0; n * n];
    for row in 0..n {
        for column in 0..=row {
            let (a, b) = (&lower[row * n..][..column], &lower[column * n..][..column]);
            let rest = matrix[row * n + column] - dot(a, b);
            lower[row * n + column] = if row == column {
                rest.max(smallest_pivot).sqrt()
            } else {
                rest / lower[column * n + column]
            };
        }
    }
    lower
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves `Lᵀ x = b` in place for a lower triangular `L` of `n` rows.
pub(super) fn solve_transposed(lower: &[f64], n: usize, b: &mut [f64]) {
    for row in (0..n).rev() {
        b[row] /= lower[row * n + row];
        let solved = b[row];
        for (earlier, factor) in b[..row].iter_mut().zip(&lower[row * n..]) {
            *earlier -= factor * solved;
        }
    }
}

/// Eigenvalues of a symmetric matrix of `n` rows in descending order, and its eigenvectors as the rows of a matrix.
///
/// Householder's reduction to tridiagonal form, then QL iterations with implicit shifts.
pub(super) fn eigen(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside, mut vectors) = tridiagonal(matrix, n);
    ql(&mut diagonal, &mut beside, &mut vectors, n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
    let values = order.iter().map(|&at| diagonal[at]).collect();
    let rows = order.iter().flat_map(|&at| vectors[at * n..][..n].iter().copied()).collect();
    (values, rows)
}

/// Diagonal, subdiagonal (its first entry unused) and transformation (as rows) of the tridiagonal form of `matrix`.
fn tridiagonal(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut a = matrix.to_vec();
    let mut beside = vec![0.0; n];
    let mut reflectors = Vec::with_capacity(n);
    for k in (1..n).rev() {
        // A reflection of the first k coordinates that turns row k into a multiple of the unit vector k − 1.
        let mut v = a[k * n..][..k].to_vec();
        let norm = dot(&v, &v).sqrt();
        let alpha = if v[k - 1] > 0.0 { -norm } else { norm };
        beside[k] = alpha;
        v[k - 1] -= alpha;
        let length = dot(&v, &v);
        if length > 0.0 {
            let scale = (2.0 / length).sqrt();
            v.iter_mut().for_each(|x| *x *= scale);
            let mut p: Vec<f64> = (0..k).map(|row| dot(&a[row * n..][..k], &v)).collect();
            let half = dot(&p, &v) / 2.0;
            p.iter_mut().zip(&v).for_each(|(p, v)| *p -= half * v);
            for row in 0..k {
                let (vr, pr) = (v[row], p[row]);
                for ((x, p), v) in a[row * n..][..k].iter_mut().zip(&p).zip(&v) {
                    *x -= vr * p + pr * v;
                }
            }
        } else {
            v.fill(0.0);
        }
        reflectors.push(v);
    }
    let diagonal = (0..n).map(|i| a[i * n + i]).collect();
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    // Row i of `vectors` becomes what the reflections, undone in turn, make of unit vector i.
    for v in reflectors.iter().rev() {
        for row in vectors.chunks_exact_mut(n) {
            let product = dot(&row[..v.len()], v);
            row.iter_mut().zip(v).for_each(|(x, v)| *x -= product * v);
        }
    }
    (diagonal, beside, vectors)
}

/// Turns a tridiagonal matrix into a diagonal one, applying the same rotations to the rows of `vectors`.
fn ql(diagonal: &mut [f64], beside: &mut [f64], vectors: &mut [f64], n: usize) {
    const MOST_ITERATIONS: usize = 60;
    beside.rotate_left(1);
    for l in 0..n {
        for _ in 0..MOST_ITERATIONS {
            let negligible = |m: &usize| {
                let size = diagonal[*m].abs() + diagonal[m + 1].abs();
                beside[*m].abs() <= f64::EPSILON * size
            };
            let m = (l..n - 1).find(negligible).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let g = (diagonal[l + 1] - diagonal[l]) / (2.0 * beside[l]);
            let r = g.hypot(1.0);
            let mut g = diagonal[m] - diagonal[l] + beside[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut vanished = false;
            for i in (l..m).rev() {
                let f = s * beside[i];
                let b = c * beside[i];
                let r = f.hypot(g);
                beside[i + 1] = r;
                if r == 0.0 {
                    diagonal[i + 1] -= p;
                    beside[m] = 0.0;
                    vanished = true;
                    break;
                }
                s = f / r;
                c = g / r;
                g = diagonal[i + 1] - p;
                let t = (diagonal[i] - g) * s + 2.0 * c * b;
                p = s * t;
                diagonal[i + 1] = g + p;
                g = c * t - b;
                let (first, second) = vectors.split_at_mut((i + 1) * n);
                for (x, y) in first[i * n..].iter_mut().zip(&mut second[..n]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
            if !vanished {
                diagonal[l] -= p;
                beside[l] = g;
                beside[m] = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positive_definite(n: usize) -> Vec<f64> {
        let factor: Vec<f64> = (0..n * n).map(|i| ((i * i + 3 * i) % 17) as f64 - 8.0).collect();
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                matrix[i * n + j] = dot(&factor[i * n..][..n], &factor[j * n..][..n]);
            }
            matrix[i * n + i] += 1.0;
        }
        matrix
    }

    #[test]
    fn a_cholesky_factor_gives_back_the_matrix() {
        let matrix = positive_definite(12);
        let lower = cholesky(&matrix, 12);
        for i in 0..12 {
            for j in 0..12 {
                let product = dot(&lower[i * 12..][..12], &lower[j * 12..][..12]);
                assert!((product - matrix[i * 12 + j]).abs() < 1e-8 * 1e3);
            }
        }
    }

    #[test]
    fn solving_undoes_multiplying() {
        let lower = cholesky(&positive_definite(9), 9);
        let x: Vec<f64> = (0..9).map(f64::from).collect();
        let mut b: Vec<f64> =
            (0..9).map(|i| (0..9).map(|j| lower[j * 9 + i] * x[j]).sum()).collect();
        solve_transposed(&lower, 9, &mut b);
        for (found, expected) in b.iter().zip(&x) {
            assert!((found - expected).abs() < 1e-8);
        }
    }

    #[test]
    fn eigenvectors_are_orthonormal_and_diagonalise() {
        for n in [1, 2, 7, 16, 33] {
            let matrix = positive_definite(n);
            let (values, vectors) = eigen(&matrix, n);
            let scale = values[0].max(1.0);
            assert!(values.is_sorted_by(|a, b| a >= b));
            for i in 0..n {
                let image: Vec<f64> =
                    matrix.chunks(n).map(|row| dot(row, &vectors[i * n..][..n])).collect();
                for (j, other) in vectors.chunks(n).enumerate() {
                    let same = f64::from(u8::from(i == j));
                    assert!((dot(&vectors[i * n..][..n], other) - same).abs() < 1e-9);
                    assert!((dot(&image, other) - same * values[i]).abs() < 1e-9 * scale);
                }
            }
        }
    }

    #[test]
    fn a_matrix_without_variance_has_eigenvectors_too() {
        let (values, vectors) = eigen(&[0.0; 16], 4);
        assert_eq!(values, [0.0; 4]);
        assert!(vectors.chunks(4).all(|row| (dot(row, row) - 1.0).abs() < 1e-12));
    }
}
