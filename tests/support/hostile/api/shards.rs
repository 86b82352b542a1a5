//! Calls on shards that do not fit, and on states from nowhere.

use super::{Output, UNWRITTEN, assert_ok_if, hostile_target, number_bytes, options};
use crate::support::hostile::bytes::Bytes;
use bytemuck::Pod;
use xent::{Matrix, MatrixMut, RowState, RowStateF64, ShardElement, ShardState};

/// A state, and its bytes.
pub trait Forged: ShardState {
    const BYTES: usize;

    /// The state of these bytes, which it gives back.
    fn forge(bytes: &[u8]) -> Self;

    fn is(&self, bytes: &[u8]) -> bool;

    /// Writes over how many columns there are, and how often the target is among them.
    fn set_counts(bytes: &mut [u8], columns: u64, targets: u32);
}

impl Forged for RowState {
    const BYTES: usize = Self::BYTES;

    fn forge(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("there are as many"))
    }

    fn is(&self, bytes: &[u8]) -> bool {
        self.to_le_bytes() == bytes
    }

    fn set_counts(bytes: &mut [u8], columns: u64, targets: u32) {
        bytes[32..40].copy_from_slice(&columns.to_le_bytes());
        bytes[52..].copy_from_slice(&targets.to_le_bytes());
    }
}

impl Forged for RowStateF64 {
    const BYTES: usize = Self::BYTES;

    fn forge(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("there are as many"))
    }

    fn is(&self, bytes: &[u8]) -> bool {
        self.to_le_bytes() == bytes
    }

    fn set_counts(bytes: &mut [u8], columns: u64, targets: u32) {
        bytes[56..64].copy_from_slice(&columns.to_le_bytes());
        bytes[88..].copy_from_slice(&u64::from(targets).to_le_bytes());
    }
}

/// States of columns that are not there, from other processes or from nowhere.
pub fn calls_on_shards<E: ShardElement<State: Forged> + Pod>(bytes: &mut Bytes<'_>)
where
    E::PerRow: Pod,
{
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
    let unwritten = vec![UNWRITTEN; E::State::BYTES];
    let garbage = E::State::forge(&unwritten);
    let mut states = vec![garbage; len];
    let result = if bytes.one_in(2) {
        shards.accumulate(matrix, first_column, &mut states)
    } else {
        shards.summarise(matrix, first_column, &mut states)
    };
    assert_ok_if(is_valid && fits && len == rows, &result);
    assert!(result.is_ok() || states.iter().all(|state| state.is(&unwritten)), "states were written");

    // Any bits are a state; with the right counts it is taken for a complete one.
    let is_forged = bytes.one_in(2);
    let mut are_complete = true;
    for (row, state) in states.iter_mut().enumerate() {
        let mut forged: Vec<u8> = (0..E::State::BYTES).map(|_| bytes.byte()).collect();
        if is_forged && row < targets.len() {
            E::State::set_counts(&mut forged, classes as u64, u32::from(!is_ignored(row)));
        }
        *state = E::State::forge(&forged);
        assert!(state.is(&forged));
        let _ = (state.lse(), state.merge(E::State::EMPTY), state.merge(*state));
        are_complete &= row < targets.len()
            && state.columns() == classes as u64
            && state.targets() == u32::from(!is_ignored(row));
    }
    let is_finished = is_valid && are_complete && len == targets.len();
    let mut losses = Output::<E::PerRow>::new(bytes.size_like(rows));
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
