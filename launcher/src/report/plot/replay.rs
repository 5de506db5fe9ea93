//! The figures of replays: quality against cost.

use hindsight_cpu_indexer::replay::ReplayReport;
use plotters::prelude::*;

use super::labels::Labels;
use super::{Area, COLOURS, Chart, FONT, MARK_RADIUS, PlotError, TEXT_SIZE, TITLE_SIZE};

/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 640);
/// The most nines of mass that are told apart.
const MOST_NINES: f64 = 5.0;

/// Draws an SVG with one mark for each replay: across, the bytes read as a share of an exact scan; upwards, the mean mass of
/// the selection on a scale of nines, with a whisker down to its first percentile. A line joins what differs in top-k
/// alone.
///
/// # Errors
/// The drawing fails.
pub fn svg(reports: &[ReplayReport]) -> Result<String, PlotError> {
    super::svg(SIZE, |area| draw(reports, area))
}

fn draw(reports: &[ReplayReport], area: &Area<'_>) -> Result<(), PlotError> {
    let costs = Costs::new(reports);
    let mut chart = ChartBuilder::on(area)
        .caption(title(reports), (FONT, TITLE_SIZE))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(costs.least..costs.most, 0.0..MOST_NINES)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("bytes read, as a share of an exact scan of the keys")
        .y_desc("mass of the selection over that of the exact top-k (whisker: 1st percentile)")
        .x_label_formatter(&|decades| share_label(*decades))
        .y_label_formatter(&|nines| mass_label(*nines))
        .label_style((FONT, TEXT_SIZE))
        .axis_desc_style((FONT, TEXT_SIZE + 1))
        .draw()?;
    for (curve, colour) in curves(reports) {
        let line = curve.iter().map(|report| (costs.of(report), nines(report.mass_mean)));
        chart.draw_series([PathElement::new(line.collect::<Vec<_>>(), colour.mix(0.4))])?;
        for report in curve {
            draw_mark(&mut chart, report, costs.of(report), colour)?;
        }
    }
    let place =
        |report: &ReplayReport| chart.backend_coord(&(costs.of(report), nines(report.mass_mean)));
    let mut labels = Labels::new(chart.plotting_area().get_pixel_range());
    reports.iter().for_each(|report| labels.add_mark(place(report)));
    for (curve, colour) in curves(reports) {
        for report in curve {
            let text = label(reports, report);
            let style = (FONT, TEXT_SIZE).into_font().color(&colour);
            let spot = labels.place(place(report), &text);
            if let Some(leader) = spot.leader {
                area.draw(&PathElement::new(leader.to_vec(), colour.mix(0.4)))?;
            }
            area.draw(&Text::new(text, spot.at, style))?;
        }
    }
    Ok(())
}

/// A mark, and a whisker down to the first percentile.
fn draw_mark(
    chart: &mut Chart<'_, '_>,
    report: &ReplayReport,
    cost: f64,
    colour: RGBColor,
) -> Result<(), PlotError> {
    const CAP: i32 = 4;
    let (mean, p1) = (nines(report.mass_mean), nines(report.mass_p1));
    chart.draw_series([PathElement::new([(cost, p1), (cost, mean)], colour)])?;
    let cap = EmptyElement::at((cost, p1)) + PathElement::new([(-CAP, 0), (CAP, 0)], colour);
    chart.draw_series([cap])?;
    chart.draw_series([Circle::new((cost, mean), MARK_RADIUS, colour.filled())])?;
    Ok(())
}

/// The replays of one trace by one policy, by cost, each policy in its colour.
fn curves(reports: &[ReplayReport]) -> Vec<(Vec<&ReplayReport>, RGBColor)> {
    let mut policies: Vec<&str> = Vec::new();
    let mut curves: Vec<(Vec<&ReplayReport>, RGBColor)> = Vec::new();
    for report in reports {
        let known = policies.iter().position(|policy| *policy == report.policy);
        let colour = COLOURS[known.unwrap_or(policies.len()) % COLOURS.len()];
        if known.is_none() {
            policies.push(report.policy);
        }
        let same = |of: &ReplayReport| (&of.trace, of.policy) == (&report.trace, report.policy);
        match curves.iter_mut().find(|(curve, _)| curve.iter().any(|of| same(of))) {
            Some((curve, _)) => curve.push(report),
            None => curves.push((vec![report], colour)),
        }
    }
    for (curve, _) in &mut curves {
        curve.sort_by(|a, b| a.bytes_share.total_cmp(&b.bytes_share));
    }
    curves
}

/// How many nines a mass has: 1 for 0.9, 2 for 0.99.
fn nines(mass: f64) -> f64 {
    (-(1.0 - mass).max(0.0).log10()).clamp(0.0, MOST_NINES)
}

fn mass_label(nines: f64) -> String {
    let most = if nines >= MOST_NINES { "≥ " } else { "" };
    // As many digits as it takes to show what the mass lacks.
    let digits = nines.ceil().max(0.0) as usize;
    format!("{most}{:.digits$}", 1.0 - 10_f64.powf(-nines))
}

/// The axis of costs: decades, as logarithms of shares.
struct Costs {
    least: f64,
    most: f64,
}

