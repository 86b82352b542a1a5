//! Planes of `f64`: 16 positions after the other, for any number of classes. Threads take images.

use core::ops::Range;

use super::batch::{Batch, Image, ImageLogits, Strided, groups};
use super::group::Group;
use crate::batch::Wide;
use crate::kernel::bands::BandPlanes;
use crate::kernel::double::planes::{AffineTask, StatisticsTask};
use crate::kernel::gaps::Gaps;
use crate::kernel::planes::PlanesFrom;
use crate::kernel::results::CoefficientLanes;
use crate::parallel::PIECE;
use crate::rows::{Job, Totals};

pub(super) fn run(job: &Job<'_>, batch: Batch<'_, f64>) -> Totals {
    let (_, classes, positions) = batch.sizes();
    let images_per_piece = (PIECE / classes.saturating_mul(positions)).max(1);
    let piece = |batch: Batch<'_, f64>| images(job, batch);
    job.schedule.by_rows(batch, images_per_piece, images_per_piece, &piece, Totals::add).with_lost()
}

/// On one thread. Not inlined: its stack is not that of every cut above.
#[inline(never)]
fn images(job: &Job<'_>, mut batch: Batch<'_, f64>) -> Totals {
    let (images, classes, _) = batch.sizes();
    let (group, coefficients) = (&mut Group::default(), &mut CoefficientLanes::default());
    let mut totals = Totals::default();
    for image in 0..images {
        totals = Positions { job, classes, group, coefficients }.all(&mut batch.image(image), totals);
    }
    totals
}

struct Positions<'a> {
    job: &'a Job<'a>,
    classes: usize,
    group: &'a mut Group<f64>,
    coefficients: &'a mut CoefficientLanes<f64>,
}

impl Positions<'_> {
    /// All of an image. Losses are added to those before.
    fn all(&mut self, image: &mut Image<'_, f64>, mut totals: Totals) -> Totals {
        let (job, classes, needs_argmax) = (self.job, self.classes, image.positions.needs_argmax());
        for range in groups(0..image.positions.len()) {
            self.group.look_up(job, &image.positions, classes, range.clone());
            let Strided { data, class_stride } = image.logits.strided();
            let from = PlanesFrom::Memory(data, class_stride);
            let Group { rows, largest, .. } = &mut *self.group;
            job.schedule.instructions.run(StatisticsTask {
                from,
                classes,
                positions: range.clone(),
                transform: job.options.transform(),
                gaps: job.options.gaps(),
                rows,
                largest: needs_argmax.then_some(largest),
            });
            totals = totals.add(self.group.finish(job));

            let mut again = if image.positions.outputs.lse.is_some() { self.group.near_0() } else { None };
            if let Some(rows) = &mut again {
                job.schedule.instructions.run(StatisticsTask {
                    from,
                    classes,
                    positions: range.clone(),
                    transform: job.options.transform(),
                    gaps: Gaps::None,
                    rows,
                    largest: None,
                });
            }
            self.group.write(job, &mut image.positions, range.clone(), from, classes, again.as_ref());
            for wide in [Wide::Probabilities, Wide::Gradient] {
                self.affine(image, range.clone(), wide);
            }
        }
        totals
    }

    /// An output of 16 positions, if it was asked for.
    fn affine(&mut self, image: &mut Image<'_, f64>, positions: Range<usize>, wide: Wide) {
        let Self { job, classes, group, coefficients } = self;
        let Image { logits, gradient, probabilities, .. } = image;
        let is_gradient = wide == Wide::Gradient;
        let writes =
            if is_gradient { gradient.is_some() || logits.is_overwritten() } else { probabilities.is_some() };
        if !writes {
            return;
        }
        let Strided { data: from, class_stride: from_stride } = logits.strided();
        let fill = group.coefficients::<f64>(job, wide, coefficients);
        if is_gradient {
            let from = PlanesFrom::Memory(from, from_stride);
            group.back_at_targets(job, from, positions.start, &mut coefficients.at_target);
        }
        let planes = match (logits, if is_gradient { gradient } else { probabilities }) {
            (ImageLogits::Overwrite(planes), None) => {
                BandPlanes::InPlace { x: &mut *planes.data, stride: planes.class_stride }
            }
            (logits, Some(to)) => {
                let Strided { data: from, class_stride: from_stride } = logits.strided();
                BandPlanes::Between { from, from_stride, to: &mut *to.data, to_stride: to.class_stride }
            }
            (ImageLogits::Keep(_), None) => return,
        };
        job.schedule.instructions.run(AffineTask {
            planes,
            classes: *classes,
            positions,
            transform: job.options.transform(),
            is_gradient,
            gaps: if is_gradient { job.options.gaps() } else { Gaps::None },
            coefficients,
            rows: &group.rows,
            fill: fill.as_ref(),
        });
    }
}
