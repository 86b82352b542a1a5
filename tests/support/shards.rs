//! Every output of calls on shards, to compare with those of whole rows.

use super::batch::{Batch, Random};
use super::buffer::{Buffer, Layout};
use super::evaluation::{Call, Evaluation};
use core::ops::Range;
use xent::{CrossEntropy, MatrixMut, RowState, ShardState, Shards};

/// How rows are cut, and their states merged.
#[derive(Clone, Debug)]
pub struct Split {
    /// Which columns each shard has; all of them, once.
    pub ranges: Vec<Range<usize>>,
    pub order: Order,
}

/// In which order states are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first with the second, that with the third, ...
    Forward,
    /// The last with the one before it, ...
    Backward,
    /// Any two, until there is one.
    Random(u64),
    /// One shard after the other accumulates into the same states.
    Accumulated,
}

impl Order {
    pub const KINDS: usize = 4;

    pub fn of_kind(kind: usize, seed: u64) -> Self {
        [Self::Forward, Self::Backward, Self::Random(seed), Self::Accumulated][kind % Self::KINDS]
    }

    /// The whole of some states of one row.
    pub fn merge<S: ShardState>(self, mut states: Vec<S>) -> S {
        match self {
            Self::Forward | Self::Accumulated => states.into_iter().fold(S::EMPTY, S::merge),
            Self::Backward => states.into_iter().rev().fold(S::EMPTY, S::merge),
            Self::Random(seed) => {
                let mut random = Random::new(seed);
                while states.len() > 1 {
                    let (first, second) = (random.below(states.len()), random.below(states.len() - 1));
                    let first = states.swap_remove(first);
                    states[second] = states[second].merge(first);
                }
                states.pop().unwrap_or_default()
            }
        }
    }
}

/// `shards` ranges with random ends, some of which are empty; in order.
pub fn random_ranges(classes: usize, shards: usize, random: &mut Random) -> Vec<Range<usize>> {
    let mut ends: Vec<usize> = (1..shards).map(|_| random.below(classes + 1)).collect();
    if shards > 3 {
        // An empty one for certain.
        ends[0] = ends[1];
    }
    ends.push(classes);
    ends.sort_unstable();
    let starts = core::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, &end)| start..end).collect()
}

impl Split {
    pub fn new(ranges: impl Into<Vec<Range<usize>>>, order: Order) -> Self {
        Self { ranges: ranges.into(), order }
    }

    /// Up to so many shards, merged in some order.
    pub fn random(classes: usize, most_shards: usize, random: &mut Random) -> Self {
        let shards = 1 + random.below(most_shards);
        let ranges = random_ranges(classes, shards, random);
        Self { ranges, order: Order::of_kind(random.below(Order::KINDS), random.next()) }
    }

    /// The columns of each shard, in memory of its own.
    fn shards_of(&self, batch: &Batch, layout: Layout) -> Vec<Buffer> {
        let columns_of = |range: &Range<usize>| {
            let rows = (0..batch.rows).flat_map(|row| &batch.row(row)[range.clone()]);
            let elements: Vec<f32> = rows.copied().collect();
            Buffer::holding(&elements, batch.rows, range.len(), layout)
        };
        self.ranges.iter().map(columns_of).collect()
    }

    /// The state of each row.
    pub fn states(&self, ce: &CrossEntropy, batch: &Batch) -> Vec<RowState> {
        self.states_of_call(&Call::default(), ce, batch)
    }

    fn states_of_call(&self, call: &Call<'_>, ce: &CrossEntropy, batch: &Batch) -> Vec<RowState> {
        let shards = call.shards(ce, batch);
        let columns = self.shards_of(batch, call.logits);
        let garbage = RowState::from_le_bytes([0xa5; RowState::BYTES]);
        self.merged(batch.rows, garbage, |part, states, accumulates| {
            let (columns, first_column) = (columns[part].matrix(), self.ranges[part].start);
            let summarised = match accumulates {
                true => shards.accumulate(columns, first_column, states),
                false => shards.summarise(columns, first_column, states),
            };
            summarised.expect("the shard is valid");
        })
    }

