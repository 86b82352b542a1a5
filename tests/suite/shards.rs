//! Rows in shards: the loss and the gradient of whole rows, within the same bounds, however the columns are cut and the
//! states merged.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::Expected;
use crate::support::buffer::Layout;
use crate::support::evaluation::{Call, Evaluation, assert_same_bits};
use crate::support::shards::{Order, Split, random_ranges};
use crate::support::{backends, fused_backends};
use core::ops::Range;
use xent::contract::{LSE, U};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, EmptyMean, Matrix, MatrixMut, Parallelism, Reduction,
    RowState, reference,
};

fn build(builder: &CrossEntropyBuilder, backend: Backend, parallelism: Parallelism) -> CrossEntropy {
    builder.clone().backend(backend).parallelism(parallelism).build().expect("the options are valid")
}

/// Some of them 0, and large ones too.
fn weights(classes: usize) -> Vec<f32> {
    let mut random = Random::new(classes as u64);
    let weight = |class| if class % 5 == 1 && class + 1 < classes { 0.0 } else { random.between(0.01, 40.0) };
    (0..classes).map(weight).collect()
}

/// With the target in the first shard, in the last, and in each between.
#[test]
fn every_cut_of_a_row_in_three_keeps_the_bounds() {
    const CLASSES: usize = 19;
    let builder = CrossEntropy::builder().label_smoothing(0.2).z_loss(0.01).weight(weights(CLASSES));
    for backend in backends() {
        let ce = build(&builder, backend, Parallelism::Serial);
        let batch = Batch::random(40, CLASSES, 1);
        let expected = Expected::new(&ce, &batch, None);
        for first in 0..=CLASSES {
            for second in first..=CLASSES {
                let ranges = vec![0..first, first..second, second..CLASSES];
                let split = Split::new(ranges, Order::of_kind(first + second, first as u64));
                expected.check(&split.evaluate(&ce, &batch), &format!("{backend}, {split:?}"));
            }
        }
    }
}

/// One column at a time, the worst case for an error that grows with every merge: each logit is a new maximum.
#[test]
fn logits_made_one_by_one_keep_the_bounds_when_each_is_a_new_maximum() {
    const CLASSES: usize = 30_000;
    for (step, target) in [(1e-4, 0), (1e-3, 15_000), (0.3, CLASSES - 3), (1e-6, CLASSES - 1)] {
        for backend in backends() {
            let ce = build(&CrossEntropy::builder().label_smoothing(0.1), backend, Parallelism::Serial);
            let logit = |class: usize| class as f32 * step;
            let shards_targets = [target];
            let shards = ce.shards(&shards_targets, CLASSES);
            let mut states = [RowState::EMPTY];
            for class in 0..CLASSES {
                let chunk = [logit(class)];
                let columns = Matrix::new(&chunk, 1, 1).expect("the chunk has one logit");
                shards.accumulate(columns, class, &mut states).expect("the chunk is valid");
            }

            let logits: Vec<f32> = (0..CLASSES).map(logit).collect();
            let batch = Batch { rows: 1, classes: CLASSES, logits, targets: vec![target as i64] };
            let mut found = Evaluation::of(&ce, &batch);
            found.loss = shards.losses(&states, &mut found.losses).expect("all chunks are there").loss;
            shards.lse(&states, &mut found.lse).expect("all chunks are there");
            for (class, grad) in found.grad.iter_mut().enumerate() {
                let mut chunk = [logit(class)];
                let columns = MatrixMut::new(&mut chunk, 1, 1).expect("the chunk has one logit");
                shards.grad_in_place(columns, class, &states).expect("the chunk is valid");
                [*grad] = chunk;
            }
            Expected::new(&ce, &batch, None).check(&found, &format!("{backend}, step {step}"));
        }
    }
}

