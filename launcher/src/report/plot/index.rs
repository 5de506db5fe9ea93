//! The time of an index's step by context.

use hindsight_cpu_indexer::bench::IndexBenchRow;
use plotters::prelude::*;

use super::{COLOURS, FONT, PlotError, TEXT_SIZE, TITLE_SIZE, draw_curve, draw_legend};

const SIZE: (u32, u32) = (900, 600);

/// Draws the time of a step for one KV head against the context, both on scales of doublings: what is proportional to the
/// context rises by one line from one to the next.
///
/// # Errors
/// The drawing fails.
pub fn svg(rows: &[IndexBenchRow]) -> Result<String, PlotError> {
    let curve = |time: fn(&IndexBenchRow) -> f64| -> Vec<(f64, f64)> {
        rows.iter().map(|row| ((row.context as f64).log2(), time(row).log2())).collect()
    };
    let curves = [
        ("exact", curve(|row| row.exact_us), COLOURS[0]),
        ("lfps", curve(|row| row.lfps_us), COLOURS[1]),
        ("history alone", curve(|row| row.history_us), COLOURS[2]),
    ];
    let points = || curves.iter().flat_map(|(_, points, _)| points);
    super::svg(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title(rows), (FONT, TITLE_SIZE))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(
                bounds(points().map(|(x, _)| *x)),
                bounds(points().map(|(_, y)| *y)),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("tokens of context")
            .y_desc("microseconds of a step, for one KV head")
            .x_label_formatter(&|doublings| tokens_label(*doublings))
            .y_label_formatter(&|doublings| format!("{:.0}", doublings.exp2()))
            .label_style((FONT, TEXT_SIZE))
            .axis_desc_style((FONT, TEXT_SIZE + 1))
            .draw()?;
        for (name, points, colour) in &curves {
            draw_curve(&mut chart, name, points, *colour)?;
        }
        draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
    })
}

fn title(rows: &[IndexBenchRow]) -> String {
    let shape = rows.first().map(|row| {
        let IndexBenchRow { kv_heads, group, head_dim, top_k, .. } = row;
        format!(": {kv_heads} KV heads × group {group}, {head_dim} elements, top-k {top_k}")
    });
    format!("Steps of the index{}", shape.unwrap_or_default())
}

/// From the least to the most, with a margin.
fn bounds(numbers: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    const MARGIN: f64 = 0.25;
    let (least, most) = numbers
        .filter(|number| number.is_finite())
        .fold((f64::MAX, f64::MIN), |(least, most), number| (least.min(number), most.max(number)));
    if least <= most { least - MARGIN..most + MARGIN } else { 0.0..1.0 }
}

/// A number of tokens by its logarithm: 4K for 12.
fn tokens_label(doublings: f64) -> String {
    const K: f64 = 1024.0;
    let tokens = doublings.exp2().round();
    if tokens >= K { format!("{:.0}K", tokens / K) } else { format!("{tokens:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::bench::tests::row;

    #[test]
    fn every_context_has_a_mark_on_every_curve() {
        let svg = svg(&[row(4096, 100.0), row(8192, 200.0), row(524_288, 12_800.0)]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 9);
        for text in ["exact", "lfps", "history alone", "4K", "512K", "top-k 2048"] {
            assert!(svg.contains(text), "{text} is not in\n{svg}");
        }
    }

    #[test]
    fn one_context_and_none_are_no_errors() {
        assert_eq!(svg(&[row(4096, 100.0)]).unwrap().matches("<circle").count(), 3);
        assert!(svg(&[]).unwrap().contains("Steps of the index"));
    }
}
