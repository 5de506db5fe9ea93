//! Every instruction set against the scalar kernels.

use half::{bf16, f16};
use hindsight_protocol::geometry::KvDtype;
use proptest::prelude::*;

use super::{CODE_GROUP, CODE_WORDS, GroupQuery, Isa, Kernels, LANES, Run, Scores, scalar};

fn vectorised() -> impl Iterator<Item = Kernels> {
    Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar).filter_map(Kernels::of)
}

/// Scores of every kernel that there is for `keys`, [kernel, head, key]: as a list of rows, and as a run.
fn score(kernels: Kernels, dtype: KvDtype, query: &GroupQuery, keys: &[u16]) -> Vec<Vec<Vec<f32>>> {
    let rows: Vec<&[u16]> = keys.chunks(query.head_dim()).collect();
    let mut scores = Scores::new(query.group());
    scores.resize(rows.len() + 3);
    let of_heads =
        |scores: &Scores| (0..query.group()).map(|head| scores.head(head)[3..].to_vec()).collect();
    kernels.score_rows(dtype, query, &rows, &rows, &mut scores, 3);
    let mut found = vec![of_heads(&scores)];
    if kernels.has_runs_of(query.head_dim()) {
        scores.values_mut().fill(f32::NAN);
        kernels.score_run(query, Run { dtype, keys, next: keys, later: &[] }, &mut scores, 3);
        found.push(of_heads(&scores));
    }
    found
}

proptest! {
    #[test]
    fn scores_agree_within_the_rounding_of_the_type(
        group in 1_usize..10,
        dim in prop_oneof![Just(64), Just(128), (1_usize..17).prop_map(|parts| parts * 16)],
        rows in 0_usize..140,
        seed in any::<u64>(),
    ) {
        let mut random = fastrand(seed);
        let mut query = GroupQuery::new(group, dim);
        let queries: Vec<f32> = (0..group * dim).map(|_| random()).collect();
        query.load(&queries, 0.125);
        let values: Vec<f32> = (0..rows * dim).map(|_| random()).collect();
        for dtype in [KvDtype::F16, KvDtype::Bf16] {
            let keys: Vec<u16> = values.iter().map(|value| match dtype {
                KvDtype::F16 => f16::from_f32(*value).to_bits(),
                KvDtype::Bf16 => bf16::from_f32(*value).to_bits(),
            }).collect();
            let expected = score(Kernels { isa: Isa::Scalar }, dtype, &query, &keys).remove(0);
            let found = vectorised().flat_map(|kernels| {
                score(kernels, dtype, &query, &keys).into_iter().map(move |found| (kernels, found))
            });
            for (kernels, found) in found {
                for head in 0..group {
                    for row in 0..rows {
                        // The sum of magnitudes bounds what rounding each product can do.
                        let magnitude: f32 = query.head(head).iter()
                            .zip(&keys[row * dim..])
                            .map(|(q, &key)| (q * scalar::widen(dtype, key)).abs())
                            .sum();
                        let epsilon = if dtype == KvDtype::Bf16 { 1.0 / 256.0 } else { 1e-5 };
                        let difference = (expected[head][row] - found[head][row]).abs();
                        prop_assert!(difference <= epsilon * magnitude, "{kernels:?} {dtype}");
                    }
                }
            }
        }
    }

    #[test]
    fn exponentials_agree_to_single_precision(
        scores in prop::collection::vec(-60_f32..60.0, 0..70),
        factor in 0_f32..9.0,
    ) {
        let mut expected = scores.clone();
        let (max, sum) = scalar::exponentiate(&mut expected);
        for kernels in vectorised() {
            let mut found = scores.clone();
            let (max_found, sum_found) = kernels.exponentiate(&mut found);
            prop_assert_eq!(max_found, max);
            prop_assert!((sum_found - sum).abs() <= 1e-5 * sum, "{} {}", sum, sum_found);
            for (expected, found) in expected.iter().zip(&found) {
                prop_assert!((expected - found).abs() <= 2e-6 * expected + 1e-37, "{expected} {found}");
            }
            let mut out = vec![0.25; scores.len()];
            kernels.add_scaled(&expected, factor, &mut out);
            for (number, found) in expected.iter().zip(&out) {
                prop_assert!((0.25 + factor * number - found).abs() <= 1e-6 * found);
            }
        }
    }

    #[test]
    fn code_scans_agree_exactly(
        group in 1_usize..10,
        pairs in 1_usize..20,
        groups in 1_usize..6,
        seed in any::<u64>(),
    ) {
        let mut random = fastrand(seed);
        let mut byte = || ((random() + 1.0) * 127.9) as u8;
        let codes: Vec<u8> = (0..groups * pairs * CODE_GROUP).map(|_| byte()).collect();
        let mut tables = vec![[0; CODE_WORDS]; group * pairs * 2];
        tables.iter_mut().flatten().for_each(|entry| *entry = byte() / 8);
        let best: Vec<u8> = (0..group).map(|_| byte()).collect();
        let join = std::array::from_fn(|step| 15 - step as u8);
        let mut expected = vec![0; groups * CODE_GROUP];
        scalar::scan_codes(&codes, &tables, &best, &join, &mut expected);
        for kernels in vectorised() {
            let mut found = vec![9; groups * CODE_GROUP];
            kernels.scan_codes(&codes, &tables, &best, &join, &mut found);
            prop_assert_eq!(&found, &expected, "{:?}", kernels);
        }
    }

    #[test]
    fn what_reaches_a_threshold_is_counted_and_collected_alike(
        ranks in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<u8>(),
        floor in 0_f32..256.0,
    ) {
        let weights: Vec<f32> = ranks.iter().map(|&rank| f32::from(rank)).collect();
        let mut expected = Vec::new();
        scalar::collect_at_least(&ranks, cut, 7, &mut expected);
        let tokens: Vec<u32> = (0..).zip(&ranks).map(|(at, _)| 5 * at).collect();
        let mut picked = Vec::new();
        scalar::pick_not_below(&weights, floor, &tokens, &mut picked);
        for kernels in vectorised() {
            prop_assert_eq!(kernels.count_at_least(&ranks, cut), expected.len());
            let mut found = Vec::new();
            kernels.collect_at_least(&ranks, cut, 7, &mut found);
            prop_assert_eq!(&found, &expected);
            let mut found = Vec::new();
            kernels.pick_not_below(&weights, floor, &tokens, &mut found);
            prop_assert_eq!(&found, &picked);
            prop_assert_eq!(kernels.count_not_below(&weights, floor), picked.len());
            let mut kept = Vec::new();
            kernels.keep_not_below(&weights, floor, &mut kept);
            prop_assert!(kept.iter().eq(weights.iter().filter(|weight| **weight >= floor)));
        }
    }
}

