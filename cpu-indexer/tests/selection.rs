//! What every selection must be, whatever the policy.

mod synthetic;

use hindsight_cpu_indexer::Index;
use hindsight_cpu_indexer::kernels::{Isa, Kernels};
use hindsight_cpu_indexer::parameters::{IndexParameters, Policy, SketchUse, Timing, WIDENING};
use hindsight_cpu_indexer::selection::Selection;
use hindsight_protocol::geometry::KvDtype;
use proptest::prelude::*;
use synthetic::{SCALE, Text};

const PROMPT_QUERIES: usize = 32;

/// An index over the first `prompt` tokens of `text`, seeded if `seeded`.
fn index(
    text: &Text,
    prompt: usize,
    kernels: Kernels,
    policy: Policy,
    parameters: IndexParameters,
    seeded: bool,
) -> Index {
    let geometry = *text.cache.geometry();
    let parameters = IndexParameters { dense_layers: 0, ..parameters };
    let tokens = text.cache.tokens();
    let mut index =
        Index::with_kernels(kernels, geometry, SCALE, policy, parameters, tokens).unwrap();
    let view = text.cache.head(0, 0, prompt);
    index.append(0, 0, view, 0..prompt);
    if seeded {
        index.seed(0, 0, view, &text.queries(PROMPT_QUERIES.min(prompt), 3).concat());
    }
    index
}

/// Runs the steps after `prompt`, and gives each selection to `check` with the index and the number of tokens.
fn run(
    text: &Text,
    prompt: usize,
    index: &mut Index,
    mut check: impl FnMut(&mut Index, usize, &[f32], &Selection),
) {
    let mut out = Selection::default();
    let steps = text.cache.tokens() - prompt;
    for (step, queries) in text.queries(steps, 4).iter().enumerate() {
        let tokens = prompt + step + 1;
        let view = text.cache.head(0, 0, tokens);
        index.append(0, 0, view, tokens - 1..tokens);
        index.select(0, 0, view, queries, &mut out);
        check(index, tokens, queries, &out);
    }
}

fn assert_well_formed(index: &Index, tokens: usize, selection: &Selection) {
    let zones = index.zones(tokens);
    let wanted = index.parameters().top_k.min(zones.middle().len());
    assert_eq!(selection.tokens.len(), wanted);
    assert!(selection.tokens.is_sorted_by(|a, b| a < b));
    assert!(selection.tokens.iter().all(|&token| zones.middle().contains(&(token as usize))));
    assert!(selection.blocks.is_sorted_by(|a, b| a < b));
    let always = (0..zones.sink).chain(zones.window..zones.tokens);
    for token in always.chain(selection.tokens.iter().map(|&token| token as usize)) {
        assert!(selection.blocks.contains(&(token as u32 / 16)), "token {token}");
    }
    assert!(
        selection.blocks.len()
            <= index.parameters().most_blocks(index.parameters().top_k, 16, tokens)
    );
    assert!(selection.blocks.iter().all(|&block| (block as usize) < tokens.div_ceil(16)));
}

