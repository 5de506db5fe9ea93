//! Means and medians.

/// The mean; 0 of nothing.
pub(super) fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

/// The median, the upper one of an even number; 0 of nothing.
pub(super) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

/// Of numbers that repeat `period` kinds in the same order, the smallest of each kind.
pub(super) fn smallest_of_each(numbers: &[f64], period: usize) -> Vec<f64> {
    let mut smallest = vec![f64::INFINITY; period.min(numbers.len())];
    for repeat in numbers.chunks(period.max(1)) {
        for (smallest, &number) in smallest.iter_mut().zip(repeat) {
            *smallest = smallest.min(number);
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_and_mean() {
        assert_eq!((median(&mut [3.0, 1.0, 2.0]), mean(&[1.0, 2.0])), (2.0, 1.5));
        assert_eq!((median(&mut []), mean(&[])), (0.0, 0.0));
    }

    #[test]
    fn each_kind_has_its_smallest() {
        assert_eq!(smallest_of_each(&[5.0, 2.0, 4.0, 3.0], 2), [4.0, 2.0]);
        assert!(smallest_of_each(&[], 2).is_empty());
    }
}