/// Where the largest logit is near 0 and the others are far below it, the lse is as small as they are.
#[test]
fn the_lse_of_a_state_keeps_its_bound_where_the_others_are_little_beside_the_largest() {
    const LANES: usize = 16;
    let mut random = Random::new(3);
    for backend in backends() {
        let ce = build(&CrossEntropy::builder(), backend, Parallelism::Rayon);
        for classes in [2, 3, 40, 50, 60, 70, 5000, 140_000] {
            for max in [0.0, -0.0, 1e-6, 0.99, -0.5, 1.5] {
                for gap in [0.5, 1.0, 2.0, 3.0, 12.0, 20.0, 40.0, 80.0] {
                    let largest = random.below(classes);
                    let target = random.below(classes);
                    // All the others; or few, which are added to the largest in `f32`, as they are in its lane.
                    let is_lane = random.below(2) == 0;
                    let logit = |class: usize| match class.abs_diff(largest) {
                        0 => max,
                        distance if is_lane && distance % LANES != 0 => max - 100.0,
                        _ => max - gap - random.between(0.0, 3.0),
                    };
                    let logits: Vec<f32> = (0..classes).map(logit).collect();
                    let batch = Batch { rows: 1, classes, logits, targets: vec![target as i64] };
                    let shards = 1 + random.below(4);
                    let ranges = random_ranges(classes, shards, &mut random);
                    let split = Split::new(ranges, Order::of_kind(random.below(Order::KINDS), random.next()));
                    let found = split.states(&ce, &batch)[0].lse();

                    let exact = reference::softmax_row(&batch.logits);
                    let max = f64::from(max);
                    let gaps = batch.logits.iter().map(|&x| max - f64::from(x));
                    let mean_gap: f64 = gaps.zip(&exact.probabilities).map(|(d, p)| p * d).sum();
                    let ln_sum = -exact.log_probabilities[largest];
                    let bound = (mean_gap + LSE) * U * (max.abs() + ln_sum);
                    assert!(
                        (found - exact.lse).abs() <= bound,
                        "{found:e} instead of {:e}: {} of the bound, max {max}, gap {gap}, {backend}, {split:?}",
                        exact.lse,
                        (found - exact.lse).abs() / bound
                    );
                }
            }
        }
    }
}

/// Whose target is correct depends on the order of equal logits, not on that of the merges.
#[test]
fn a_target_is_correct_only_if_no_earlier_shard_has_an_equal_logit() {
    const CLASSES: usize = 12;
    let mut random = Random::new(4);
    let ce = build(&CrossEntropy::builder(), Backend::Portable, Parallelism::Serial);
    let mut seen = [0; 2];
    for _ in 0..2000 {
        let mut batch = Batch { rows: 1, classes: CLASSES, logits: vec![0.0; CLASSES], targets: vec![0] };
        // Zeros of both signs are equal.
        batch.logits.fill_with(|| [-1.0, -0.0, 0.0, 0.0, f32::NEG_INFINITY][random.below(5)]);
        batch.targets[0] = random.below(CLASSES) as i64;
        let whole = Evaluation::of(&ce, &batch);
        let shards = 1 + random.below(5);
        let ranges = random_ranges(CLASSES, shards, &mut random);
        let split = Split::new(ranges, Order::of_kind(random.below(Order::KINDS), random.next()));
        let found = split.evaluate(&ce, &batch);
        assert_eq!(found.correct, whole.correct, "{batch:?}, {split:?}");
        seen[found.correct] += 1;
    }
    assert!(seen[0] > 100 && seen[1] > 100);
}

