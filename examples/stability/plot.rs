//! The error of a row's loss over the gap by which its target leads: ours, and that of the formula that most libraries have.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use xent::contract::U;
use xent::{CrossEntropy, Matrix, reference};

use crate::support::batch::Random;

const CLASSES: usize = 100;
const WIDEST_GAP: f32 = 90.0;
const STEPS: usize = 360;
/// Rows at each step: the worst of them is drawn.
const ROWS: usize = 8;
/// What is smaller is drawn here.
const SMALLEST_ERROR: f64 = 0.01;

const GREY: RGBColor = RGBColor(120, 120, 120);
const OURS: RGBColor = RGBColor(0, 114, 178);
const THEIRS: RGBColor = RGBColor(213, 94, 0);

/// Gaps and errors.
type Points = Vec<(f32, f64)>;

pub fn draw(path: &Path) -> Result<(), Box<dyn Error>> {
    let [ours, theirs] = errors()?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let area = SVGBackend::new(path, (960, 540)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Error of the loss of one row of 100 classes, f32", ("sans-serif", 22))
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..WIDEST_GAP, (SMALLEST_ERROR..1e8).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("gap by which the target leads")
        .y_desc("relative error in units of 2^-24")
        .y_label_formatter(&|error| format!("{error:e}"))
        .draw()?;
    let lost = 1.0 / U;
    chart.draw_series(LineSeries::new([(0.0, lost), (WIDEST_GAP, lost)], GREY))?.label("nothing is right");
    for (points, colour, name) in [(theirs, THEIRS, "lse - x_t in f32 (PyTorch, JAX)"), (ours, OURS, "xent")]
    {
        chart
            .draw_series(LineSeries::new(points, ShapeStyle::from(colour).stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], ShapeStyle::from(colour).stroke_width(2))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}

/// Of each gap the largest error in u: ours, and that of [`lse_minus_target`].
fn errors() -> Result<[Points; 2], Box<dyn Error>> {
    let ce = CrossEntropy::default();
    let mut random = Random::new(1);
    let mut errors = [Vec::new(), Vec::new()];
    for step in 0..=STEPS {
        let gap = WIDEST_GAP * step as f32 / STEPS as f32;
        let mut largest = [SMALLEST_ERROR; 2];
        for _ in 0..ROWS {
            let mut logits: Vec<f32> = (0..CLASSES).map(|_| random.between(-1.0, 0.0)).collect();
            let target = random.below(CLASSES);
            logits[target] = gap;
            let exact = -reference::softmax_row(&logits).log_probabilities[target];
            let ours = ce.loss(Matrix::new(&logits, 1, CLASSES)?, &[target])?;
            let theirs = f64::from(lse_minus_target(&logits, target));
            for (largest, loss) in largest.iter_mut().zip([ours, theirs]) {
                *largest = largest.max((loss - exact).abs() / (exact * U));
            }
        }
        for (errors, largest) in errors.iter_mut().zip(largest) {
            errors.push((gap, largest));
        }
    }
    Ok(errors)
}

/// The formula as it stands, in `f32`.
fn lse_minus_target(logits: &[f32], target: usize) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
    (max + sum.ln()) - logits[target]
}
