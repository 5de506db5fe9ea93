//! Tokens that may come next, and the rules that strike some out.

use std::cmp::Ordering;

use super::SamplingError;

/// Logits that are compared at once.
const LANES: usize = 16;
/// Logits among which the likeliest is looked for once it is known that it is one of them.
const PART: usize = 1024;

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// Its logit: finite, or minus infinity for a token that never comes.
    pub logit: f32,
}

impl Candidate {
    /// Likeliest first; of equals, the lowest token first.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// The tokens that may come next; at least one, and the likeliest never struck out.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    list: Vec<Candidate>,
    /// The likeliest candidate's logit.
    max: f32,
}

/// The likeliest token; of equals, the lowest.
///
/// # Errors
///
/// There are no logits, one is NaN or plus infinity, or all are minus infinity.
pub(super) fn likeliest(logits: &[f32]) -> Result<u32, SamplingError> {
    let (mut start, mut most) = (0, f32::NEG_INFINITY);
    for (number, part) in logits.chunks(PART).enumerate() {
        match largest(part) {
            None => {
                let unsound = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
                let token = number * PART + position(part, unsound);
                return Err(SamplingError::NotFinite { found: logits[token], token });
            }
            Some(logit) if logit > most => (start, most) = (number * PART, logit),
            Some(_) => {}
        }
    }
    let Some(&first) = logits.first() else { return Err(SamplingError::NoLogits) };
    if most == f32::NEG_INFINITY {
        return Err(SamplingError::NotFinite { found: first, token: 0 });
    }
    let best = start + position(&logits[start..], |logit| logit == most);
    Ok(u32::try_from(best).expect("a vocabulary has fewer than 2^32 tokens"))
}

