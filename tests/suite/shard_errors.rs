//! Every error of calls on shards: its value, its message, and that no output has been written.

use crate::support::backends;
use xent::{CrossEntropy, Error, Matrix, MatrixMut, Parallelism, RowState, Shards};

const SENTINEL: f32 = f32::from_bits(0x7fc0_5e57);
const GARBAGE: [u8; RowState::BYTES] = [0x5e; RowState::BYTES];

/// Three rows of five classes, the second ignored.
const ROWS: usize = 3;
const CLASSES: usize = 5;
const TARGETS: [i64; ROWS] = [1, -100, 4];
const LOGITS: [f32; ROWS * CLASSES] = [0.5; ROWS * CLASSES];

fn losses() -> Vec<CrossEntropy> {
    let with =
        |backend, parallelism| CrossEntropy::builder().backend(backend).parallelism(parallelism).build();
    let with =
        |backend| [Parallelism::Serial, Parallelism::Rayon].map(|parallelism| with(backend, parallelism));
    backends().into_iter().flat_map(with).map(|ce| ce.expect("the backend is available")).collect()
}

/// Columns `first..first + cols` of the first `rows` rows.
fn columns(first: usize, rows: usize, cols: usize) -> Matrix<'static> {
    Matrix::with_row_stride(&LOGITS[first.min(LOGITS.len())..], rows, cols, CLASSES.max(cols))
        .expect("long enough")
}

fn complete(shards: &Shards<'_>) -> [RowState; ROWS] {
    let mut states = [RowState::EMPTY; ROWS];
    shards.summarise(columns(0, ROWS, CLASSES), 0, &mut states).expect("the shard is valid");
    states
}

#[track_caller]
fn assert_error(result: Result<(), Error>, error: &Error, message: &str) {
    assert_eq!(&result.expect_err("the call is wrong"), error);
    assert_eq!(error.to_string(), message);
}

/// Calls that make states give the error, and write none.
#[track_caller]
fn assert_no_state_is_written(
    shards: &Shards<'_>,
    (first, rows, cols): (usize, usize, usize),
    states: usize,
    error: &Error,
    message: &str,
) {
    let mut written = vec![RowState::from_le_bytes(GARBAGE); states];
    assert_error(shards.summarise(columns(0, rows, cols), first, &mut written), error, message);
    assert_error(shards.accumulate(columns(0, rows, cols), first, &mut written), error, message);
    assert!(written.iter().all(|state| state.to_le_bytes() == GARBAGE), "states were written");
}

/// Calls that write a gradient give the error, and write none.
#[track_caller]
fn assert_no_grad_is_written(
    shards: &Shards<'_>,
    (first, rows, cols): (usize, usize, usize),
    states: &[RowState],
    error: &Error,
    message: &str,
) {
    let mut written = vec![SENTINEL; rows * cols];
    let grad = MatrixMut::new(&mut written, rows, cols).expect("long enough");
    assert_error(shards.grad(columns(0, rows, cols), first, states, grad), error, message);
    let logits = MatrixMut::new(&mut written, rows, cols).expect("long enough");
    assert_error(shards.grad_in_place(logits, first, states), error, message);
    assert_unwritten(&written);
}

/// Calls on complete states give the error, and write nothing.
#[track_caller]
fn assert_nothing_is_finished(shards: &Shards<'_>, states: &[RowState], error: &Error, message: &str) {
    let mut written = [SENTINEL; ROWS];
    assert_error(shards.finish(states).map(drop), error, message);
    assert_error(shards.losses(states, &mut written).map(drop), error, message);
    assert_error(shards.lse(states, &mut written), error, message);
    assert_error(shards.target_log_probabilities(states, &mut written), error, message);
    assert_unwritten(&written);
}

#[track_caller]
fn assert_unwritten(values: &[f32]) {
    assert!(values.iter().all(|x| x.to_bits() == SENTINEL.to_bits()), "{values:?}");
}

