//! Few classes: one tile of positions after the other, whose exponentials are kept.

use core::ops::Range;

use super::batch::{Strip, groups};
use super::group::Group;
use crate::batch::Wide;
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::RowLanes;
use crate::kernel::planes::{AffineTask, LoadTask, PlanesFrom, StatisticsTask, StoreTask, TILE};
use crate::kernel::results::CoefficientLanes;
use crate::kernel::tasks::Fence;
use crate::parallel::{PIECE, middle};
use crate::passes::Kernels;
use crate::rows::{Job, Totals};
use crate::simd::LANES;

/// Groups of 16 positions that a tile has at most: longer runs gain nothing.
const MOST_GROUPS: usize = 16;

/// Positions of a tile.
fn positions_per_tile(classes: usize) -> usize {
    (TILE / classes).clamp(1, MOST_GROUPS) * LANES
}

/// Positions that a thread takes at a time, in whole tiles.
fn positions_per_piece(classes: usize) -> usize {
    let per_tile = positions_per_tile(classes);
    (PIECE / classes / per_tile).max(1) * per_tile
}

/// All positions of an image, on several threads where they are many. The losses add up along a tree whose leaves are
/// pieces, whoever takes them.
pub(super) fn run<T: Kernels>(job: &Job<'_>, strip: &mut Strip<'_, T>, classes: usize) -> Totals {
    let per_piece = positions_per_piece(classes);
    let len = strip.positions.len();
    // Each cut makes a list of all planes: no more of them than threads will want.
    let at_once = match job.schedule.threads() {
        1 => len,
        threads => (len / (MOST_SHARES * threads)).max(per_piece),
    };
    split(job, strip, classes, at_once)
}

/// How many shares each thread's positions are cut into.
const MOST_SHARES: usize = 4;

fn split<T: Kernels>(job: &Job<'_>, strip: &mut Strip<'_, T>, classes: usize, at_once: usize) -> Totals {
    let len = strip.positions.len();
    let Some(middle) = middle(len, positions_per_piece(classes)).filter(|_| len > at_once) else {
        return whole(job, strip, classes);
    };
    let mut rest = strip.split_off(middle);
    let (first, second) =
        job.schedule.join(|| split(job, strip, classes, at_once), || split(job, &mut rest, classes, at_once));
    first.add(second)
}

/// On one thread. Not inlined: its stack is not that of every cut above.
#[inline(never)]
fn whole<T: Kernels>(job: &Job<'_>, strip: &mut Strip<'_, T>, classes: usize) -> Totals {
    let mut tile = [[0.0; LANES]; TILE];
    let positions = 0..strip.positions.len();
    let totals = Tiles::new(job, strip, classes, &mut tile).pieces(positions);
    if job.streaming {
        job.schedule.instructions.run(Fence);
    }
    totals
}

struct Tiles<'a, 'b, T: Kernels> {
    job: &'a Job<'a>,
    strip: &'a mut Strip<'b, T>,
    classes: usize,
    tile: &'a mut [[f32; LANES]],
    group: Group,
    coefficients: CoefficientLanes,
}

impl<'a, 'b, T: Kernels> Tiles<'a, 'b, T> {
    fn new(
        job: &'a Job<'a>,
        strip: &'a mut Strip<'b, T>,
        classes: usize,
        tile: &'a mut [[f32; LANES]],
    ) -> Self {
        let (group, coefficients) = Default::default();
        Self { job, strip, classes, tile, group, coefficients }
    }

    fn pieces(&mut self, range: Range<usize>) -> Totals {
        if let Some(middle) = middle(range.len(), positions_per_piece(self.classes)) {
            let middle = range.start + middle;
            let first = self.pieces(range.start..middle);
            return first.add(self.pieces(middle..range.end));
        }
        // With two outputs, the scalars are needed twice: there is one group of them.
        let has_two = self.strip.gradient.is_some() && self.strip.probabilities.is_some();
        let per_tile = if has_two { LANES } else { positions_per_tile(self.classes) };
        let mut totals = Totals::default();
        for start in range.clone().step_by(per_tile) {
            totals = self.tile(start..range.end.min(start + per_tile), totals);
        }
        totals
    }

