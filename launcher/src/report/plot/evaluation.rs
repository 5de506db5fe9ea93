//! The scores of an evaluation task by task, and what they change against the reference.

use hindsight_protocol::records::AttentionPolicy;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, Chart, FONT, MARK_RADIUS, PlotError, TEXT_SIZE, colour_of};
use crate::eval::summary::{Comparison, Row};

const WIDTH: u32 = 900;
/// Pixels for the names of tasks, and for everything above and below the plot.
const NAMES: u32 = 160;
const FRAME: u32 = 72;
/// Pixels of a lane.
const LANE: f64 = 12.0;
/// The smallest reach of an axis of changes, in points.
const LEAST_REACH: f64 = 5.0;

/// Draws a bar from 0 to 100 for each task and attention.
///
/// # Errors
/// The drawing fails.
pub fn scores(rows: &[&Row]) -> Result<String, PlotError> {
    let lanes = Lanes::new(rows.iter().map(|row| (row.task.as_str(), row.attention)));
    lanes.svg((0.0, 100.0), |chart| {
        for (row, y) in rows.iter().zip(&lanes.middles) {
            let bar = [(0.0, y - 0.45), (row.score, y + 0.45)];
            chart.draw_series([Rectangle::new(bar, colour_of(row.attention).filled())])?;
        }
        Ok(())
    })
}

/// Draws a point with its interval for each task and attention, in points of score.
///
/// # Errors
/// The drawing fails.
pub fn changes(changes: &[&Comparison]) -> Result<String, PlotError> {
    let lanes = Lanes::new(changes.iter().map(|change| (change.task.as_str(), change.attention)));
    let bounds = changes.iter().flat_map(|change| change.paired.interval);
    let reach = bounds.fold(LEAST_REACH, |reach, bound| reach.max(bound.abs()));
    lanes.svg((-reach, reach), |chart| {
        let zero = PathElement::new([(0.0, 0.0), (0.0, lanes.height)], BLACK.mix(0.5));
        chart.draw_series([zero])?;
        for (change, &y) in changes.iter().zip(&lanes.middles) {
            let colour = colour_of(change.attention);
            let [low, high] = change.paired.interval;
            let line = PathElement::new([(low, y), (high, y)], colour.stroke_width(2));
            chart.draw_series([line])?;
            let at = (change.paired.difference, y);
            chart.draw_series([Circle::new(at, MARK_RADIUS, colour.filled())])?;
        }
        Ok(())
    })
}

/// Lanes from top to bottom, one for each task and attention, with a gap between tasks.
struct Lanes<'n> {
    /// The middle of each lane.
    middles: Vec<f64>,
    /// Each task's name, and the middle of its first lane.
    names: Vec<(&'n str, f64)>,
    attentions: Vec<AttentionPolicy>,
    height: f64,
}

impl<'n> Lanes<'n> {
    fn new(of: impl Iterator<Item = (&'n str, AttentionPolicy)>) -> Self {
        let mut lanes =
            Self { middles: Vec::new(), names: Vec::new(), attentions: Vec::new(), height: 0.5 };
        for (task, attention) in of {
            if lanes.names.last().is_none_or(|(name, _)| *name != task) {
                lanes.height += 0.5;
                lanes.names.push((task, lanes.height + 0.5));
            }
            if !lanes.attentions.contains(&attention) {
                lanes.attentions.push(attention);
            }
            lanes.middles.push(lanes.height + 0.5);
            lanes.height += 1.0;
        }
        lanes
    }

    /// A picture of the lanes over an axis from `least` to `most`, with what `draw` puts on them.
    fn svg(
        &self,
        (least, most): (f64, f64),
        draw: impl FnOnce(&mut Chart<'_, '_>) -> Result<(), PlotError>,
    ) -> Result<String, PlotError> {
        // Lanes are few.
        let height = (self.height * LANE) as u32 + FRAME;
        super::svg((WIDTH, height), |area| {
            let mut chart = ChartBuilder::on(area)
                .margin_top(32)
                .margin_right(24)
                .x_label_area_size(32)
                .y_label_area_size(NAMES)
                .build_cartesian_2d(least..most, self.height..0.0)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .y_labels(0)
                .light_line_style(TRANSPARENT)
                .x_label_formatter(&|x| format!("{x:.0}"))
                .label_style((FONT, TEXT_SIZE))
                .draw()?;
            draw(&mut chart)?;
            self.draw_names(area, &chart)
        })
    }

    /// Names of tasks beside their lanes, and of attentions above all, in their colours.
    fn draw_names(&self, area: &Area<'_>, chart: &Chart<'_, '_>) -> Result<(), PlotError> {
        let right = Pos::new(HPos::Right, VPos::Center);
        let style = (FONT, TEXT_SIZE).into_font().color(&BLACK).pos(right);
        let (across, _) = chart.plotting_area().get_pixel_range();
        for &(name, y) in &self.names {
            let (_, y) = chart.backend_coord(&(0.0, y));
            area.draw(&Text::new(name, (across.start - 8, y), style.clone()))?;
        }
        let mut x = across.start;
        for &attention in &self.attentions {
            let style = (FONT, TEXT_SIZE).into_font().color(&colour_of(attention));
            area.draw(&Text::new(attention.to_string(), (x, 8), style))?;
            x += 64;
        }
        Ok(())
    }
}
