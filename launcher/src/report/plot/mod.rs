//! Figures as plots, in SVG.

pub mod evaluation;
pub mod generation;
pub mod index;
mod labels;
pub mod link;
pub mod replay;

use std::error::Error;

use hindsight_protocol::records::AttentionPolicy;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

pub(crate) const FONT: &str = "sans-serif";
pub(crate) const TEXT_SIZE: i32 = 14;
const TITLE_SIZE: i32 = 18;
const MARK_RADIUS: i32 = 4;

/// Colours that people with any colour vision can tell apart, and that keep apart in print (Okabe and Ito).
pub(crate) const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// Why something cannot be drawn.
pub type PlotError = Box<dyn Error + Send + Sync>;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Chart<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A picture of `size` pixels, across and down, with what `draw` puts on white ground.
pub(crate) fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    let mut out = String::new();
    let area = SVGBackend::with_string(&mut out, size).into_drawing_area();
    area.fill(&WHITE)?;
    draw(&area)?;
    area.present()?;
    drop(area);
    Ok(out)
}

/// The colour of an attention, the same in all plots.
const fn colour_of(attention: AttentionPolicy) -> RGBColor {
    match attention {
        AttentionPolicy::Full => RGBColor(128, 128, 128),
        AttentionPolicy::Exact => COLOURS[0],
        AttentionPolicy::Lfps => COLOURS[1],
    }
}

/// Draws a line through `points`, named `name` in the legend.
pub(crate) fn draw_line<'a, 'b: 'a>(
    chart: &mut Chart<'a, 'b>,
    name: &str,
    points: &[(f64, f64)],
    colour: RGBColor,
) -> Result<(), PlotError> {
    chart
        .draw_series([PathElement::new(points.to_vec(), colour.stroke_width(2))])?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    Ok(())
}

/// The same with a mark on each point.
fn draw_curve<'a, 'b: 'a>(
    chart: &mut Chart<'a, 'b>,
    name: &str,
    points: &[(f64, f64)],
    colour: RGBColor,
) -> Result<(), PlotError> {
    draw_line(chart, name, points, colour)?;
    chart.draw_series(points.iter().map(|&at| Circle::new(at, MARK_RADIUS, colour.filled())))?;
    Ok(())
}

/// Draws the names of the curves.
pub(crate) fn draw_legend<'a, 'b: 'a>(
    chart: &mut Chart<'a, 'b>,
    position: SeriesLabelPosition,
) -> Result<(), PlotError> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, TEXT_SIZE))
        .draw()?;
    Ok(())
}