/// All calls give the error, and write nothing.
#[track_caller]
fn assert_every_call_fails(shards: &Shards<'_>, states: &[RowState; ROWS], error: &Error, message: &str) {
    assert_no_state_is_written(shards, (0, ROWS, 0), ROWS, error, message);
    assert_no_grad_is_written(shards, (0, ROWS, 0), states, error, message);
    assert_nothing_is_finished(shards, states, error, message);
}

#[test]
fn targets_weights_and_classes_that_do_not_fit() {
    for ce in losses() {
        let states = complete(&ce.shards(&TARGETS, CLASSES));
        let error = Error::TargetOutOfRange { row: 1, target: 5, classes: 5 };
        let message = "the target of row 1 is 5, but there are 5 classes";
        assert_every_call_fails(&ce.shards(&[4, 5, 4], 5), &states, &error, message);
        let error = Error::NoClasses { rows: 3 };
        let message = "the logits have 3 rows but no classes";
        assert_every_call_fails(&ce.shards(&TARGETS, 0), &states, &error, message);
        let ce = CrossEntropy::builder().weight([1.0; 4]).backend(ce.backend()).build();
        let ce = ce.expect("the weights are valid");
        let error = Error::LengthMismatch { argument: "weight", expected: 5, actual: 4 };
        let message = "weight has 4 elements instead of 5";
        assert_every_call_fails(&ce.shards(&TARGETS, 5), &states, &error, message);
    }
}

#[test]
fn columns_past_the_last_class() {
    for ce in losses() {
        let shards = ce.shards(&TARGETS, CLASSES);
        let states = complete(&shards);
        for (first_column, cols) in [(5, 1), (4, 2), (1, 5), (6, 0), (usize::MAX, 1), (usize::MAX, 0)] {
            let error = Error::ColumnsOutOfRange { first_column, cols, classes: CLASSES };
            let message = format!("{cols} columns from class {first_column} on reach past the 5 classes");
            assert_no_state_is_written(&shards, (first_column, ROWS, cols), ROWS, &error, &message);
            assert_no_grad_is_written(&shards, (first_column, ROWS, cols), &states, &error, &message);
        }
        // The last that there is room for, and none behind it.
        for (first_column, cols) in [(4, 1), (5, 0)] {
            let mut states = states;
            let summarised = shards.summarise(columns(0, ROWS, cols), first_column, &mut states);
            summarised.expect("the columns are valid");
        }
    }
}

#[test]
fn lengths_and_shapes_that_do_not_fit() {
    for ce in losses() {
        let shards = ce.shards(&TARGETS, CLASSES);
        let states = complete(&shards);

        let error = Error::LengthMismatch { argument: "targets", expected: 2, actual: 3 };
        let message = "targets has 3 elements instead of 2";
        assert_no_state_is_written(&shards, (0, 2, 5), 2, &error, message);
        assert_no_grad_is_written(&shards, (0, 2, 5), &states[..2], &error, message);

        let error = Error::LengthMismatch { argument: "states", expected: 3, actual: 2 };
        let message = "states has 2 elements instead of 3";
        assert_no_state_is_written(&shards, (0, 3, 5), 2, &error, message);
        assert_no_grad_is_written(&shards, (0, 3, 5), &states[..2], &error, message);
        assert_nothing_is_finished(&shards, &states[..2], &error, message);

        for argument in ["losses", "lse", "target_log_probabilities"] {
            let error = Error::LengthMismatch { argument, expected: 3, actual: 4 };
            let mut written = [SENTINEL; 4];
            let result = match argument {
                "losses" => shards.losses(&states, &mut written).map(drop),
                "lse" => shards.lse(&states, &mut written),
                _ => shards.target_log_probabilities(&states, &mut written),
            };
            assert_error(result, &error, &format!("{argument} has 4 elements instead of 3"));
            assert_unwritten(&written);
        }

        let mut written = [SENTINEL; 8];
        let grad = MatrixMut::new(&mut written, 2, 4).expect("long enough");
        let error = Error::ShapeMismatch { argument: "grad", expected: (3, 2), actual: (2, 4) };
        let result = shards.grad(columns(0, 3, 2), 1, &states, grad);
        assert_error(result, &error, "grad is 2 x 4, but the logits are 3 x 2");
        assert_unwritten(&written);
    }
}

