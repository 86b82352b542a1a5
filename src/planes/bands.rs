//! Many classes: one band of positions after the other.
//!
//! ```text
//! statistics    a tile of positions after the other: its classes in blocks, which share a running maximum
//! output        a plane after the other, over the band: the exponentials once more
//! ```
//!
//! The first step can be split between threads by positions, because it writes nothing but a number for each; the second
//! by classes, because planes lie apart.

use core::ops::Range;

use super::batch::{Image, ImageLogits, Positions, Strided, groups, split_off};
use super::group::Group;
use crate::batch::Wide;
use crate::kernel::bands::{BandPlanes, BandTask, Scalars};
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::RowLanes;
use crate::kernel::planes::{GapsTask, LoadTask, PlanesFrom, StatisticsTask};
use crate::parallel::{PIECE, middle};
use crate::passes::Kernels;
use crate::rows::{Job, Totals};
use crate::simd::LANES;

/// Positions of a band: their logits should stay in the caches, and their scalars on the stack.
const BAND: usize = 256;

/// Groups of 16 positions that a tile has, and classes of a block: 8 KiB.
const GROUPS: usize = 2;
const BLOCK: usize = 64;

/// Both outputs that there may be.
const WIDE: [Wide; 2] = [Wide::Probabilities, Wide::Gradient];

/// What an output needs of the positions of a band.
pub(super) type BandScalars = [Scalars; BAND / LANES];

/// A band of one image after the other.
pub(super) struct Bands<'a> {
    pub(super) scalars: [&'a mut BandScalars; WIDE.len()],
}

impl Bands<'_> {
    /// All positions of an image.
    pub(super) fn run<T: Kernels>(
        &mut self,
        job: &Job<'_>,
        mut image: Image<'_, T>,
        classes: usize,
    ) -> Totals {
        let mut totals = Totals::default();
        let mut start = 0;
        while image.positions.len() > 0 {
            let count = image.positions.len().min(BAND);
            let rest = image.positions.split_off(count);
            totals = totals.add(self.band(job, &mut image, classes, start..start + count));
            image.positions = rest;
            start += count;
        }
        totals
    }

    fn band<T: Kernels>(
        &mut self,
        job: &Job<'_>,
        image: &mut Image<'_, T>,
        classes: usize,
        band: Range<usize>,
    ) -> Totals {
        let Image { logits, positions, gradient, probabilities } = image;
        let writes = [probabilities.is_some(), gradient.is_some() || logits.is_overwritten()];
        let count = band.len().div_ceil(LANES);
        let [first, second] = &mut self.scalars;
        let scalars = [&mut first[..count], &mut second[..count]];
        let statistics = Statistics { job, from: logits.strided().starting_at(band.start), classes, writes };
        let totals = statistics.run(0, positions, scalars);

        for ((wide, scalars), writes) in WIDE.into_iter().zip(&mut self.scalars).zip(writes) {
            if !writes {
                continue;
            }
            let to = if wide == Wide::Gradient { &mut *gradient } else { &mut *probabilities };
            let (planes, streaming) = match (&mut *logits, to) {
                (ImageLogits::Overwrite(planes), None) => {
                    (BandPlanes::InPlace { x: planes.data, stride: planes.class_stride }, false)
                }
                (logits, Some(to)) => {
                    let Strided { data: from, class_stride: from_stride } = logits.strided();
                    let Strided { data: to, class_stride: to_stride } = to;
                    (BandPlanes::Between { from, from_stride, to, to_stride: *to_stride }, job.streaming)
                }
                (ImageLogits::Keep(_), None) => continue,
            };
            let is_gradient = wide == Wide::Gradient;
            write(
                job,
                BandTask {
                    planes,
                    transform: job.options.transform(),
                    is_gradient,
                    classes: 0..classes,
                    positions: band.clone(),
                    scalars: &scalars[..count],
                    gaps: if is_gradient { job.options.gaps() } else { Gaps::None },
                    streaming,
                },
            );
        }
        totals
    }
}

/// The second step, on several threads where there is enough of it.
fn write<T: Kernels>(job: &Job<'_>, task: BandTask<'_, T>) {
    let classes_at_once = PIECE / 2 / BAND;
    let Some(middle) = middle(task.classes.len(), classes_at_once) else {
        return job.schedule.instructions.run(task);
    };
    let (first, second) = task.split_at(middle);
    job.schedule.join(|| write(job, first), || write(job, second));
}

/// The first step.
#[derive(Clone, Copy)]
struct Statistics<'a, T> {
    job: &'a Job<'a>,
    /// From the band's first position on.
    from: Strided<&'a [T]>,
    classes: usize,
    /// Which of the outputs there are.
    writes: [bool; WIDE.len()],
}