fn any_sketch() -> impl Strategy<Value = SketchUse> {
    prop_oneof![Just(SketchUse::Never), Just(SketchUse::OnDrift), Just(SketchUse::Always)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn selections_are_ascending_and_hold_sink_and_window(
        prompt in 1_usize..700,
        steps in 1_usize..50,
        top_k in 1_usize..120,
        sink in 0_usize..20,
        window in 1_usize..80,
        sketch in any_sketch(),
        slash in prop_oneof![Just(0.0_f32), Just(1.0)],
        expansion in 0_usize..4,
        seeded in any::<bool>(),
        exact in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let text = Text::new(prompt + steps, KvDtype::F16, seed);
        let parameters =
            IndexParameters { top_k, sink, window, sketch, slash, expansion, ..Default::default() };
        let policy = if exact { Policy::Exact } else { Policy::Lfps };
        let mut index = index(&text, prompt, Kernels::detect(), policy, parameters, seeded);
        run(&text, prompt, &mut index, |index, tokens, _, selection| {
            assert_well_formed(index, tokens, selection);
        });
    }

    #[test]
    fn a_budget_of_the_whole_context_selects_every_block(
        prompt in 1_usize..300,
        sketch in any_sketch(),
        exact in any::<bool>(),
    ) {
        let text = Text::new(prompt + 8, KvDtype::Bf16, 1);
        let parameters = IndexParameters { top_k: prompt + 8, sketch, ..Default::default() };
        let policy = if exact { Policy::Exact } else { Policy::Lfps };
        let mut index = index(&text, prompt, Kernels::detect(), policy, parameters, true);
        run(&text, prompt, &mut index, |_, tokens, _, selection| {
            let all: Vec<u32> = (0..tokens.div_ceil(16) as u32).collect();
            assert_eq!(selection.blocks, all);
        });
    }
}

/// Mean recall and mass that audits find, and mean bytes read over those of all keys.
fn quality(parameters: IndexParameters, seeded: bool, kernels: Kernels) -> (f32, f32, f32) {
    let text = Text::new(2200, KvDtype::F16, 5);
    let mut index = index(&text, 2000, kernels, Policy::Lfps, parameters, seeded);
    let (mut recall, mut mass, mut bytes) = (0.0, 0.0, 0.0);
    run(&text, 2000, &mut index, |index, tokens, queries, selection| {
        let view = text.cache.head(0, 0, tokens);
        let audit = index.audit(0, view, queries, selection);
        recall += audit.recall / 200.0;
        mass += audit.mass / 200.0;
        bytes += selection.effort.bytes() as f32 / (tokens * synthetic::DIM * 2) as f32 / 200.0;
    });
    (recall, mass, bytes)
}

#[test]
fn lfps_finds_nearly_all_mass_and_reads_a_part_of_the_keys() {
    let parameters = IndexParameters { top_k: 128, code_bytes: 4, ..Default::default() };
    let (recall, mass, bytes) = quality(parameters, true, Kernels::detect());
    assert!(recall > 0.8 && mass > 0.995 && bytes < 0.3, "{recall} {mass} {bytes}");
}

/// What the last step selected was kept, and left no room for what a query turned to.
#[test]
fn a_small_top_k_follows_the_query() {
    for top_k in [4, 16, 32] {
        let parameters = IndexParameters { top_k, code_bytes: 8, ..Default::default() };
        let (recall, mass, _) = quality(parameters, true, Kernels::detect());
        assert!(recall > 0.8 && mass > 0.97, "{top_k}: {recall} {mass}");
    }
}

#[test]
fn without_a_seed_the_sketch_is_calibrated_on_the_way() {
    let parameters = IndexParameters { top_k: 128, code_bytes: 4, ..Default::default() };
    let (recall, mass, bytes) = quality(parameters, false, Kernels::detect());
    assert!(recall > 0.8 && mass > 0.995 && bytes < 0.45, "{recall} {mass} {bytes}");
}

#[test]
fn every_instruction_set_selects_as_well() {
    let parameters = IndexParameters { top_k: 128, code_bytes: 4, ..Default::default() };
    let (_, expected, _) = quality(parameters.clone(), true, Kernels::of(Isa::Scalar).unwrap());
    for kernels in Isa::available().into_iter().filter_map(Kernels::of) {
        let (_, mass, _) = quality(parameters.clone(), true, kernels);
        assert!((mass - expected).abs() < 0.002, "{kernels:?}: {mass}, scalar: {expected}");
    }
}

#[test]
fn the_exact_policy_passes_its_own_audit() {
    let text = Text::new(900, KvDtype::Bf16, 9);
    let parameters = IndexParameters { top_k: 64, ..Default::default() };
    let mut index = index(&text, 880, Kernels::detect(), Policy::Exact, parameters, true);
    run(&text, 880, &mut index, |index, tokens, queries, selection| {
        let audit = index.audit(0, text.cache.head(0, 0, tokens), queries, selection);
        assert_eq!(audit.recall, 1.0);
        assert!((audit.mass - 1.0).abs() < 1e-6);
    });
}

#[test]
fn dense_layers_attend_to_every_block_up_to_a_length_and_to_more_than_others_beyond() {
    let text = Text::new(500, KvDtype::F16, 2);
    let queries = &text.queries(1, 1)[0];
    let geometry = *text.cache.geometry();
    let parameters = IndexParameters { top_k: 16, dense_layers: 1, ..Default::default() };
    let mut out = Selection::default();

    let mut index = Index::new(geometry, SCALE, Policy::Lfps, parameters.clone(), 500).unwrap();
    index.select(0, 0, text.cache.head(0, 0, 500), queries, &mut out);
    assert_eq!(out.blocks.len(), 32);
    assert!(index.is_dense(0) && !index.is_dense(1));

    let parameters = IndexParameters { dense_layer_tokens: 499, ..parameters };
    let mut index = Index::new(geometry, SCALE, Policy::Lfps, parameters, 500).unwrap();
    assert!(!index.is_dense(0));
    index.select(0, 0, text.cache.head(0, 0, 499), queries, &mut out);
    assert_eq!(out.blocks.len(), 32);
    index.select(0, 0, text.cache.head(0, 0, 500), queries, &mut out);
    assert_eq!(out.tokens.len(), 16 * WIDENING);
}

/// Mean recall and mass of steps whose candidates are proposed by the queries of `late` steps before, or not ahead of time.
fn rehearsed_quality(late: Option<usize>) -> (f32, f32) {
    const PROMPT: usize = 1500;
    let text = Text::new(PROMPT + 60, KvDtype::F16, 8);
    let timing = if late.is_some() { Timing::Rehearsed } else { Timing::Now };
    let parameters = IndexParameters { top_k: 100, timing, ..IndexParameters::default() };
    let mut index = index(&text, PROMPT, Kernels::detect(), Policy::Lfps, parameters, true);
    let all = text.queries(60, 4);
    let (mut recall, mut mass) = (0.0, 0.0);
    let mut out = Selection::default();
    for (step, queries) in all.iter().enumerate() {
        let tokens = PROMPT + step;
        if let Some(late) = late {
            // The token's own key is not read: a view that ends before it does not have it.
            let before = text.cache.head(0, 0, tokens);
            assert!(index.rehearse(0, 0, before, &all[step.saturating_sub(late)]));
        }
        let view = text.cache.head(0, 0, tokens + 1);
        index.append(0, 0, view, tokens..tokens + 1);
        index.select(0, 0, view, queries, &mut out);
        assert_well_formed(&index, tokens + 1, &out);
        let audit = index.audit(0, view, queries, &out);
        (recall, mass) = (recall + audit.recall / 60.0, mass + audit.mass / 60.0);
    }
    (recall, mass)
}

#[test]
fn expected_queries_propose_and_true_ones_choose() {
    let (recall, mass) = rehearsed_quality(None);
    let (as_expected, mass_as_expected) = rehearsed_quality(Some(0));
    assert!((recall - as_expected).abs() < 0.01, "{recall} {as_expected}");
    assert!((mass - mass_as_expected).abs() < 1e-3, "{mass} {mass_as_expected}");
    // Queries that turn up a step late are like the true ones, or passed over.
    let (late, mass_of_late) = rehearsed_quality(Some(1));
    assert!(late > 0.8 * recall && mass_of_late > 0.98 * mass, "{late} {mass_of_late}");
}

#[test]
fn nothing_is_rehearsed_where_nothing_is_chosen_or_known() {
    let text = Text::new(1500, KvDtype::F16, 8);
    let queries = text.queries(1, 4).concat();
    let view = text.cache.head(0, 0, 1500);
    let few =
        IndexParameters { top_k: 100, timing: Timing::Rehearsed, ..IndexParameters::default() };
    let now = IndexParameters { timing: Timing::Now, ..few.clone() };
    let all = IndexParameters { top_k: 1500, ..few.clone() };
    let cases = [
        (Policy::Exact, few.clone(), true),
        (Policy::Lfps, now, true),
        (Policy::Lfps, all, true),
        // No codes have been learned.
        (Policy::Lfps, few, false),
    ];
    for (policy, parameters, seeded) in cases {
        let mut index = index(&text, 1500, Kernels::detect(), policy, parameters, seeded);
        assert!(!index.rehearse(0, 0, view, &queries));
    }
}
