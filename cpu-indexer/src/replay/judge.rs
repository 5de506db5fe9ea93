//! Full attention, which selections are measured by.

use hindsight_protocol::arena::HeadBlocks;

use super::report::Numbers;
use super::trace::Trace;
use crate::kernels::{GroupQuery, Kernels, Scores};
use crate::scan::score_all;

/// Full attention of one group at one step, and how far others are from it.
pub(super) struct Judge {
    kernels: Kernels,
    query: GroupQuery,
    scores: Scores,
    /// Softmax weights: `[group]`[tokens].
    weights: Vec<Vec<f32>>,
}

impl Judge {
    /// A judge of selections over `trace`.
    pub(super) fn new(trace: &Trace) -> Self {
        let geometry = trace.cache().geometry();
        Self {
            kernels: Kernels::detect(),
            query: GroupQuery::new(geometry.group(), geometry.head_dim as usize),
            scores: Scores::new(geometry.group()),
            weights: vec![Vec::new(); geometry.group()],
        }
    }

    /// Attends to every token in `view` with `queries` ([group, head_dim], unscaled).
    pub(super) fn load(&mut self, view: HeadBlocks<'_>, queries: &[f32], scale: f32) {
        self.query.load(queries, scale);
        score_all(self.kernels, view, &self.query, &mut self.scores);
        for (head, weights) in self.weights.iter_mut().enumerate() {
            let shares = self.scores.head_mut(head);
            let (_, sum) = self.kernels.exponentiate(shares);
            weights.clear();
            weights.extend(shares.iter().map(|share| share / sum));
        }
    }

    /// Softmax mass of the tokens in `mask`, summed over the group.
    pub(super) fn mass(&self, mask: &[bool]) -> f64 {
        let of_head = |weights: &Vec<f32>| {
            let chosen = weights.iter().zip(mask).filter(|(_, chosen)| **chosen);
            chosen.map(|(weight, _)| f64::from(*weight)).sum::<f64>()
        };
        self.weights.iter().map(of_head).sum()
    }

    /// The softmax weight of a token, summed over the group.
    pub(super) fn weight(&self, token: u32) -> f32 {
        self.weights.iter().map(|weights| weights[token as usize]).sum()
    }

    /// Collects each head's error of attending only to the tokens in `mask`.
    pub(super) fn output_errors(&self, view: HeadBlocks<'_>, mask: &[bool], errors: &mut Numbers) {
        /// Weights whose values cannot change an output by more than rounding does.
        const NEGLIGIBLE: f32 = 1e-9;
        let (dim, group) = (view.head_dim(), self.weights.len());
        let (zero, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        let (mut full, mut part) = (vec![0.0_f32; group * dim], vec![0.0_f32; group * dim]);
        let mut masses = vec![0.0_f32; group];
        for (token, &chosen) in mask.iter().enumerate() {
            if self.weights.iter().all(|weights| weights[token] < NEGLIGIBLE) {
                continue;
            }
            self.kernels.centre(view.dtype(), view.value(token), &zero, &mut value);
            let outputs = full.chunks_exact_mut(dim).zip(part.chunks_exact_mut(dim));
            for ((weights, mass), (full, part)) in self.weights.iter().zip(&mut masses).zip(outputs)
            {
                let weight = weights[token];
                add_scaled(weight, &value, full);
                if chosen {
                    *mass += weight;
                    add_scaled(weight, &value, part);
                }
            }
        }
        let square = |x: f32| f64::from(x) * f64::from(x);
        let outputs = full.chunks_exact(dim).zip(part.chunks_exact(dim));
        for (mass, (full, part)) in masses.iter().zip(outputs) {
            let distance: f64 = full.iter().zip(part).map(|(f, p)| square(f - p / mass)).sum();
            let length: f64 = full.iter().map(|f| square(*f)).sum();
            errors.push((distance / length.max(f64::MIN_POSITIVE)).sqrt());
        }
    }
}

fn add_scaled(factor: f32, vector: &[f32], sum: &mut [f32]) {
    sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += factor * x);
}
