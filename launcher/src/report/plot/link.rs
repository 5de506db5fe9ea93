//! A link's bandwidth by the size of transfers.

use bytesize::ByteSize;
use hindsight_gpu_worker::device::transfer::Direction;
use plotters::prelude::*;

use super::{COLOURS, FONT, PlotError, TEXT_SIZE, TITLE_SIZE, draw_curve, draw_legend};
use crate::link::LinkReport;
use crate::report::link::ways;

const SIZE: (u32, u32) = (900, 600);

/// Draws bandwidth to the device against the size of transfers, the latter on a scale of doublings.
///
/// # Errors
/// The drawing fails.
pub fn svg(report: &LinkReport) -> Result<String, PlotError> {
    let curves: Vec<(String, Vec<(f64, f64)>)> = ways(&report.rows)
        .into_iter()
        .map(|(memory, transfers)| {
            let rows = report.rows.iter().filter(|row| {
                let transfer = row.transfer;
                (transfer.memory, transfer.transfers) == (memory, transfers)
                    && transfer.direction == Direction::ToDevice
            });
            let points = rows.map(|row| ((row.transfer.bytes as f64).log2(), row.gb_per_s));
            (format!("{memory}, {transfers}"), points.collect())
        })
        .collect();
    let points = || curves.iter().flat_map(|(_, points)| points);
    let (least, most) = points()
        .map(|point| point.0)
        .fold((f64::MAX, f64::MIN), |(least, most), x| (least.min(x), most.max(x)));
    let highest = points().map(|point| point.1).fold(1e-9, f64::max) * 1.1;
    super::svg(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title(report), (FONT, TITLE_SIZE))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(least - 0.25..most + 0.25, 0.0..highest)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("bytes of a transfer to the device")
            .y_desc("GB/s")
            .x_label_formatter(&|doublings| size_label(*doublings))
            .label_style((FONT, TEXT_SIZE))
            .axis_desc_style((FONT, TEXT_SIZE + 1))
            .draw()?;
        for ((name, points), &colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            draw_curve(&mut chart, name, points, colour)?;
        }
        draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}

fn title(report: &LinkReport) -> String {
    format!("Bandwidth: {}, blocks of {} bytes", report.title(), report.block_bytes)
}

/// A number of bytes by its logarithm.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
fn size_label(doublings: f64) -> String {
    ByteSize(doublings.exp2().round() as u64).to_string()
}