impl Costs {
    /// Holds all that read anything, with a margin; a wider one if something reads nothing.
    fn new(reports: &[ReplayReport]) -> Self {
        let shares = || reports.iter().map(|report| report.bytes_share);
        let least = shares().filter(|share| *share > 0.0).fold(0.5, f64::min);
        let most = shares().fold(1.0, f64::max);
        let margin = if shares().any(|share| share <= 0.0) { 0.4 } else { 0.1 };
        Self { least: least.log10() - margin, most: most.log10() + 0.1 }
    }

    /// Where a replay stands; what reads nothing at the left end.
    fn of(&self, report: &ReplayReport) -> f64 {
        report.bytes_share.log10().max(self.least)
    }
}

/// A share by its logarithm, in two digits.
fn share_label(decades: f64) -> String {
    // Ticks are off whole decades by rounding errors.
    let digits = (-decades - 1e-6).ceil().max(0.0) as usize + 1;
    format!("{:.digits$}", 10_f64.powf(decades))
}

fn all_same<T: PartialEq>(mut of_each: impl Iterator<Item = T>) -> bool {
    let first = of_each.next();
    of_each.all(|other| Some(other) == first)
}

fn title(reports: &[ReplayReport]) -> String {
    let Some(first) = reports.first() else { return "no replays".to_owned() };
    let mut title = "Quality against cost of selecting keys".to_owned();
    if all_same(reports.iter().map(|report| &report.trace)) {
        title = format!("{title}: {}", first.trace);
    }
    if all_same(reports.iter().map(|report| report.top_k)) {
        title = format!("{title}, top-k {}", first.top_k);
    }
    title
}

/// What tells a replay from the others: its policy, and trace and top-k where there are several.
fn label(reports: &[ReplayReport], report: &ReplayReport) -> String {
    let mut label = report.policy.to_owned();
    if !all_same(reports.iter().map(|report| &report.trace)) {
        label = format!("{label}, {}", report.trace);
    }
    if !all_same(reports.iter().map(|report| report.top_k)) {
        label = format!("{label}, {}", report.top_k);
    }
    if report.bytes_share == 0.0 {
        label.push_str(" (reads nothing)");
    }
    label
}

#[cfg(test)]
mod tests {
    use hindsight_cpu_indexer::parameters::IndexParameters;

    use super::*;

    fn report(policy: &'static str, top_k: usize, bytes_share: f64, mass: f64) -> ReplayReport {
        ReplayReport {
            trace: "a trace".to_owned(),
            policy,
            top_k,
            parameters: IndexParameters::default(),
            steps: 8,
            candidates_mean: 0.0,
            bytes_share,
            select_us_mean: 0.0,
            exact_us_mean: 0.0,
            speedup: 0.0,
            seed_us_mean: 0.0,
            recall_mean: 0.0,
            recall_p5: 0.0,
            mass_mean: mass,
            mass_p1: mass - 0.05,
            mass_min: 0.0,
            block_mass_mean: 0.0,
            block_mass_p1: 0.0,
            block_mass_min: 0.0,
            blocks_mean: 0.0,
            output_error_mean: 0.0,
            output_error_p99: 0.0,
            output_error_max: 0.0,
            exact_output_error_mean: 0.0,
            repair_rate: 0.0,
            state_share: 0.0,
            caches: Vec::new(),
        }
    }

    #[test]
    fn every_policy_is_named_and_every_replay_has_a_mark() {
        let reports = [
            report("exact", 64, 1.0, 1.0),
            report("lfps", 64, 0.1, 0.99),
            report("lfps", 256, 0.2, 0.999),
            report("page-minmax", 64, 0.13, 1.01),
            report("sliding-window", 64, 0.0, 0.5),
        ];
        let svg = svg(&reports).unwrap();
        for text in [
            "exact, 64",
            "lfps, 64",
            "lfps, 256",
            "page-minmax, 64",
            "sliding-window, 64 (reads nothing)",
            "a trace",
            "0.999",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), reports.len());
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_plot_of_nothing_is_no_error() {
        assert!(svg(&[]).unwrap().contains("no replays"));
    }

    #[test]
    fn masses_that_differ_in_nines_are_told_apart() {
        assert!((nines(0.99) - 2.0).abs() < 1e-9 && (nines(0.999) - 3.0).abs() < 1e-9);
        assert_eq!((nines(0.0), nines(1.0), nines(1.2)), (0.0, 5.0, 5.0));
        let labels = [0.0, 1.0, 2.0, 3.0, 5.0].map(mass_label);
        assert_eq!(labels, ["0", "0.9", "0.99", "0.999", "≥ 0.99999"]);
    }

    #[test]
    fn shares_are_labelled_in_two_digits() {
        let labels = [-1e-9, -0.2, -1.000_000_001, -1.5].map(share_label);
        assert_eq!(labels, ["1.0", "0.63", "0.10", "0.032"]);
    }

    #[test]
    fn what_differs_in_top_k_alone_is_one_curve() {
        let reports = [
            report("lfps", 256, 0.2, 0.999),
            report("exact", 64, 1.0, 1.0),
            report("lfps", 64, 0.1, 0.99),
        ];
        let curves = curves(&reports);
        let lfps: Vec<usize> = curves[0].0.iter().map(|report| report.top_k).collect();
        assert_eq!((curves.len(), lfps), (2, vec![64, 256]));
        assert_ne!(curves[0].1, curves[1].1);
    }
}
