//! Two pictures of the measurements.

pub mod shares;
pub mod throughput;

use plotters::style::RGBColor;

const GREY: RGBColor = RGBColor(110, 110, 110);
