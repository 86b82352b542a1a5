//! Every output of calls on shards of `f64`.

use super::doubles::{Doubles, Found, Watched, evaluate, widened};
use super::evaluation::Call;
use super::shards::Split;
use core::ops::Range;
use xent::{CrossEntropy, RowStateF64, Shards};

/// Every output that there is of shards, and those of whole rows for the others.
pub fn evaluate_shards(split: &Split, call: &Call<'_>, ce: &CrossEntropy, batch: &Doubles) -> Found {
    let Doubles { rows, classes, .. } = *batch;
    let upstream = widened(call.upstream);
    let shards = shards(call, upstream.as_deref(), ce, batch);
    let parts = parts_of(split, batch);
    let states = states_of(split, &shards, batch, &parts);

    let mut found = evaluate(&Call { in_place: false, ..*call }, ce, batch);
    let written = shards.losses(&states, &mut found.losses);
    let summary = written.expect("the states are complete");
    shards.lse(&states, &mut found.lse).expect("the states are complete");
    let written = shards.target_log_probabilities(&states, &mut found.target_log_probabilities);
    written.expect("the states are complete");
    let same = shards.finish(&states).expect("the states are complete");
    assert_eq!(summary.loss.to_bits(), same.loss.to_bits());
    found.summary = summary;
    for (mut columns, range) in parts.into_iter().zip(&split.ranges) {
        let mut out = Watched::new(rows, range.len());
        let written = shards.grad(columns.matrix(), range.start, &states, out.matrix_mut());
        written.expect("the shard is valid");
        let grad = out.elements("grad");
        // Added to, a 0 becomes the gradient itself.
        let mut added = Watched::holding(&vec![0.0; grad.len()], rows, range.len());
        let written = shards.accumulate_grad(columns.matrix(), range.start, &states, added.matrix_mut());
        written.expect("the shard is valid");
        let is_same = |(sum, grad): (f64, &f64)| sum == *grad || grad.is_nan();
        assert!(added.elements("the sum").into_iter().zip(&grad).all(is_same), "added to 0");
        let written = shards.grad_in_place(columns.matrix_mut(), range.start, &states);
        written.expect("the shard is valid");
        let same = |(a, b): (f64, &f64)| a.to_bits() == b.to_bits();
        assert!(columns.elements("logits").into_iter().zip(&grad).all(same), "in place and not");
        for row in 0..rows {
            let to = &mut found.grad[row * classes..][range.clone()];
            to.copy_from_slice(&grad[row * range.len()..][..range.len()]);
        }
    }
    found
}

/// The state of each row.
pub fn states(split: &Split, ce: &CrossEntropy, batch: &Doubles) -> Vec<RowStateF64> {
    states_of(split, &shards(&Call::default(), None, ce, batch), batch, &parts_of(split, batch))
}

/// The columns of each shard, in memory of its own.
fn parts_of(split: &Split, batch: &Doubles) -> Vec<Watched> {
    let columns_of = |range: &Range<usize>| {
        let rows = (0..batch.rows).flat_map(|row| &batch.row(row)[range.clone()]);
        Watched::holding(&rows.copied().collect::<Vec<f64>>(), batch.rows, range.len())
    };
    split.ranges.iter().map(columns_of).collect()
}

fn states_of(
    split: &Split,
    shards: &Shards<'_, RowStateF64>,
    batch: &Doubles,
    parts: &[Watched],
) -> Vec<RowStateF64> {
    let garbage = RowStateF64::from_le_bytes([0xa5; RowStateF64::BYTES]);
    split.merged(batch.rows, garbage, |part, states, accumulates| {
        let (columns, first_column) = (parts[part].matrix(), split.ranges[part].start);
        let summarised = match accumulates {
            true => shards.accumulate(columns, first_column, states),
            false => shards.summarise(columns, first_column, states),
        };
        summarised.expect("the shard is valid");
    })
}

/// The call on shards. Upstream gradients are widened.
fn shards<'a>(
    call: &Call<'a>,
    upstream: Option<&'a [f64]>,
    ce: &'a CrossEntropy,
    batch: &'a Doubles,
) -> Shards<'a, RowStateF64> {
    let mut shards = ce.shards(&batch.targets, batch.classes);
    if let Some(upstream) = upstream {
        shards = shards.upstream(upstream);
    }
    if let Some(upstream_scalar) = call.upstream_scalar {
        shards = shards.upstream_scalar(upstream_scalar);
    }
    if let Some(row_weights) = call.row_weights {
        shards = shards.row_weights(row_weights);
    }
    if let Some(loss_mask) = call.loss_mask {
        shards = shards.loss_mask(loss_mask);
    }
    if let Some(denominator) = call.denominator {
        shards = shards.denominator(denominator);
    }
    shards
}