proptest! {
    #[test]
    fn dense_products_agree(
        heads in 1_usize..7,
        rows in 1_usize..20,
        parts in 1_usize..8,
        seed in any::<u64>(),
    ) {
        let mut random = fastrand(seed);
        let width = 16 * parts;
        let factors: Vec<f32> = (0..heads * rows).map(|_| random()).collect();
        let matrix: Vec<u16> =
            (0..rows * width).map(|_| bf16::from_f32(random()).to_bits()).collect();
        let start: Vec<f32> = (0..width).map(|_| random()).collect();
        let mut outer = vec![0.5; width * width];
        scalar::add_outer(&start, 0.3, &mut outer);
        for isa in Isa::available() {
            let kernels = Kernels { isa };
            let mut found = start.repeat(heads);
            kernels.combine_rows(heads, &factors, &matrix, &mut found);
            for (at, found) in found.iter().enumerate() {
                let (head, column) = (at / width, at % width);
                let sum: f32 = (0..rows)
                    .map(|row| {
                        let word = bf16::from_bits(matrix[row * width + column]).to_f32();
                        factors[head * rows + row] * word
                    })
                    .sum();
                prop_assert!((start[column] + sum - found).abs() < 1e-5);
            }
            let mut found = vec![0.5; width * width];
            kernels.add_outer(&start, 0.3, &mut found);
            prop_assert!(outer.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}

proptest! {
    #[test]
    fn tables_hold_products_with_words(sizes in prop::collection::vec(1_usize..5, 1..30), seed in any::<u64>()) {
        let mut random = fastrand(seed);
        let ends: Vec<usize> = sizes.iter().scan(0, |end, size| { *end += size; Some(*end) }).collect();
        let directions = ends[ends.len() - 1];
        let mapped: Vec<f32> = (0..directions).map(|_| random()).collect();
        let words: Vec<u16> =
            (0..directions * CODE_WORDS).map(|_| bf16::from_f32(random()).to_bits()).collect();
        let product = |from: usize, to: usize, word: usize| -> f32 {
            let term = |at: usize| mapped[at] * bf16::from_bits(words[at * CODE_WORDS + word]).to_f32();
            (from..to).map(term).sum()
        };
        for isa in Isa::available() {
            let kernels = Kernels { isa };
            let mut products = vec![[9.0; CODE_WORDS]; ends.len()];
            kernels.word_products(&mapped, &ends, &words, &mut products);
            let mut tables = vec![[9; CODE_WORDS]; ends.len()];
            kernels.units_below_largest(&products, 100.0, &mut tables);
            let mut best = 0.0;
            for (space, &size) in sizes.iter().enumerate() {
                let start = ends[space] - size;
                let largest = products[space].iter().copied().fold(f32::MIN, f32::max);
                best += largest;
                for word in 0..CODE_WORDS {
                    let found = products[space][word];
                    prop_assert!((product(start, ends[space], word) - found).abs() < 1e-5);
                    let below = ((largest - found) * 100.0 + 0.5).floor().min(255.0);
                    prop_assert_eq!(f32::from(tables[space][word]), below);
                }
            }
            prop_assert!((kernels.sum_of_largest(&products) - best).abs() < 1e-4);
        }
    }
}

proptest! {
    #[test]
    fn vectors_in_lanes_are_mapped_and_coded_alike(
        rows in 1_usize..20,
        parts in 1_usize..12,
        seed in any::<u64>(),
    ) {
        let mut random = fastrand(seed);
        let width = 8 * parts;
        let points: Vec<[f32; LANES]> =
            (0..rows).map(|_| std::array::from_fn(|_| random())).collect();
        let matrix: Vec<i8> = (0..rows * width).map(|_| (random() * 100.0) as i8).collect();
        let scales: Vec<f32> = (0..width).map(|_| random() / 100.0).collect();
        let mut expected = vec![[0.0; LANES]; width];
        scalar::project(&points, &matrix, &scales, &mut expected);
        let words: Vec<u16> =
            (0..rows * CODE_WORDS).map(|_| bf16::from_f32(random()).to_bits()).collect();
        let offsets = std::array::from_fn(|_| random());
        let largest = scalar::largest_words(&points, &words, &offsets);
        for kernels in vectorised() {
            let mut found = vec![[9.0; LANES]; width];
            kernels.project(&points, &matrix, &scales, &mut found);
            let pairs = expected.as_flattened().iter().zip(found.as_flattened());
            prop_assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5));
            for (lane, word) in kernels.largest_words(&points, &words, &offsets).into_iter().enumerate() {
                let closeness = |word: u8| offsets[usize::from(word)]
                    + (0..rows).map(|i| {
                        let bits = words[i * CODE_WORDS + usize::from(word)];
                        bf16::from_bits(bits).to_f32() * points[i][lane]
                    }).sum::<f32>();
                prop_assert!(closeness(word) > closeness(largest[lane]) - 1e-5);
            }
        }
    }
}

#[test]
fn every_finite_element_is_centred_exactly() {
    let words: Vec<u16> = (0..=u16::MAX).collect();
    for dtype in [KvDtype::F16, KvDtype::Bf16] {
        let kept: Vec<u16> =
            words.iter().copied().filter(|&bits| scalar::widen(dtype, bits).is_finite()).collect();
        let mut out = vec![0.0; kept.len()];
        for isa in Isa::available() {
            Kernels { isa }.centre(dtype, &kept, &vec![0.5; kept.len()], &mut out);
            let expected = kept.iter().map(|&bits| scalar::widen(dtype, bits) - 0.5);
            assert!(expected.zip(&out).all(|(expected, found)| expected == *found), "{isa:?}");
        }
    }
}

/// Numbers in ±1 from a linear congruential generator.
fn fastrand(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

proptest! {
    #[test]
    fn reading_sums_alike(words in prop::collection::vec(any::<u16>(), 0..600)) {
        let expected = scalar::read(&words, &[]);
        for kernels in vectorised() {
            prop_assert_eq!(kernels.read(&words, &words), expected);
        }
    }
}

#[test]
fn the_best_instruction_set_is_detected() {
    assert_eq!(Some(Kernels::detect()), Kernels::of(*Isa::available().last().unwrap()));
}
