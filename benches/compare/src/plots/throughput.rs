//! Elements per second over the number of classes, and over the number of rows.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::GREY;
use crate::contestants::Who;
use crate::measurement::Measurement;
use crate::shapes::{self, Shape};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (1280, 560);
const LEGEND_WIDTH: i32 = 240;

/// A line of the plots: whose it is (of the machine if nobody's), and how it is drawn.
struct Curve {
    who: Option<Who>,
    color: RGBColor,
    width: u32,
}

const CURVES: [Curve; 9] = [
    Curve { who: None, color: GREY, width: 3 },
    Curve { who: Some(Who::Xent), color: RGBColor(214, 39, 40), width: 3 },
    Curve { who: Some(Who::XentInPlace), color: RGBColor(255, 127, 14), width: 2 },
    Curve { who: Some(Who::XentOneThread), color: RGBColor(227, 119, 194), width: 2 },
    Curve { who: Some(Who::RtenSoftmax), color: RGBColor(44, 160, 44), width: 2 },
    Curve { who: Some(Who::Ndarray), color: RGBColor(148, 103, 189), width: 2 },
    Curve { who: Some(Who::Burn), color: RGBColor(140, 86, 75), width: 2 },
    Curve { who: Some(Who::Candle), color: RGBColor(31, 119, 180), width: 2 },
    Curve { who: Some(Who::Reference), color: RGBColor(0, 0, 0), width: 1 },
];

impl Curve {
    fn name(&self) -> &'static str {
        self.who.map_or("machine's limit (moves the bytes)", Who::name)
    }

    /// 10^9 elements per second, if the contestant took part.
    fn throughput(&self, measurement: &Measurement) -> Option<f64> {
        let times = self.who.map_or_else(|| measurement.limit(), |who| measurement.of(who))?;
        Some(measurement.throughput(times))
    }
}

/// A chart over what changes from shape to shape.
struct Panel {
    title: &'static str,
    x_title: &'static str,
    shapes: Vec<Shape>,
    x_of: fn(Shape) -> usize,
}

pub fn draw(measurements: &[Measurement], path: &Path) -> Result<(), Box<dyn Error>> {
    let panels = [
        Panel {
            title: "About 10^6 elements",
            x_title: "Classes",
            shapes: shapes::over_classes(),
            x_of: |(_, classes)| classes,
        },
        Panel { title: "1000 classes", x_title: "Rows", shapes: shapes::over_rows(), x_of: |(rows, _)| rows },
    ];

    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (charts, legend) = area.split_horizontally(SIZE.0 as i32 - LEGEND_WIDTH);
    for (panel, area) in panels.iter().zip(charts.split_evenly((1, panels.len()))) {
        draw_panel(panel, measurements, &area)?;
    }
    draw_legend(&legend)?;
    area.present().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(())
}

fn draw_panel(panel: &Panel, measurements: &[Measurement], area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let mut shown: Vec<&Measurement> =
        measurements.iter().filter(|measurement| panel.shapes.contains(&measurement.shape)).collect();
    shown.sort_by_key(|measurement| (panel.x_of)(measurement.shape));
    let points_of = |curve: &Curve| -> Vec<(f64, f64)> {
        let point = |measurement: &&Measurement| {
            Some(((panel.x_of)(measurement.shape) as f64, curve.throughput(measurement)?))
        };
        shown.iter().filter_map(point).collect()
    };

    let all: Vec<(f64, f64)> = CURVES.iter().flat_map(points_of).collect();
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(
            around(all.iter().map(|point| point.0), 1.3).log_scale(),
            around(all.iter().map(|point| point.1), 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc(panel.x_title)
        .y_desc("10^9 elements per second")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y}"))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 13))
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for curve in &CURVES {
        let points = points_of(curve);
        let style = curve.color.stroke_width(curve.width);
        // The machine's limit is no contestant: it has no points.
        let radius = if curve.who.is_some() { 3 } else { 0 };
        chart.draw_series(points.iter().map(|&point| Circle::new(point, radius, curve.color.filled())))?;
        chart.draw_series(LineSeries::new(points, style))?;
    }
    Ok(())
}

/// From somewhat less than the smallest to somewhat more than the largest; any range if there are none.
fn around(values: impl Iterator<Item = f64> + Clone, margin: f64) -> Range<f64> {
    let smallest = values.clone().fold(f64::INFINITY, f64::min);
    let largest = values.fold(0.0, f64::max);
    if smallest <= largest { smallest / margin..largest * margin } else { 0.1..10.0 }
}

fn draw_legend(area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    for (i, curve) in CURVES.iter().enumerate() {
        let y = 60 + 26 * i as i32;
        let style = curve.color.stroke_width(curve.width);
        area.draw(&PathElement::new(vec![(4, y), (28, y)], style))?;
        if curve.who.is_some() {
            area.draw(&Circle::new((16, y), 3, curve.color.filled()))?;
        }
        area.draw(&Text::new(curve.name(), (36, y - 7), ("sans-serif", 13)))?;
    }
    Ok(())
}