/// The largest of some logits; `None` if one of them is NaN or plus infinity.
///
/// Each lane keeps the largest that it has seen, so that the compiler compares many at once.
fn largest(logits: &[f32]) -> Option<f32> {
    let mut most = [f32::NEG_INFINITY; LANES];
    let mut sound = [true; LANES];
    let mut compare = |logits: &[f32]| {
        for ((most, sound), &logit) in most.iter_mut().zip(&mut sound).zip(logits) {
            *most = if logit > *most { logit } else { *most };
            *sound &= logit < f32::INFINITY;
        }
    };
    let (whole, rest) = logits.as_chunks::<LANES>();
    for logits in whole {
        compare(logits);
    }
    compare(rest);
    sound.iter().all(|&sound| sound).then(|| most.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// Where the first logit stands that `is_it`.
fn position(logits: &[f32], is_it: impl Fn(f32) -> bool) -> usize {
    logits.iter().position(|&logit| is_it(logit)).expect("it has been seen")
}

/// Divides the positive logits of `tokens` by `penalty` and multiplies the negative ones, once for each entry: give each
/// token once. Tokens outside the vocabulary are ignored.
pub(super) fn penalize(logits: &mut [f32], tokens: impl IntoIterator<Item = u32>, penalty: f32) {
    for token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

impl Candidates {
    /// All tokens, in order.
    ///
    /// # Errors
    ///
    /// There are no logits, one is NaN or plus infinity, or all are minus infinity.
    pub fn new(logits: &[f32]) -> Result<Self, SamplingError> {
        let max = logits[likeliest(logits)? as usize];
        let list = (0..).zip(logits).map(|(token, &logit)| Candidate { token, logit }).collect();
        Ok(Self { list, max })
    }

    /// What is left, in the order of the last rule that sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[Candidate] {
        &self.list
    }

    /// Keeps the `k` likeliest, likeliest first; 0 keeps all.
    pub fn top_k(&mut self, k: usize) {
        if k == 0 || k >= self.list.len() {
            return;
        }
        self.list.select_nth_unstable_by(k - 1, Candidate::rank);
        self.list.truncate(k);
        self.list.sort_unstable_by(Candidate::rank);
    }

    /// Keeps the fewest likeliest whose probabilities sum to at least `p`, likeliest first; 1 keeps all.
    pub fn top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let weight = |candidate: &Candidate| f64::from(candidate.logit - self.max).exp();
        let enough = f64::from(p) * self.list.iter().map(weight).sum::<f64>();

        // Sorts only a prefix that holds enough: a vocabulary is large, what p keeps of it mostly small.
        let mut sorted = 0;
        let mut kept = 0;
        let mut sum = 0.0;
        while sum < enough && kept < self.list.len() {
            if kept == sorted {
                let more = (sorted * 4).max(64).min(self.list.len());
                let rest = &mut self.list[sorted..];
                if more - sorted < rest.len() {
                    rest.select_nth_unstable_by(more - sorted, Candidate::rank);
                }
                rest[..more - sorted].sort_unstable_by(Candidate::rank);
                sorted = more;
            }
            sum += weight(&self.list[kept]);
            kept += 1;
        }
        self.list.truncate(kept);
    }

    /// Keeps those at least `p` times as probable as the likeliest, in their order; 0 keeps all.
    pub fn min_p(&mut self, p: f32) {
        let least = self.max + p.ln();
        self.list.retain(|candidate| candidate.logit >= least);
    }

    /// The token at which the cumulative probability, the logits being divided by `temperature`, passes `point`.
    ///
    /// `point` is in `[0, 1)`, `temperature` positive. Tokens of minus infinity are never drawn.
    #[must_use]
    pub fn draw(&self, temperature: f32, point: f64) -> u32 {
        let weight = |candidate: &Candidate| {
            (f64::from(candidate.logit - self.max) / f64::from(temperature)).exp()
        };
        let mut left = point * self.list.iter().map(weight).sum::<f64>();
        let mut drawn = None;
        for candidate in &self.list {
            let weight = weight(candidate);
            if weight == 0.0 {
                continue;
            }
            drawn = Some(candidate.token);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        drawn.expect("the likeliest candidate has weight 1")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(candidates: &Candidates) -> Vec<u32> {
        candidates.as_slice().iter().map(|candidate| candidate.token).collect()
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }

    #[test]
    fn of_equals_the_lowest_is_likeliest() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0, 2.0]), Ok(1));
        assert_eq!(likeliest(&[f32::NEG_INFINITY, -5.0]), Ok(1));
    }

    #[test]
    fn logits_that_are_not_finite_are_errors() {
        let cases: [&[f32]; 4] =
            [&[], &[0.0, f32::NAN], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3]];
        for logits in cases {
            assert!(likeliest(logits).is_err());
            assert!(Candidates::new(logits).is_err());
        }
        let message = likeliest(&[0.0, f32::NAN]).unwrap_err().to_string();
        assert!(message.contains("NaN for token 1"), "{message}");
    }

    proptest! {
        /// Whatever the length: what a plain search from the first to the last says.
        #[test]
        fn the_likeliest_is_what_a_plain_search_finds(
            levels in prop::collection::vec(-3_i8..4, 0..5000),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<bool>())),
        ) {
            let mut logits: Vec<f32> = levels.into_iter().map(f32::from).collect();
            if let (Some((index, nan)), false) = (damage, logits.is_empty()) {
                let token = index.index(logits.len());
                logits[token] = if nan { f32::NAN } else { f32::INFINITY };
                let found = likeliest(&logits).unwrap_err();
                let at_token = |error| matches!(error, SamplingError::NotFinite { token: at, .. } if at == token);
                prop_assert!(at_token(found));
            } else {
                let mut best = None;
                for (token, &logit) in (0..).zip(&logits) {
                    if best.is_none_or(|(_, most)| logit > most) {
                        best = Some((token, logit));
                    }
                }
                prop_assert_eq!(likeliest(&logits).ok(), best.map(|(token, _)| token));
            }
        }
    }

    #[test]
    fn penalties_push_both_signs_down() {
        let mut logits = [2.0, -2.0, 2.0, 0.0];
        penalize(&mut logits, [0, 1, 3, 99], 2.0);
        assert_eq!(logits, [1.0, -4.0, 2.0, 0.0]);
    }

    #[test]
    fn rules_of_a_small_distribution() {
        let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
        let all = Candidates::new(&logits).unwrap();
        let after = |rule: fn(&mut Candidates)| {
            let mut candidates = all.clone();
            rule(&mut candidates);
            tokens(&candidates)
        };
        assert_eq!(after(|c| c.top_k(2)), [1, 3]);
        assert_eq!(after(|c| c.top_k(0)), [0, 1, 2, 3]);
        assert_eq!(after(|c| c.top_p(0.65)), [1, 3]);
        assert_eq!(after(|c| c.top_p(0.75)), [1, 3, 2]);
        assert_eq!(after(|c| c.top_p(1e-9)), [1]);
        assert_eq!(after(|c| c.min_p(0.45)), [1, 2, 3]);
        assert_eq!(after(|c| c.min_p(1.0)), [1]);
        assert_eq!(after(|c| c.min_p(0.0)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_token_of_minus_infinity_is_never_drawn() {
        let candidates = Candidates::new(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]).unwrap();
        for point in [0.0, 0.5, 1.0 - f64::EPSILON] {
            assert_eq!(candidates.draw(1.0, point), 1);
        }
    }

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![9 => -20f32..20.0, 1 => Just(1.0f32), 1 => Just(f32::NEG_INFINITY)];
        prop::collection::vec(logit, 1..600)
            .prop_filter("one must be finite", |l| l.iter().any(|v| v.is_finite()))
    }

    proptest! {
        #[test]
        fn top_k_is_a_sorted_prefix(logits in logits(), k in 1usize..700) {
            let mut candidates = Candidates::new(&logits).unwrap();
            let mut sorted = candidates.as_slice().to_vec();
            sorted.sort_by(Candidate::rank);
            sorted.truncate(k);
            candidates.top_k(k);
            prop_assert!(k >= logits.len() || candidates.as_slice() == sorted);
        }

        #[test]
        fn top_p_is_the_shortest_prefix_that_holds_p(logits in logits(), p in 0.001f32..0.999) {
            let mut candidates = Candidates::new(&logits).unwrap();
            let probabilities = softmax(&logits);
            let mut sorted = candidates.as_slice().to_vec();
            sorted.sort_by(Candidate::rank);
            candidates.top_p(p);
            let kept = tokens(&candidates);
            prop_assert_eq!(&sorted[..kept.len()], candidates.as_slice());
            let mass = |tokens: &[u32]| tokens.iter().map(|&t| probabilities[t as usize]).sum::<f64>();
            prop_assert!(mass(&kept) >= f64::from(p) - 1e-9);
            prop_assert!(mass(&kept[..kept.len() - 1]) < f64::from(p) + 1e-9);
        }

        #[test]
        fn min_p_keeps_what_is_probable_enough(logits in logits(), p in 0.0f32..=1.0) {
            let mut candidates = Candidates::new(&logits).unwrap();
            candidates.min_p(p);
            let probabilities = softmax(&logits);
            let most = probabilities.iter().copied().fold(0.0, f64::max);
            let kept = tokens(&candidates);
            for (token, probability) in probabilities.iter().enumerate() {
                let ratio = probability / most;
                if (ratio - f64::from(p)).abs() > 1e-5 * f64::from(p) + 1e-30 {
                    prop_assert_eq!(kept.contains(&(token as u32)), ratio > f64::from(p), "token {}", token);
                }
            }
            prop_assert!(!kept.is_empty());
        }

        #[test]
        fn draws_land_in_the_token_s_share(logits in logits(), temperature in 0.1f32..3.0, point in 0.0f64..1.0) {
            let candidates = Candidates::new(&logits).unwrap();
            let token = candidates.draw(temperature, point) as usize;
            let tempered: Vec<f32> = logits.iter().map(|logit| logit / temperature).collect();
            let probabilities = softmax(&tempered);
            let before: f64 = probabilities[..token].iter().sum();
            prop_assert!(before <= point + 1e-4);
            prop_assert!(before + probabilities[token] >= point - 1e-4);
        }
    }
}
