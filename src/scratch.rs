//! Rows whose numbers are not those that the kernels take: `f32` in their place, in memory of the passes' own that stays in
//! the first-level cache.

use crate::kernel::few_classes::{self, AffineTask, StatisticsTask};
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::RowLanes;
use crate::kernel::place::RowsOf;
use crate::passes::Output;
use crate::rows::{Job, TILE};
use crate::simd::LANES;

/// A tile of rows of one block.
#[repr(align(64))]
pub(crate) struct Scratch(pub(crate) [f32; TILE]);

impl Scratch {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self([0.0; TILE])
    }

    /// From row to row: whole vectors, where there is room for that.
    pub(crate) fn row_stride(classes: usize, count: usize) -> usize {
        let whole = classes.next_multiple_of(LANES);
        if count * whole <= TILE { whole } else { classes }
    }
}

/// A tile of few classes.
pub(crate) struct FewClasses {
    transposed: few_classes::Tile,
    /// Logits, and then outputs: the rows one behind the other.
    pub(crate) rows: [f32; LANES * few_classes::MOST],
}

impl FewClasses {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { transposed: few_classes::Tile::new(), rows: [0.0; LANES * few_classes::MOST] }
    }

    /// The first pass over the logits.
    pub(crate) fn statistics(
        &mut self,
        job: &Job<'_>,
        gaps: Gaps<'_>,
        (count, classes): (usize, usize),
        lanes: &mut RowLanes,
    ) {
        job.schedule.instructions.run(StatisticsTask {
            tile: &mut self.transposed,
            logits: RowsOf { data: &self.rows, row_stride: classes, classes, count },
            gaps,
            rows: lanes,
        });
        // The lanes of an incomplete tile hold what no row is.
        if !lanes.is_full() {
            lanes.leave_out_ignored();
        }
    }

    /// The second pass, which puts an output in the place of the logits.
    pub(crate) fn affine(&mut self, job: &Job<'_>, (count, classes): (usize, usize), output: &Output<'_>) {
        job.schedule.instructions.run(AffineTask {
            tile: &self.transposed,
            to: RowsOf { data: &mut self.rows, row_stride: classes, classes, count },
            adds: false,
            gaps: output.gaps(job),
            coefficients: output.coefficients,
            rows: output.lanes,
        });
    }
}