/// Single columns, shards of nothing but masked classes, and no columns at all, next to others.
#[test]
fn merge_is_commutative_in_every_bit_and_empty_is_neutral() {
    const CLASSES: usize = 24;
    assert_eq!(RowState::default(), RowState::EMPTY);
    let builder = CrossEntropy::builder().label_smoothing(0.1).weight(weights(CLASSES));
    let ce = build(&builder, Backend::Portable, Parallelism::Serial);
    let mut random = Random::new(5);
    let bits = |state: RowState| state.to_le_bytes();
    for _ in 0..3000 {
        let row: Vec<f32> = (0..CLASSES)
            .map(|_| [-0.0, 0.0, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, random.normal()][random.below(6)])
            .collect();
        let targets = [random.below(CLASSES)];
        let shards = ce.shards(&targets, CLASSES);
        let ranges = random_ranges(CLASSES, 4, &mut random);
        let state = |range: &Range<usize>| {
            let columns = Matrix::new(&row[range.clone()], 1, range.len()).expect("the slice is as long");
            let mut state = [RowState::EMPTY];
            shards.summarise(columns, range.start, &mut state).expect("the shard is valid");
            state[0]
        };
        let mut states: Vec<RowState> = ranges.iter().map(state).collect();
        // Sums of `f32`s are exact in `f64` more often than not; rescaled ones are not.
        let merged = [(0, 1), (1, 2), (2, 3)].map(|(a, b): (usize, usize)| states[a].merge(states[b]));
        states.extend(merged);
        for a in &states {
            assert_eq!(bits(a.merge(RowState::EMPTY)), bits(*a), "{row:?}, {ranges:?}");
            assert_eq!(bits(RowState::EMPTY.merge(*a)), bits(*a), "{row:?}, {ranges:?}");
            for b in &states {
                assert_eq!(bits(a.merge(*b)), bits(b.merge(*a)), "{row:?}, {ranges:?}");
            }
        }
    }
}

#[test]
fn shards_of_masked_classes_change_nothing() {
    for backend in backends() {
        let ce = build(&CrossEntropy::builder().z_loss(0.1), backend, Parallelism::Serial);
        let row = [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.5, -1.0, f32::NEG_INFINITY];
        let batch = Batch { rows: 1, classes: 5, logits: row.to_vec(), targets: vec![3] };
        let live = Batch { rows: 1, classes: 2, logits: row[2..4].to_vec(), targets: vec![1] };
        for order in [Order::Forward, Order::Backward, Order::Accumulated] {
            let split = |ranges: &[Range<usize>]| Split::new(ranges.to_vec(), order);
            let found = split(&[0..2, 2..4, 4..5]).evaluate(&ce, &batch);
            let of_live = split(&[0..2, 2..2]).evaluate(&ce, &live);
            assert_eq!(found.loss.to_bits(), of_live.loss.to_bits());
            assert_same_bits("lse", 1, &found.lse, &of_live.lse, "masked");
            assert_same_bits("grad", 2, &found.grad[2..4], &of_live.grad, "masked");
            assert_eq!([found.grad[0], found.grad[1], found.grad[4]].map(f32::to_bits), [0; 3]);
        }
    }
}

