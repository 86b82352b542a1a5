//! Which share of the machine's limit the crate reaches, on batches that take memory rather than caches.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use super::GREY;
use crate::contestants::Who;
use crate::machine::Motion;
use crate::measurement::Measurement;
use crate::rounds::Times;
use crate::shapes;

/// Batches of fewer elements are not shown.
const LARGE: usize = 1 << 20;

const SIZE: (u32, u32) = (960, 480);

/// A call, and what moves the same bytes in the least time.
struct Bar {
    name: &'static str,
    who: Who,
    limit: fn(&Measurement) -> Option<&Times>,
    color: RGBColor,
}

const BARS: [Bar; 3] = [
    Bar {
        name: "loss, of read",
        who: Who::XentLoss,
        limit: |measurement| measurement.of(Who::Machine(Motion::Sum)),
        color: RGBColor(31, 119, 180),
    },
    Bar {
        name: "loss and gradient in place, of scale",
        who: Who::XentInPlace,
        limit: |measurement| measurement.of(Who::Machine(Motion::Scale)),
        color: RGBColor(255, 127, 14),
    },
    Bar {
        name: "out of place, of the faster copy",
        who: Who::Xent,
        limit: Measurement::copy_limit,
        color: RGBColor(214, 39, 40),
    },
];

impl Bar {
    /// In percent.
    fn share(&self, measurement: &Measurement) -> Option<f64> {
        Some(100.0 * measurement.of(self.who)?.ratio_of((self.limit)(measurement)?))
    }
}

pub fn draw(measurements: &[Measurement], path: &Path) -> Result<(), Box<dyn Error>> {
    let is_shown = |measurement: &&Measurement| {
        shapes::TABLE.contains(&measurement.shape) && measurement.shape.0 * measurement.shape.1 > LARGE
    };
    let shown: Vec<&Measurement> = measurements.iter().filter(is_shown).collect();
    let shares = shown.iter().flat_map(|measurement| BARS.iter().filter_map(|bar| bar.share(measurement)));
    // Room for the legend above the bars.
    let top = 1.3 * shares.fold(100.0, f64::max);

    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("xent's share of the machine's limit", ("sans-serif", 22))
        .margin(14)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..shown.len().max(1) as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc("Share in percent")
        .y_label_formatter(&|share| format!("{share:.0}"))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 13))
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .draw()?;

    let width = 0.8 / BARS.len() as f64;
    for (i, bar) in BARS.iter().enumerate() {
        let left_of = |place: usize| place as f64 + 0.1 + i as f64 * width;
        let shares: Vec<(f64, f64)> = shown
            .iter()
            .enumerate()
            .filter_map(|(place, measurement)| Some((left_of(place), bar.share(measurement)?)))
            .collect();
        let color = bar.color;
        chart
            .draw_series(shares.iter().map(|&(left, share)| {
                Rectangle::new([(left, 0.0), (left + 0.95 * width, share)], color.filled())
            }))?
            .label(bar.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        chart.draw_series(shares.iter().map(|&(left, share)| {
            Text::new(format!("{share:.0}"), (left + 0.25 * width, share + 0.05 * top), ("sans-serif", 13))
        }))?;
    }
    chart.draw_series(LineSeries::new([(0.0, 100.0), (shown.len() as f64, 100.0)], GREY.stroke_width(2)))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    for (place, measurement) in shown.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(place as f64 + 0.5, 0.0));
        let name = shapes::name(measurement.shape);
        let left = x - 4 * name.len() as i32;
        area.draw(&Text::new(name, (left, y + 8), ("sans-serif", 14)))?;
    }
    area.present().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(())
}
