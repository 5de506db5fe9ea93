//! The plots of a profile's page, as SVG.

use plotters::prelude::*;

use crate::report::plot::{COLOURS, Chart, PlotError, draw_legend, draw_line, svg};

/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 320);

/// A line with its name.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// Something that lasted: its row, when it began and ended, and its colour.
pub(super) struct Bar {
    pub(super) row: usize,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) colour: RGBColor,
}

/// Lines over a common axis, upwards from 0.
pub(super) fn lines(across: &str, upwards: &str, lines: &[Line]) -> Result<String, PlotError> {
    let highest = points(lines).map(|point| point.1).fold(1e-9, f64::max) * 1.05;
    draw(across, upwards, lines, 0.0..highest, &|y| plain(y, highest))
}

/// Lines over a common axis, upwards on a scale of doublings; what is not above 0 is left out.
pub(super) fn doublings(across: &str, upwards: &str, lines: &[Line]) -> Result<String, PlotError> {
    let logarithms = |line: &Line| Line {
        name: line.name,
        points: line
            .points
            .iter()
            .filter(|point| point.1 > 0.0)
            .map(|&(x, y)| (x, y.log2()))
            .collect(),
    };
    let lines: Vec<Line> = lines.iter().map(logarithms).collect();
    let (least, most) = ends(points(&lines).map(|point| point.1));
    draw(across, upwards, &lines, least - 0.5..most + 0.5, &|y| format!("{:.0}", y.exp2()))
}

fn points(lines: &[Line]) -> impl Iterator<Item = &(f64, f64)> {
    lines.iter().flat_map(|line| &line.points)
}

fn draw(
    across: &str,
    upwards: &str,
    lines: &[Line],
    heights: std::ops::Range<f64>,
    label: &dyn Fn(f64) -> String,
) -> Result<String, PlotError> {
    svg(SIZE, |area| {
        let (least, most) = ends(points(lines).map(|point| point.0));
        let mut chart: Chart<'_, '_> = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(72)
            .build_cartesian_2d(least..most, heights)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|x| plain(*x, most - least))
            .y_label_formatter(&|y| label(*y))
            .x_desc(across)
            .y_desc(upwards)
            .draw()?;
        for (line, &colour) in lines.iter().zip(&COLOURS) {
            draw_line(&mut chart, line.name, &line.points, colour)?;
        }
        draw_legend(&mut chart, SeriesLabelPosition::MiddleRight)
    })
}

/// Values of rows and columns as shades; `across` and `upwards` name columns and rows.
pub(super) fn heat_map(
    across: &str,
    upwards: &str,
    columns: std::ops::Range<f64>,
    rows: &[(u32, Vec<f64>)],
) -> Result<String, PlotError> {
    svg((SIZE.0, SIZE.1 + 120), |area| {
        let most = rows.iter().flat_map(|row| &row.1).copied().fold(1e-9, f64::max);
        let (low, high) = ends(rows.iter().map(|row| f64::from(row.0)));
        let width =
            (columns.end - columns.start) / rows.first().map_or(1, |row| row.1.len().max(1)) as f64;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(72)
            .build_cartesian_2d(columns.clone(), low - 0.5..high + 0.5)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_label_formatter(&|x| plain(*x, columns.end - columns.start))
            .y_label_formatter(&|y| plain(*y, high - low))
            .x_desc(across)
            .y_desc(upwards)
            .draw()?;
        chart.draw_series(rows.iter().flat_map(|(row, values)| {
            values.iter().enumerate().map(move |(column, value)| {
                let from = (columns.start + column as f64 * width, f64::from(*row) - 0.5);
                let to = (from.0 + width, f64::from(*row) + 0.5);
                Rectangle::new([from, to], shade(value / most).filled())
            })
        }))?;
        Ok(())
    })
}

/// What lasted how long, in rows with names.
pub(super) fn timeline(across: &str, rows: &[&str], bars: &[Bar]) -> Result<String, PlotError> {
    svg((SIZE.0, 140), |area| {
        let (from, to) = ends(bars.iter().flat_map(|bar| [bar.from, bar.to]));
        let count = rows.len();
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(96)
            .build_cartesian_2d(from..to, -0.5..count as f64 - 0.5)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|x| plain(*x, to - from))
            .y_labels(count)
            .y_label_formatter(&|at| row_name(rows, *at))
            .x_desc(across)
            .draw()?;
        chart.draw_series(bars.iter().map(|bar| {
            let middle = (count - 1 - bar.row) as f64;
            let corners = [(bar.from, middle - 0.35), (bar.to, middle + 0.35)];
            Rectangle::new(corners, bar.colour.filled())
        }))?;
        Ok(())
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a row's number")]
fn row_name(rows: &[&str], at: f64) -> String {
    if (at - at.round()).abs() > 0.01 || at < -0.01 {
        return String::new();
    }
    let from_below = at.round() as usize;
    rows.iter().rev().nth(from_below).map_or_else(String::new, |name| (*name).to_owned())
}

/// A number on an axis of a given length.
fn plain(number: f64, length: f64) -> String {
    let decimals = if length < 3.0 { 1 } else { 0 };
    format!("{number:.decimals$}")
}

/// The smallest and the largest, a little apart.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    if least < most {
        (least, most)
    } else if least.is_finite() {
        (least, least + 1.0)
    } else {
        (0.0, 1.0)
    }
}

/// From white to dark blue.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares become shades")]
fn shade(share: f64) -> RGBColor {
    let mix = |light: f64, dark: f64| (light + (dark - light) * share.clamp(0.0, 1.0)) as u8;
    RGBColor(mix(255.0, 8.0), mix(255.0, 48.0), mix(255.0, 107.0))
}