/// What no finite row has, in every shard in turn, for every target.
#[test]
fn rows_with_a_nan_or_plus_infinity_in_any_shard_are_nan_in_all_and_touch_no_others() {
    let builder = CrossEntropy::builder().label_smoothing(0.1).z_loss(0.1).reduction(Reduction::Sum);
    for backend in backends() {
        let ce = build(&builder, backend, Parallelism::Serial);
        for (classes, cut) in [(4, 2), (40, 17), (5000, 2500)] {
            let clean = Batch::random(3, classes, 6);
            let split = Split::new(vec![0..cut, cut..cut, cut..classes], Order::Forward);
            let untouched = split.evaluate(&ce, &clean);
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, cut - 1, cut, classes - 1] {
                    for target in [0, cut - 1, cut, classes - 1] {
                        let mut batch = clean.clone();
                        batch.targets[1] = target as i64;
                        batch.row_mut(1).fill(0.5);
                        batch.row_mut(1)[at] = value;
                        if value == f32::NEG_INFINITY {
                            batch.row_mut(1).fill(value);
                        }
                        for order in [Order::Forward, Order::Backward, Order::Accumulated] {
                            let split = Split { order, ..split.clone() };
                            let found = split.evaluate(&ce, &batch);
                            let context = format!("{value} at {at}, target {target}, {backend}, {split:?}");
                            assert!(found.loss.is_nan(), "loss {}, {context}", found.loss);
                            let row = found.row(1);
                            assert!(row.losses[0].is_nan() && row.lse[0].is_nan(), "{row:?}, {context}");
                            assert!(row.grad.iter().all(|g| g.is_nan()), "{row:?}, {context}");
                            assert_eq!(found.correct, Evaluation::of(&ce, &batch).correct, "{context}");
                            for other in [0, 2] {
                                let (ours, theirs) = (found.row(other), untouched.row(other));
                                assert_same_bits("grad", classes, &ours.grad, &theirs.grad, &context);
                                assert_same_bits("losses", 1, &ours.losses, &theirs.losses, &context);
                                assert_same_bits("lse", 1, &ours.lse, &theirs.lse, &context);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_masked_target_costs_infinity_and_has_a_finite_gradient() {
    for backend in backends() {
        let ce = build(&CrossEntropy::builder(), backend, Parallelism::Serial);
        let logits = vec![0.0, 1.0, f32::NEG_INFINITY, 2.0];
        let batch = Batch { rows: 1, classes: 4, logits, targets: vec![2] };
        let found = Split::new(vec![0..1, 1..2, 2..3, 3..4], Order::Random(1)).evaluate(&ce, &batch);
        assert_eq!(found.losses, [f32::INFINITY]);
        assert_eq!(found.grad[2], -1.0);
        Expected::new(&ce, &batch, None).check(&found, "masked target");
    }
}

#[test]
fn neither_threads_nor_fused_backends_change_a_bit() {
    let bits = |states: &[RowState]| states.iter().map(|state| state.to_le_bytes()).collect::<Vec<_>>();
    let pools: Vec<_> = [1, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start"))
        .into();
    for (rows, classes) in [(30_000, 9), (700, 300), (40, 9001), (2, 300_000)] {
        let batch = Batch::random(rows, classes, 7);
        let builder = CrossEntropy::builder().label_smoothing(0.1).weight(weights(classes)).z_loss(0.1);
        let ranges = random_ranges(classes, 3, &mut Random::new(8));
        let split = Split::new(ranges, Order::Forward);
        let evaluate = |ce: &CrossEntropy| (bits(&split.states(ce, &batch)), split.evaluate(ce, &batch));
        let mut fused = None;
        for backend in backends() {
            let (states, serial) = evaluate(&build(&builder, backend, Parallelism::Serial));
            let ce = build(&builder, backend, Parallelism::Rayon);
            for pool in &pools {
                let (parallel_states, parallel) = pool.install(|| evaluate(&ce));
                let context = format!("{backend}, {rows} x {classes}, serial and rayon");
                assert!(states == parallel_states, "states, {context}");
                serial.assert_equal(&parallel, &context);
            }
            if fused_backends().contains(&backend) {
                let (fused_states, fused) = fused.get_or_insert_with(|| (states.clone(), serial.clone()));
                let context = format!("{backend} and another, {rows} x {classes}");
                assert!(states == *fused_states, "states, {context}");
                serial.assert_equal(fused, &context);
            }
        }
    }
}

/// In place or not, wherever it lies; and the rows of a batch do not depend on each other.
#[test]
fn neither_memory_nor_other_rows_change_a_bit() {
    for backend in backends() {
        let ce = build(&CrossEntropy::builder().reduction(Reduction::Sum), backend, Parallelism::Rayon);
        for (rows, classes) in [(19, 30), (5, 3000)] {
            let batch = Batch::random(rows, classes, 9);
            let ranges = random_ranges(classes, 3, &mut Random::new(10));
            let plain = Split::new(ranges, Order::Forward);
            let expected = plain.evaluate(&ce, &batch);
            for offset in 0..16 {
                let layout = Layout { offset, padding: offset % 3 };
                let in_place = offset % 2 == 0;
                let call = Call { logits: layout, outputs: layout, in_place, ..Call::default() };
                let context = format!("{backend}, {call:?}, {plain:?}");
                plain.evaluate_call(&call, &ce, &batch).assert_equal(&expected, &context);
            }
            for row in 0..rows {
                let alone = batch.select([row]);
                let found = plain.evaluate(&ce, &alone);
                found.assert_rows_equal(&expected, row..row + 1, &format!("{backend}, row {row} alone"));
            }
        }
    }
}

#[test]
fn a_denominator_takes_the_place_of_the_reductions_divisor() {
    let (rows, classes) = (9, 40);
    let batch = Batch::random(rows, classes, 11);
    let split = Split::new(vec![0..15, 15..40], Order::Forward);
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let ce = CrossEntropy::builder().reduction(reduction).z_loss(0.1).build().expect("valid");
        let sum = CrossEntropy::builder().reduction(Reduction::Sum).z_loss(0.1).build().expect("valid");
        let states = split.states(&ce, &batch);
        let shards = ce.shards(&batch.targets, classes).denominator(4.0);
        let of_sum = sum.shards(&batch.targets, classes);
        let loss = shards.finish(&states).expect("the states are complete").loss;
        assert_eq!(loss, of_sum.finish(&states).expect("the states are complete").loss / 4.0);

        let columns = Matrix::with_row_stride(&batch.logits[15..], rows, 25, classes).expect("long enough");
        let (mut quarter, mut whole) = (vec![0.0; rows * 25], vec![0.0; rows * 25]);
        let matrix = |x| MatrixMut::new(x, rows, 25).expect("long enough");
        shards.grad(columns, 15, &states, matrix(&mut quarter)).expect("the shard is valid");
        of_sum.grad(columns, 15, &states, matrix(&mut whole)).expect("the shard is valid");
        for (quarter, whole) in quarter.iter().zip(whole) {
            if whole.abs() >= 8.0 * f32::MIN_POSITIVE {
                assert_eq!(*quarter, whole / 4.0);
            }
        }
    }
}

#[test]
fn no_rows_and_ignored_rows_have_an_empty_mean() {
    for (empty_mean, targets) in
        [(EmptyMean::Nan, vec![]), (EmptyMean::Zero, vec![]), (EmptyMean::Zero, vec![IGNORE_INDEX; 3])]
    {
        let ce = CrossEntropy::builder().empty_mean(empty_mean).label_smoothing(0.1).build().expect("valid");
        let rows = targets.len();
        let batch = Batch { rows, classes: 6, logits: vec![f32::NAN; rows * 6], targets };
        let split = Split::new(vec![0..2, 2..6], Order::Forward);
        let whole = Evaluation::of(&ce, &batch);
        let found = split.evaluate(&ce, &batch);
        found.assert_equal(&whole, "nothing counts");
        assert_eq!(found.loss.is_nan(), empty_mean == EmptyMean::Nan);
    }
}

#[test]
fn a_state_is_its_bytes() {
    assert_eq!(size_of::<RowState>(), RowState::BYTES);
    let batch = Batch::random(50, 30, 12);
    let ce = CrossEntropy::builder().label_smoothing(0.1).build().expect("valid");
    for state in Split::new(vec![0..7, 7..30], Order::Forward).states(&ce, &batch) {
        let bytes = state.to_le_bytes();
        assert_eq!(RowState::from_le_bytes(bytes).to_le_bytes(), bytes);
        assert_eq!(RowState::from_le_bytes(bytes), state);
        assert_eq!(state.columns(), 30);
    }
    // The fields, in the order of the documentation of C's layout.
    let mut bytes = [0; RowState::BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = at as u8;
    }
    assert_eq!(RowState::from_le_bytes(bytes).to_le_bytes(), bytes);
}
