//! Things attended again and again, by a score that fades.

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

    /// Shrinks all scores by `decay`, then adds the weights of `seen`, whose numbers ascend.
    pub(super) fn observe(&mut self, decay: f32, seen: impl Iterator<Item = (u32, f32)>) {
        if self.budget == 0 {
            return;
        }
        self.merged_numbers.clear();
        self.merged_scores.clear();
        let mut old = self.numbers.iter().copied().zip(self.scores.iter().copied()).peekable();
        for (number, weight) in seen {
            while let Some((known, score)) = old.next_if(|(known, _)| *known < number) {
                self.merged_numbers.push(known);
                self.merged_scores.push(decay * score);
            }
            let before = old.next_if(|(known, _)| *known == number).map_or(0.0, |(_, score)| score);
            self.merged_numbers.push(number);
            self.merged_scores.push(decay * before + weight);
        }
        for (known, score) in old {
            self.merged_numbers.push(known);
            self.merged_scores.push(decay * score);
        }
        self.keep_best();
    }

    fn keep_best(&mut self) {
        self.numbers.clear();
        self.scores.clear();
        let mut surplus = self.merged_scores.len().saturating_sub(self.budget);
        let cut = if surplus == 0 {
            f32::NEG_INFINITY
        } else {
            self.scores.extend_from_slice(&self.merged_scores);
            let (_, cut, _) = self.scores.select_nth_unstable_by(surplus, f32::total_cmp);
            *cut
        };
        self.scores.clear();
        surplus -= self.merged_scores.iter().filter(|&&score| score < cut).count().min(surplus);
        for (&number, &score) in self.merged_numbers.iter().zip(&self.merged_scores) {
            if score == cut && surplus > 0 {
                surplus -= 1;
            } else if score >= cut {
                self.numbers.push(number);
                self.scores.push(score);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recurs_outlives_what_does_not() {
        let mut set = DecayedSet::new(2, 3);
        set.observe(0.5, [(1, 1.0), (5, 1.0), (9, 1.5)].into_iter());
        set.observe(0.5, [(5, 1.0)].into_iter());
        assert_eq!(set.numbers(), [5, 9]);
        set.observe(0.5, [(2, 1.2), (5, 1.0)].into_iter());
        assert_eq!(set.numbers(), [2, 5]);
    }

    #[test]
    fn of_equals_only_the_budget_is_kept() {
        let mut set = DecayedSet::new(3, 5);
        set.observe(0.5, (0..5).map(|number| (number, 1.0)));
        assert_eq!(set.numbers().len(), 3);
        set.observe(0.5, std::iter::empty());
        assert_eq!(set.numbers().len(), 3);
    }

    #[test]
    fn a_budget_of_nothing_remembers_nothing() {
        let mut set = DecayedSet::new(0, 5);
        set.observe(0.5, [(1, 1.0)].into_iter());
        assert!(set.numbers().is_empty() && set.bytes() == 0);
    }
}