    fn tile(&mut self, tile: Range<usize>, mut totals: Totals) -> Totals {
        let (wide, other) = match (&self.strip.probabilities, &self.strip.gradient) {
            (None, None) => (None, None),
            (None, Some(_)) => (Some(Wide::Gradient), None),
            (Some(_), gradient) => (Some(Wide::Probabilities), gradient.is_some().then_some(Wide::Gradient)),
        };
        self.load(0, tile.clone());
        for (index, positions) in groups(tile.clone()).enumerate() {
            totals = totals.add(self.statistics(index, positions, wide.is_some()));
            if let Some(wide) = wide {
                self.affine(index, wide, false);
            }
        }
        let Some(wide) = wide else { return totals };
        self.store(wide, tile.clone());
        if let Some(other) = other {
            self.load(0, tile.clone());
            self.affine(0, other, true);
            self.store(other, tile);
        }
        totals
    }

    /// Brings logits to the tile, from the group at `index` on.
    fn load(&mut self, index: usize, positions: Range<usize>) {
        let classes = self.classes;
        let tile = &mut self.tile[index * classes..];
        let (from, _) = self.strip.logits_and_positions();
        let transform = self.job.options.transform();
        let task = LoadTask { tile, transform, from, classes: 0..classes, positions };
        self.job.schedule.instructions.run(task);
    }

    /// The first pass over a group, and its outputs that have one number for each position. The exponentials may be lost,
    /// unless they are wanted.
    fn statistics(&mut self, index: usize, positions: Range<usize>, wants_exponentials: bool) -> Totals {
        let Self { job, strip, classes, group, .. } = self;
        let job = *job;
        let (classes, instructions) = (*classes, job.schedule.instructions);
        group.look_up(job, &strip.positions, classes, positions.clone());
        let needs_argmax = strip.positions.needs_argmax();
        instructions.run(StatisticsTask {
            vectors: &mut self.tile[index * classes..][..classes],
            first: 0,
            gaps: job.options.gaps(),
            rows: &mut group.rows,
            largest: needs_argmax.then_some(&mut group.largest),
        });
        let totals = group.finish(job);

        let mut again = if strip.positions.outputs.lse.is_some() { group.near_0() } else { None };
        if let Some(again) = &mut again {
            self.exponentials(index, positions.clone(), again);
            if wants_exponentials {
                self.exponentials(index, positions.clone(), &mut self.group.rows.clone());
            }
        }
        let (from, outputs) = self.strip.logits_and_positions();
        self.group.write(job, outputs, positions, from, classes, again.as_ref());
        totals
    }

    /// The exponentials of a group once more, for these targets.
    fn exponentials(&mut self, index: usize, positions: Range<usize>, rows: &mut RowLanes) {
        self.load(index, positions);
        let vectors = &mut self.tile[index * self.classes..][..self.classes];
        let gaps = self.job.options.gaps();
        let task = StatisticsTask { vectors, first: 0, gaps, rows, largest: None };
        self.job.schedule.instructions.run(task);
    }

    /// Makes an output of a group's exponentials, or of its logits.
    fn affine(&mut self, index: usize, wide: Wide, are_logits: bool) {
        let Self { job, classes, tile, group, coefficients, .. } = self;
        let fill = group.coefficients::<T>(job, wide, coefficients);
        job.schedule.instructions.run(AffineTask {
            vectors: &mut tile[index * *classes..][..*classes],
            are_logits,
            gaps: if wide == Wide::Gradient { job.options.gaps() } else { Gaps::None },
            coefficients,
            rows: &group.rows,
            fill: fill.as_ref(),
        });
    }

    fn store(&mut self, wide: Wide, positions: Range<usize>) {
        let Self { job, strip, tile, .. } = self;
        let (to, transform) = match wide {
            Wide::Gradient => (&mut strip.gradient, job.options.transform()),
            _ => (&mut strip.probabilities, None),
        };
        let Some(to) = to else { return };
        // What is in place is in the caches already.
        let streaming = job.streaming && (strip.logits.is_some() || wide != Wide::Gradient);
        let logits = strip.logits.map(|planes| PlanesFrom::Memory(planes.data, planes.class_stride));
        job.schedule.instructions.run(StoreTask { tile, transform, logits, to, positions, streaming });
    }
}
