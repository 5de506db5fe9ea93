//! The queries of one group, ready for the kernels.

use half::bf16;

use super::LANES;

/// Queries of the heads that share one KV head, multiplied by the softmax scale, in the forms that the kernels read.
#[derive(Debug, Clone, Default)]
pub struct GroupQuery {
    group: usize,
    head_dim: usize,
    values: Vec<f32>,
    rounded: Vec<bf16>,
}

impl GroupQuery {
    /// Room for a group of `group` queries of `head_dim` elements.
    #[must_use]
    pub fn new(group: usize, head_dim: usize) -> Self {
        let length = group * head_dim;
        Self { group, head_dim, values: vec![0.0; length], rounded: vec![bf16::ZERO; length] }
    }

    /// Takes `queries` ([group, head_dim]) times `scale`.
    ///
    /// # Panics
    /// If there are not exactly `group` queries of `head_dim` elements.
    pub fn load(&mut self, queries: &[f32], scale: f32) {
        assert_eq!(queries.len(), self.values.len(), "a group of {} queries", self.group);
        for ((value, rounded), query) in self.values.iter_mut().zip(&mut self.rounded).zip(queries)
        {
            *value = query * scale;
            *rounded = bf16::from_f32(*value);
        }
    }

    /// Queries of the group.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.group
    }

    /// Elements of a query.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The scaled queries: [group, head_dim].
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The scaled query of one head: `[head_dim]`.
    #[must_use]
    pub fn head(&self, head: usize) -> &[f32] {
        &self.values[head * self.head_dim..][..self.head_dim]
    }

    /// The scaled queries rounded to bfloat16: [group, head_dim].
    #[must_use]
    pub(crate) fn rounded(&self) -> &[bf16] {
        &self.rounded
    }

    /// Mean cosine of the queries with `others` ([group, head_dim]), each with that of the same head.
    ///
    /// # Panics
    /// If there are not as many others.
    #[must_use]
    pub(crate) fn likeness(&self, others: &[f32]) -> f32 {
        assert_eq!(others.len(), self.values.len());
        let pairs = self.values.chunks_exact(self.head_dim).zip(others.chunks_exact(self.head_dim));
        let cosine = |(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE);
        pairs.map(cosine).sum::<f32>() / self.group as f32
    }
}

/// The product of two vectors.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    lane_sums(a, b, |a, b| a * b).iter().sum()
}

/// Sums of `term` over the pairs of two vectors, in as many sums as fill a register: a sum of its own for each lane lets the
/// compiler use registers, as it must not change the order of additions.
pub(crate) fn lane_sums(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(a, b);
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += term(a, b);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_is_the_mean_of_a_groups_cosines() {
        let mut query = GroupQuery::new(2, 32);
        let (mut queries, mut others) = ([0.0; 64], [0.0; 64]);
        (queries[3], queries[32 + 20]) = (2.0, 5.0);
        (others[3], others[32 + 20], others[32 + 7]) = (0.1, 0.6, 0.8);
        query.load(&queries, 0.25);
        assert!((query.likeness(&others) - 0.8).abs() < 1e-6);
        // What has no direction is like nothing.
        assert!(query.likeness(&[0.0; 64]).abs() < f32::EPSILON);
    }
}
