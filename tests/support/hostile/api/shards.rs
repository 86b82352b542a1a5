//! Calls on shards that do not fit, and on states from nowhere.

use super::{Output, UNWRITTEN, assert_ok_if, hostile_target, number_bytes, options};
use crate::support::hostile::bytes::Bytes;
use bytemuck::Pod;
use xent::{Matrix, MatrixMut, RowState, ShardElement};

/// States of columns that are not there, from other processes or from nowhere.
pub fn calls_on_shards<E: ShardElement + Pod>(bytes: &mut Bytes<'_>) {
    let (rows, classes) = (bytes.below(5), bytes.size());
    let Some(ce) = options(bytes, classes.min(8)) else { return };
    let targets: Vec<i64> = (0..bytes.size_like(rows)).map(|_| hostile_target(bytes, classes)).collect();
    let (cols, first_column) = (bytes.below(12), bytes.size());
    let shards = ce.shards(&targets, classes);
    let is_ignored = |row: usize| ce.ignore_indices().contains(&targets[row]);
    let weight_fits = ce.weight().is_none_or(|weight| weight.len() == classes);
    let is_valid = targets.len() == rows
        && (rows == 0 || classes > 0 && weight_fits)
        && (0..rows).all(|row| is_ignored(row) || (0..classes as i128).contains(&i128::from(targets[row])));
    let fits = first_column as u128 + cols as u128 <= classes as u128;

    let logits: Vec<E> = number_bytes(bytes, rows * cols);
    let matrix = Matrix::new(&logits, rows, cols).expect("it is large enough");
    let len = bytes.size_like(rows);
    let garbage = RowState::from_le_bytes([UNWRITTEN; RowState::BYTES]);
    let mut states = vec![garbage; len];
    let result = if bytes.one_in(2) {
        shards.accumulate(matrix, first_column, &mut states)
    } else {
        shards.summarise(matrix, first_column, &mut states)
    };
    assert_ok_if(is_valid && fits && len == rows, &result);
    let is_garbage = |state: &RowState| state.to_le_bytes() == [UNWRITTEN; RowState::BYTES];
    assert!(result.is_ok() || states.iter().all(is_garbage), "states were written");

    // Any bits are a state; with the right counts it is taken for a complete one.
    let is_forged = bytes.one_in(2);
    let mut are_complete = true;
    for (row, state) in states.iter_mut().enumerate() {
        let mut forged: [u8; RowState::BYTES] = core::array::from_fn(|_| bytes.byte());
        if is_forged && row < targets.len() {
            forged[32..40].copy_from_slice(&(classes as u64).to_le_bytes());
            forged[52..].copy_from_slice(&u32::from(!is_ignored(row)).to_le_bytes());
        }
        *state = RowState::from_le_bytes(forged);
        assert_eq!(state.to_le_bytes(), forged);
        let _ = (state.lse(), state.merge(RowState::EMPTY), state.merge(*state));
        are_complete &= row < targets.len()
            && state.columns() == classes as u64
            && state.targets() == u32::from(!is_ignored(row));
    }
    let is_finished = is_valid && are_complete && len == targets.len();
    let mut losses = Output::<f32>::new(bytes.size_like(rows));
    let result = shards.losses(&states, &mut losses.0);
    // Nothing but the targets says how many rows there are.
    let targets_alone =
        |row: usize| is_ignored(row) || (0..classes as i128).contains(&i128::from(targets[row]));
    let is_finished_alone = are_complete
        && len == targets.len()
        && (len == 0 || classes > 0 && weight_fits)
        && (0..len).all(targets_alone);
    assert_ok_if(is_finished_alone && losses.0.len() == targets.len(), &result);
    // Of states from nowhere, losses and gradients may be any NaN.
    if result.is_err() {
        losses.check(&result, targets.len());
    }
    let mut grad = Output::<E>::new(rows * cols);
    let out = MatrixMut::new(&mut grad.0, rows, cols).expect("it is large enough");
    let result = shards.grad(matrix, first_column, &states, out);
    assert_ok_if(is_finished && fits, &result);
    if result.is_err() {
        grad.check(&result, rows * cols);
    }
}
