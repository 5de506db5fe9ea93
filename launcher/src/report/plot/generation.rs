//! How far attentions are apart as decoding goes on.

use plotters::prelude::*;

use super::{Chart, FONT, PlotError, TEXT_SIZE, colour_of, draw_curve, draw_legend};
use crate::eval::generation::{GenerationReport, Stretch};

const SIZE: (u32, u32) = (900, 320);

/// Draws, for each stretch of the text and each attention, the mean absolute difference of the log probability of the next
/// token.
///
/// # Errors
/// The drawing fails.
pub fn differences(report: &GenerationReport) -> Result<String, PlotError> {
    draw(report, "mean difference of log probability", |stretch| stretch.mean_difference, 0.0)
}

/// Draws, for each stretch of the text and each attention, the share of places with the same likeliest token, in percent.
///
/// # Errors
/// The drawing fails.
pub fn agreement(report: &GenerationReport) -> Result<String, PlotError> {
    draw(report, "same likeliest token, %", |stretch| stretch.same_likeliest_percent, 100.0)
}

/// Curves over the text; their axis begins or ends at `bound`.
fn draw(
    report: &GenerationReport,
    what: &str,
    figure: impl Fn(&Stretch) -> f64,
    bound: f64,
) -> Result<String, PlotError> {
    let stretches = || report.against.iter().flat_map(|against| &against.stretches);
    let most_tokens = stretches().map(|stretch| stretch.end).max().unwrap_or(1);
    let figures = || stretches().map(&figure).chain([bound]);
    let (least, most) = (figures().fold(f64::MAX, f64::min), figures().fold(f64::MIN, f64::max));
    let margin = ((most - least) * 0.1).max(1e-3);
    let least = if least < bound { least - margin } else { least };
    let most = if most > bound { most + margin } else { most.max(least + margin) };
    super::svg(SIZE, |area| {
        let mut chart: Chart<'_, '_> = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..most_tokens as f64, least..most)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("tokens decoded")
            .y_desc(what)
            .x_label_formatter(&|tokens| format!("{tokens:.0}"))
            .label_style((FONT, TEXT_SIZE))
            .draw()?;
        for against in &report.against {
            let middle = |stretch: &Stretch| (stretch.start + stretch.end) as f64 / 2.0;
            let points: Vec<_> = against
                .stretches
                .iter()
                .map(|stretch| (middle(stretch), figure(stretch)))
                .collect();
            let name = against.attention.to_string();
            draw_curve(&mut chart, &name, &points, colour_of(against.attention))?;
        }
        draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}
