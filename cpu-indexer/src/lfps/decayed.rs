//! Things attended again and again, by a score that fades.

use crate::kernels::Kernels;
use crate::topk;

/// Numbers (positions, or distances) with decayed scores, of which only the best are remembered.
#[derive(Debug, Clone)]
pub(super) struct DecayedSet {
    budget: usize,
    /// Remembered numbers, ascending.
    numbers: Vec<u32>,
    scores: Vec<f32>,
    merged_numbers: Vec<u32>,
    merged_scores: Vec<f32>,
}

impl DecayedSet {
    /// Remembers at most `budget` numbers, and room to take in `most_new` at once.
    pub(super) fn new(budget: usize, most_new: usize) -> Self {
        let room = if budget == 0 { 0 } else { budget + most_new };
        Self {
            budget,
            numbers: Vec::with_capacity(room),
            scores: Vec::with_capacity(room),
            merged_numbers: Vec::with_capacity(room),
            merged_scores: Vec::with_capacity(room),
        }
    }

    /// The remembered numbers, ascending.
    pub(super) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Bytes read and written at a step.
    pub(super) const fn bytes(&self) -> usize {
        self.numbers.len() * (size_of::<u32>() + size_of::<f32>())
    }

    /// Shrinks all scores by `decay`, then adds the weights of the `count` numbers seen, which ascend.
    pub(super) fn observe(
        &mut self,
        kernels: Kernels,
        decay: f32,
        count: usize,
        seen: impl Fn(usize) -> (u32, f32),
        narrowed: &mut Vec<f32>,
    ) {
        if self.budget == 0 {
            return;
        }
        let Self { numbers, scores, merged_numbers, merged_scores, .. } = self;
        merged_numbers.clear();
        merged_scores.clear();
        let (mut old, mut new) = (0, 0);
        while old < numbers.len() && new < count {
            let (known, (number, weight)) = (numbers[old], seen(new));
            // Which comes first cannot be foreseen, so nothing branches on it.
            let (is_known, is_seen) = (known <= number, number <= known);
            let score = if is_known { decay * scores[old] } else { 0.0 };
            merged_numbers.push(known.min(number));
            merged_scores.push(score + if is_seen { weight } else { 0.0 });
            old += usize::from(is_known);
            new += usize::from(is_seen);
        }
        merged_numbers.extend_from_slice(&numbers[old..]);
        merged_scores.extend(scores[old..].iter().map(|score| decay * score));
        for (number, weight) in (new..count).map(seen) {
            merged_numbers.push(number);
            merged_scores.push(weight);
        }
        numbers.clear();
        scores.clear();
        topk::select(kernels, merged_numbers, merged_scores, self.budget, narrowed, numbers);
        topk::weights_of(numbers, merged_numbers, merged_scores, scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(set: &mut DecayedSet, seen: &[(u32, f32)]) {
        set.observe(Kernels::detect(), 0.5, seen.len(), |at| seen[at], &mut Vec::new());
    }

    #[test]
    fn what_recurs_outlives_what_does_not() {
        let mut set = DecayedSet::new(2, 3);
        observe(&mut set, &[(1, 1.0), (5, 1.0), (9, 1.5)]);
        observe(&mut set, &[(5, 1.0)]);
        assert_eq!(set.numbers(), [5, 9]);
        observe(&mut set, &[(2, 1.2), (5, 1.0)]);
        assert_eq!(set.numbers(), [2, 5]);
    }

    #[test]
    fn of_equals_only_the_budget_is_kept() {
        let mut set = DecayedSet::new(3, 5);
        observe(&mut set, &[0, 1, 2, 3, 4].map(|number| (number, 1.0)));
        assert_eq!(set.numbers().len(), 3);
        observe(&mut set, &[]);
        assert_eq!(set.numbers().len(), 3);
    }

    #[test]
    fn a_budget_of_nothing_remembers_nothing() {
        let mut set = DecayedSet::new(0, 5);
        observe(&mut set, &[(1, 1.0)]);
        assert!(set.numbers().is_empty() && set.bytes() == 0);
    }
}