    /// The state of each row. `summarise` writes those of a shard over `garbage`, or adds it to what they are.
    pub fn merged<S: ShardState>(
        &self,
        rows: usize,
        garbage: S,
        summarise: impl Fn(usize, &mut [S], bool),
    ) -> Vec<S> {
        let parts = 0..self.ranges.len();
        if self.order == Order::Accumulated {
            let mut states = vec![S::EMPTY; rows];
            parts.for_each(|part| summarise(part, &mut states, true));
            return states;
        }
        // Whatever was in the memory of the states.
        let states_of_part = |part| {
            let mut states = vec![garbage; rows];
            summarise(part, &mut states, false);
            states
        };
        let states: Vec<_> = parts.map(states_of_part).collect();
        (0..rows).map(|row| self.order.merge(states.iter().map(|states| states[row]).collect())).collect()
    }

    /// Every output of the plainest calls.
    pub fn evaluate(&self, ce: &CrossEntropy, batch: &Batch) -> Evaluation {
        self.evaluate_call(&Call::default(), ce, batch)
    }

    /// Every output that there is of shards, and those of whole rows for the others.
    pub fn evaluate_call(&self, call: &Call<'_>, ce: &CrossEntropy, batch: &Batch) -> Evaluation {
        let (rows, classes) = (batch.rows, batch.classes);
        let shards = call.shards(ce, batch);
        let states = self.states_of_call(call, ce, batch);
        let column = || Buffer::unwritten(rows, 1, Layout::default());
        let (mut losses, mut lse, mut log_probabilities) = (column(), column(), column());
        let summary = shards.losses(&states, losses.column_mut()).expect("the states are complete");
        shards.lse(&states, lse.column_mut()).expect("the states are complete");
        let written = shards.target_log_probabilities(&states, log_probabilities.column_mut());
        written.expect("the states are complete");
        let same = shards.finish(&states).expect("the states are complete");
        assert_eq!(summary.loss.to_bits(), same.loss.to_bits());
        losses.assert_canaries_live("losses");
        lse.assert_canaries_live("lse");
        log_probabilities.assert_canaries_live("target_log_probabilities");

        let mut grad = vec![f32::NAN; rows * classes];
        for (mut columns, range) in self.shards_of(batch, call.logits).into_iter().zip(&self.ranges) {
            let mut out = Buffer::unwritten(rows, range.len(), call.outputs);
            if call.in_place {
                let written = shards.grad_in_place(columns.matrix_mut(), range.start, &states);
                written.expect("the shard is valid");
                core::mem::swap(&mut columns, &mut out);
            } else {
                let written = shards.grad(columns.matrix(), range.start, &states, out.matrix_mut());
                written.expect("the shard is valid");
                // Added to, a 0 becomes the gradient itself.
                let mut added = vec![0.0; rows * range.len()];
                let sum = MatrixMut::new(&mut added, rows, range.len()).expect("the shape fits");
                let written = shards.accumulate_grad(columns.matrix(), range.start, &states, sum);
                written.expect("the shard is valid");
                assert!(added.iter().zip(out.elements()).all(|(&sum, grad)| sum == grad || grad.is_nan()));
            }
            columns.assert_canaries_live("logits");
            out.assert_canaries_live("grad");
            let elements = out.elements();
            for row in 0..rows {
                let to = &mut grad[row * classes..][range.clone()];
                to.copy_from_slice(&elements[row * range.len()..][..range.len()]);
            }
        }
        Evaluation {
            loss: summary.loss,
            weight: summary.weight,
            counted: summary.counted,
            correct: summary.correct,
            grad,
            losses: losses.elements(),
            lse: lse.elements(),
            target_log_probabilities: log_probabilities.elements(),
            ..call.evaluate(ce, batch)
        }
    }
}

impl<'a> Call<'a> {
    /// The same call on shards.
    pub fn shards<'b>(&self, ce: &'b CrossEntropy, batch: &'b Batch) -> Shards<'b>
    where
        'a: 'b,
    {
        let mut shards = ce.shards(&batch.targets, batch.classes);
        if let Some(upstream) = self.upstream {
            shards = shards.upstream(upstream);
        }
        if let Some(upstream_scalar) = self.upstream_scalar {
            shards = shards.upstream_scalar(upstream_scalar);
        }
        if let Some(row_weights) = self.row_weights {
            shards = shards.row_weights(row_weights);
        }
        if let Some(loss_mask) = self.loss_mask {
            shards = shards.loss_mask(loss_mask);
        }
        if let Some(denominator) = self.denominator {
            shards = shards.denominator(denominator);
        }
        shards
    }
}
