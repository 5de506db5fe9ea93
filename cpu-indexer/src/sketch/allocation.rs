//! Which directions share a code word.

/// The most directions that one code word may describe.
const MOST_DIRECTIONS: usize = 32;
/// Bits of a code word.
const BITS: f64 = 4.0;

/// Splits directions with the given variances (descending) into `subspaces` consecutive runs, so that coding each run in
/// four bits loses the least variance; directions behind the last run are not coded at all.
///
/// By rate-distortion theory, `n` directions with geometric mean variance `v` keep an error of about `n v 2^(−8/n)`.
/// Returns the ends of the runs.
pub(super) fn allocate(variances: &[f64], subspaces: usize) -> Vec<usize> {
    let n = variances.len();
    debug_assert!(subspaces >= 1 && subspaces <= n);
    let total: f64 = variances.iter().sum();
    let smallest = (total * 1e-12).max(f64::MIN_POSITIVE);
    let prefix = |value: fn(f64) -> f64| {
        let mut sums = vec![0.0; n + 1];
        for (at, variance) in variances.iter().enumerate() {
            sums[at + 1] = sums[at] + value(variance.max(0.0));
        }
        sums
    };
    let sums = prefix(|variance| variance);
    let logs = {
        let mut logs = vec![0.0; n + 1];
        for (at, variance) in variances.iter().enumerate() {
            logs[at + 1] = logs[at] + variance.max(smallest).ln();
        }
        logs
    };
    let error = |start: usize, end: usize| {
        let count = (end - start) as f64;
        count * ((logs[end] - logs[start]) / count).exp() * (-2.0 * BITS / count).exp2()
    };
    // best[end] is the least error of the runs so far, if they end at `end`; starts[run][end] is where the last begins.
    let mut best = vec![f64::INFINITY; n + 1];
    best[0] = 0.0;
    let mut starts = Vec::with_capacity(subspaces);
    for run in 0..subspaces {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut start = vec![0; n + 1];
        for end in run + 1..=n {
            let first = run.max(end.saturating_sub(MOST_DIRECTIONS));
            for (begin, before) in best.iter().enumerate().take(end).skip(first) {
                let candidate = before + error(begin, end);
                if candidate < next[end] {
                    (next[end], start[end]) = (candidate, begin);
                }
            }
        }
        best = next;
        starts.push(start);
    }
    let loss = |end: &usize| best[*end] + sums[n] - sums[*end];
    let mut end = (subspaces..=n).min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap_or(n);
    let mut ends = vec![0; subspaces];
    for run in (0..subspaces).rev() {
        ends[run] = end;
        end = starts[run][end];
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strong_directions_get_words_of_their_own() {
        let variances: Vec<f64> = (0..16).map(|i| 100.0 * 0.6_f64.powi(i)).collect();
        let ends = allocate(&variances, 6);
        assert_eq!(ends.len(), 6);
        assert!(ends.is_sorted_by(|a, b| a < b));
        assert_eq!(ends[0], 1);
        let widths: Vec<usize> =
            ends.iter().scan(0, |start, &end| Some(end - std::mem::replace(start, end))).collect();
        assert!(widths.is_sorted(), "{widths:?}");
    }

    #[test]
    fn equal_directions_are_shared_evenly() {
        assert_eq!(allocate(&[1.0; 12], 4), [3, 6, 9, 12]);
    }

    #[test]
    fn directions_without_variance_do_no_harm() {
        let ends = allocate(&[0.0; 8], 4);
        assert!(ends.is_sorted_by(|a, b| a < b) && ends[3] <= 8);
    }
}