#[test]
fn what_rows_bring_along_that_does_not_fit() {
    for ce in losses() {
        let shards = ce.shards(&TARGETS, CLASSES);
        let states = complete(&shards);
        let wrong = |shards: Shards<'_>, error: Error, message: &str| {
            assert_every_call_fails(&shards, &states, &error, message);
        };
        let length = |argument| Error::LengthMismatch { argument, expected: 3, actual: 2 };
        wrong(shards.upstream(&[1.0; 2]), length("upstream"), "upstream has 2 elements instead of 3");
        wrong(
            shards.row_weights(&[1.0; 2]),
            length("row_weights"),
            "row_weights has 2 elements instead of 3",
        );
        wrong(shards.loss_mask(&[true; 2]), length("loss_mask"), "loss_mask has 2 elements instead of 3");
        for denominator in [0.0, -1.0, f64::INFINITY] {
            let message = format!("denominator is {denominator}; it is finite and above 0");
            wrong(shards.denominator(denominator), Error::InvalidDenominator { denominator }, &message);
        }
        let weights = [1.0, 2.0, -3.0];
        let error = Error::InvalidRowWeight { row: 2, weight: -3.0 };
        let message = error.to_string();
        wrong(shards.row_weights(&weights), error, &message);
        let error = Error::InvalidUpstreamScalar { upstream_scalar: f64::INFINITY };
        let message = error.to_string();
        wrong(shards.upstream_scalar(f64::INFINITY), error, &message);
    }
}

#[test]
fn states_that_lack_columns_or_have_some_twice() {
    for ce in losses() {
        let shards = ce.shards(&TARGETS, CLASSES);
        let [mut first, mut rest, mut others] = [[RowState::EMPTY; ROWS]; 3];
        shards.summarise(columns(0, ROWS, 2), 0, &mut first).expect("the shard is valid");
        shards.summarise(columns(2, ROWS, 3), 2, &mut rest).expect("the shard is valid");
        shards.summarise(columns(2, ROWS, 2), 2, &mut others).expect("the shard is valid");
        let whole = complete(&shards);
        // Each of the wrong states, its row, and what the error says of it.
        let wrong = [
            (0, RowState::EMPTY, 0, 0),
            (0, first[0], 2, 1),
            (1, first[1], 2, 0),
            (2, rest[2], 3, 1),
            (0, whole[0].merge(whole[0]), 10, 2),
            (2, whole[2].merge(first[2]), 7, 1),
            // As many columns as there should be, but not those.
            (0, rest[0].merge(others[0]), 5, 0),
            (1, whole[0], 5, 1),
            (0, whole[1], 5, 0),
        ];
        for (row, state, columns, targets) in wrong {
            let mut states = whole;
            states[row] = state;
            let error = Error::IncompleteState { row, columns, targets, classes: CLASSES };
            let message = format!(
                "the state of row {row} is of {columns} columns, its target {targets} times among them, but there are 5 classes"
            );
            assert_nothing_is_finished(&shards, &states, &error, &message);
            assert_no_grad_is_written(&shards, (0, ROWS, CLASSES), &states, &error, &message);
        }
        shards.finish(&whole).expect("every column is there once");
        // Garbage is no state of any row, and panics nowhere.
        let garbage = RowState::from_le_bytes([0xff; RowState::BYTES]);
        assert!(shards.finish(&[garbage.merge(garbage).merge(whole[0]); ROWS]).is_err());
        assert!(garbage.lse().is_nan());
    }
}