impl<T: Kernels> Statistics<'_, T> {
    /// Some positions, the first of them at `start` of the band, on several threads where they are enough. The losses
    /// add up along a tree that depends on their number alone.
    fn run(
        self,
        start: usize,
        positions: &mut Positions<'_>,
        [mut first, mut second]: [&mut [Scalars]; 2],
    ) -> Totals {
        let tiles_at_once = (PIECE / 2 / (GROUPS * LANES * self.classes)).max(1);
        let Some(middle) = middle(first.len(), tiles_at_once * GROUPS) else {
            return self.whole(start, positions, [first, second]);
        };
        let rest = [split_off(&mut first, middle), split_off(&mut second, middle)];
        let at = middle * LANES;
        let mut positions_rest = positions.split_off(at);
        let (totals, totals_rest) = self.job.schedule.join(
            || self.run(start, positions, [first, second]),
            || self.run(start + at, &mut positions_rest, rest),
        );
        totals.add(totals_rest)
    }

    /// On one thread. Not inlined: its stack is not that of every cut above.
    #[inline(never)]
    fn whole(self, start: usize, positions: &mut Positions<'_>, scalars: [&mut [Scalars]; 2]) -> Totals {
        let mut tile = [[0.0; LANES]; GROUPS * BLOCK];
        // Each where it stays: `from_fn` would make a copy of them on its way.
        let mut groups = [Group::default(), Group::default()];
        let mut tiles = Tiles { statistics: self, tile: &mut tile, groups: &mut groups };
        tiles.run(start, positions, scalars)
    }
}

struct Tiles<'a, T> {
    statistics: Statistics<'a, T>,
    tile: &'a mut [[f32; LANES]],
    groups: &'a mut [Group; GROUPS],
}

impl<'a, T: Kernels> Tiles<'a, T> {
    fn run(
        &mut self,
        start: usize,
        positions: &mut Positions<'_>,
        [first, second]: [&mut [Scalars]; 2],
    ) -> Totals {
        let from = self.statistics.from.starting_at(start);
        self.statistics.from = from;
        let mut totals = Totals::default();
        let len = positions.len();
        for (index, (first, second)) in first.chunks_mut(GROUPS).zip(second.chunks_mut(GROUPS)).enumerate() {
            let start = index * GROUPS * LANES;
            let tile = start..len.min(start + GROUPS * LANES);
            totals = self.tile(tile, positions, [first, second], totals);
        }
        totals
    }

    fn tile(
        &mut self,
        tile: Range<usize>,
        positions: &mut Positions<'_>,
        scalars: [&mut [Scalars]; 2],
        mut totals: Totals,
    ) -> Totals {
        let Statistics { job, classes, writes, .. } = self.statistics;
        let instructions = job.schedule.instructions;
        let needs_argmax = positions.needs_argmax();
        for (group, range) in self.groups.iter_mut().zip(groups(tile.clone())) {
            group.look_up(job, positions, classes, range);
        }
        let count = tile.len().div_ceil(LANES);
        for block in blocks(classes) {
            self.load(block.clone(), tile.clone());
            for (group, vectors) in self.groups[..count].iter_mut().zip(self.tile.chunks_mut(block.len())) {
                instructions.run(StatisticsTask {
                    vectors,
                    first: block.start,
                    gaps: Gaps::None,
                    rows: &mut group.rows,
                    largest: needs_argmax.then_some(&mut group.largest),
                });
            }
        }
        let gaps = job.options.gaps();
        for block in blocks(classes).filter(|_| !matches!(gaps, Gaps::None)) {
            self.load(block.clone(), tile.clone());
            for (group, vectors) in self.groups[..count].iter_mut().zip(self.tile.chunks_mut(block.len())) {
                let rows = &mut group.rows;
                instructions.run(GapsTask { vectors, first: block.start, gaps, rows });
            }
        }

        for (index, range) in groups(tile).enumerate() {
            totals = totals.add(self.groups[index].finish(job));
            let mut again = if positions.outputs.lse.is_some() { self.groups[index].near_0() } else { None };
            if let Some(rows) = &mut again {
                self.statistics_again(rows, range.clone());
            }
            let from = self.from();
            let group = &mut self.groups[index];
            group.write(job, positions, range.clone(), from, classes, again.as_ref());
            for (which, wide) in WIDE.into_iter().enumerate().filter(|&(which, _)| writes[which]) {
                let scalars = &mut scalars[which][index];
                scalars.class = group.rows.class;
                scalars.reference = group.rows.max.map(|max| if max < f32::MIN { f32::MIN } else { max });
                scalars.fill = group.coefficients::<T>(job, wide, &mut scalars.coefficients);
                if wide == Wide::Gradient {
                    group.back_at_targets(job, from, range.start, &mut scalars.coefficients.at_target);
                }
            }
        }
        totals
    }

    /// The statistics of a group for other targets.
    fn statistics_again(&mut self, rows: &mut RowLanes, range: Range<usize>) {
        for block in blocks(self.statistics.classes) {
            self.load(block.clone(), range.clone());
            let vectors = &mut self.tile[..block.len()];
            let first = block.start;
            let task = StatisticsTask { vectors, first, gaps: Gaps::None, rows, largest: None };
            self.statistics.job.schedule.instructions.run(task);
        }
    }

    fn from(&self) -> PlanesFrom<'a, 'a, T> {
        let Strided { data, class_stride } = self.statistics.from;
        PlanesFrom::Memory(data, class_stride)
    }

    fn load(&mut self, classes: Range<usize>, positions: Range<usize>) {
        let (from, tile) = (self.from(), &mut *self.tile);
        let job = self.statistics.job;
        let transform = job.options.transform();
        job.schedule.instructions.run(LoadTask { tile, transform, from, classes, positions });
    }
}

fn blocks(classes: usize) -> impl Iterator<Item = Range<usize>> {
    (0..classes).step_by(BLOCK).map(move |start| start..classes.min(start + BLOCK))
}
