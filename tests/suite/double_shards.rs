//! Rows of `f64` in shards: the bounds of whole rows, against numbers of twice the precision, however the columns are cut and
//! the states merged.

use crate::support::batch::{Batch, Random};
use crate::support::double_bounds::{Shares, check};
use crate::support::double_double::DoubleDouble;
use crate::support::double_rows::{KINDS, batch_of_all_kinds};
use crate::support::double_shards::{evaluate_shards, states};
use crate::support::doubles::{Doubles, ExactRow, evaluate};
use crate::support::evaluation::Call;
use crate::support::shards::{Order, Split, random_ranges};
use crate::support::{backends, fused_backends};
use core::ops::Range;
use xent::contract::{LOSS, LSE, U_F64};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Reduction,
    RowStateF64, Smoothing,
};

fn build(builder: &CrossEntropyBuilder, backend: Backend) -> CrossEntropy {
    builder.clone().backend(backend).build().expect("the options are valid")
}

/// Without factors, whose roundings the bounds allow for.
fn plain() -> CrossEntropyBuilder {
    CrossEntropy::builder().reduction(Reduction::Sum)
}

/// Some of them 0, and large ones too.
fn weights(classes: usize) -> Vec<f32> {
    let mut random = Random::new(classes as u64);
    let weight = |class| if class % 5 == 1 && class + 1 < classes { 0.0 } else { random.between(0.01, 40.0) };
    (0..classes).map(weight).collect()
}

#[test]
fn plain_losses_keep_the_bounds_in_any_cuts_and_orders() {
    let mut shares = Shares::default();
    for classes in (1..=20).chain([31, 64, 65, 129, 200, 1000, 5000]) {
        let batch = batch_of_all_kinds(classes, classes as u64);
        let mut random = Random::new(classes as u64);
        for backend in backends() {
            let ce = build(&plain(), backend);
            for most_shards in [1, 2, 3, 5, 9] {
                let split = Split::random(classes, most_shards, &mut random);
                let found = evaluate_shards(&split, &Call::default(), &ce, &batch);
                let context = format!("{backend}, {split:?}");
                found.assert_no_subnormal(&context);
                check(&ce, &batch, &Call::default(), &found, true, &mut shares, &context);
            }
        }
    }
    shares.print();
}

#[test]
fn losses_with_options_keep_the_bounds_in_any_cuts_and_orders() {
    const CLASSES: usize = 37;
    let builders = [
        CrossEntropy::builder().label_smoothing(0.2).z_loss(0.01).weight(weights(CLASSES)),
        CrossEntropy::builder().label_smoothing(0.1).smoothing(Smoothing::LiveClasses).focal_gamma(2.0),
        CrossEntropy::builder().label_smoothing(0.1).smoothing(Smoothing::OtherClasses).logit_scale(0.7),
        CrossEntropy::builder().softcap(30.0).logit_scale(1.7).label_smoothing(0.75),
    ];
    let mut shares = Shares::default();
    for seed in 0..30 {
        let batch = batch_of_all_kinds(CLASSES, seed);
        let mut random = Random::new(seed);
        for builder in &builders {
            for backend in backends() {
                let ce = build(builder, backend);
                let split = Split::random(CLASSES, 9, &mut random);
                let found = evaluate_shards(&split, &Call::default(), &ce, &batch);
                let context = format!("{backend}, {split:?}, {builder:?}");
                found.assert_no_subnormal(&context);
                check(&ce, &batch, &Call::default(), &found, false, &mut shares, &context);
            }
        }
    }
    shares.print();
}

/// One column at a time, the worst case for an error that grows with every merge: each logit is a new maximum.
#[test]
fn logits_made_one_by_one_keep_the_bounds_when_each_is_a_new_maximum() {
    const CLASSES: usize = 30_000;
    let mut shares = Shares::default();
    for (step, target) in
        [(1e-13, 77), (1e-4, 0), (1e-3, 15_000), (0.3, CLASSES - 3), (0.35, 1), (1e-6, CLASSES - 1)]
    {
        let logits: Vec<f64> = (0..CLASSES).map(|class| class as f64 * step * (1.0 + 1e-9)).collect();
        let batch = Doubles { rows: 1, classes: CLASSES, logits, targets: vec![target as i64] };
        let ranges: Vec<Range<usize>> = (0..CLASSES).map(|class| class..class + 1).collect();
        let exact = ExactRow::new(&batch.logits);
        for backend in backends() {
            for smoothing in [0.0, 0.1] {
                for order in [Order::Accumulated, Order::Backward, Order::Random(5)] {
                    let context = format!("{backend}, step {step}, smoothing {smoothing}, {order:?}");
                    let split = Split::new(ranges.clone(), order);
                    let ce = build(&plain().label_smoothing(smoothing), backend);
                    let state = states(&split, &ce, &batch);
                    let shards = ce.shards(&batch.targets, CLASSES);
                    let loss = shards.finish(&state).expect("all chunks are there").loss;
                    if smoothing == 0.0 {
                        let nll = -exact.log_probabilities[target];
                        let bound = (exact.others_mean_gap(target) + LOSS) * U_F64 * nll.high;
                        shares.note("loss", loss, nll, bound, &context);
                        let bound = (LSE * (exact.max.abs() + exact.ln_sum) + exact.mean_gap) * U_F64;
                        shares.note("lse", state[0].lse(), exact.lse, bound, &context);
                        continue;
                    }
                    let all: DoubleDouble = exact.log_probabilities.iter().map(|&x| -x).sum();
                    let each = DoubleDouble::from(smoothing) / (CLASSES as f64).into();
                    let hard = DoubleDouble::from(1.0) - smoothing.into();
                    let smooth = -exact.log_probabilities[target] * hard + all * each;
                    let constant = LOSS + xent::contract::SCALARS_F64;
                    let bound = (exact.others_mean_gap(target) + constant) * U_F64 * smooth.high
                        + (exact.mean_gap + constant) * U_F64 * smoothing;
                    shares.note("smoothed loss", loss, smooth, bound, &context);
                }
            }
        }
    }
    shares.print();
}

/// Where the largest logit is near 0 and the others are far below it, the lse is as small as they are: down to exp(-700), and
/// in any number of parts.
#[test]
fn the_lse_of_a_state_keeps_its_bound_where_the_others_are_little_beside_the_largest() {
    let mut random = Random::new(3);
    let mut shares = Shares::default();
    for backend in backends() {
        let ce = build(&plain(), backend);
        for classes in [2, 3, 40, 60, 70, 1000] {
            for max in [0.0, -0.0, 1e-6, 0.99, -0.5, 1.5] {
                for gap in [0.5, 1.0, 2.0, 12.0, 20.0, 40.0, 80.0, 300.0, 600.0, 690.0, 700.0] {
                    let largest = random.below(classes);
                    let target = random.below(classes);
                    let logit = |class: usize| match class == largest {
                        true => max,
                        false => max - gap - f64::from(random.between(0.0, 3.0)),
                    };
                    let logits: Vec<f64> = (0..classes).map(logit).collect();
                    let batch = Doubles { rows: 1, classes, logits, targets: vec![target as i64] };
                    let exact = ExactRow::new(&batch.logits);
                    let bound = (LSE * (max.abs() + exact.ln_sum) + exact.mean_gap) * U_F64;
                    let one_by_one: Vec<Range<usize>> = (0..classes).map(|class| class..class + 1).collect();
                    let shards = 1 + random.below(4);
                    for ranges in [random_ranges(classes, shards, &mut random), one_by_one] {
                        let split =
                            Split::new(ranges, Order::of_kind(random.below(Order::KINDS), random.next()));
                        let context = format!("max {max}, gap {gap}, {backend}, {:?}", split.order);
                        let state = states(&split, &ce, &batch)[0];
                        shares.note("lse", state.lse(), exact.lse, bound, &context);
                    }
                }
            }
        }
    }
    shares.print();
}

/// A target that leads by 700, in any shard; and nothing subnormal is stored further away.
#[test]
fn confident_rows_keep_their_loss_at_gaps_of_700() {
    let e = 9.859_676_543_759_77e-305; // exp(-700)
    for backend in backends() {
        let ce = build(&plain(), backend);
        for classes in [2, 3, 100, 3000] {
            for target in [0, classes / 2, classes - 1] {
                for (gap, factor) in [(700.0, 1.0), (746.0, 0.0)] {
                    let mut logits = vec![-gap; classes];
                    logits[target] = 0.0;
                    let batch = Doubles { rows: 1, classes, logits, targets: vec![target as i64] };
                    let cut = classes / 3;
                    for order in [Order::Forward, Order::Backward, Order::Accumulated] {
                        let split = Split::new(vec![0..cut, cut..cut, cut..classes], order);
                        let found = evaluate_shards(&split, &Call::default(), &ce, &batch);
                        let exact = factor * e * (classes - 1) as f64;
                        let context = format!("gap {gap}, target {target} of {classes}, {backend}");
                        let close = |found: f64, exact: f64| (found - exact).abs() <= 4.0 * U_F64 * exact;
                        assert!(close(found.losses[0], exact), "{:e}, {context}", found.losses[0]);
                        assert!(close(found.lse[0], exact), "{:e}, {context}", found.lse[0]);
                        assert!(close(-found.grad[target], exact), "{:e}, {context}", found.grad[target]);
                        let others = (0..classes).filter(|&class| class != target);
                        for class in others {
                            assert!(close(found.grad[class], factor * e), "{class}, {context}");
                        }
                    }
                }
            }
        }
    }
}

/// Single columns, shards of nothing but masked classes, and no columns at all, next to others.
#[test]
fn merge_is_commutative_in_every_bit_and_empty_is_neutral() {
    const CLASSES: usize = 24;
    assert_eq!(RowStateF64::default(), RowStateF64::EMPTY);
    let builder = CrossEntropy::builder().label_smoothing(0.1).weight(weights(CLASSES));
    let ce = build(&builder, Backend::Portable);
    let mut random = Random::new(5);
    let bits = |state: RowStateF64| state.to_le_bytes();
    for _ in 0..3000 {
        let mut normal = || f64::from(random.normal()) * (1.0 + 1.234_567e-9);
        let some = [-0.0, 0.0, 1.0, f64::NEG_INFINITY, f64::NEG_INFINITY, normal(), 300.0 * normal(), 1e308];
        let row: Vec<f64> = (0..CLASSES).map(|_| some[random.below(some.len())]).collect();
        let targets = [random.below(CLASSES)];
        let shards = ce.shards(&targets, CLASSES);
        let ranges = random_ranges(CLASSES, 4, &mut random);
        let state = |range: &Range<usize>| {
            let columns = Matrix::new(&row[range.clone()], 1, range.len()).expect("the slice is as long");
            let mut state = [RowStateF64::EMPTY];
            shards.summarise(columns, range.start, &mut state).expect("the shard is valid");
            state[0]
        };
        let mut states: Vec<RowStateF64> = ranges.iter().map(state).collect();
        let merged = [(0, 1), (1, 2), (2, 3)].map(|(a, b): (usize, usize)| states[a].merge(states[b]));
        states.extend(merged);
        for a in &states {
            assert_eq!(RowStateF64::from_le_bytes(bits(*a)), *a);
            assert_eq!(bits(a.merge(RowStateF64::EMPTY)), bits(*a), "{row:?}, {ranges:?}");
            assert_eq!(bits(RowStateF64::EMPTY.merge(*a)), bits(*a), "{row:?}, {ranges:?}");
            for b in &states {
                assert_eq!(bits(a.merge(*b)), bits(b.merge(*a)), "{row:?}, {ranges:?}");
            }
        }
    }
}

/// Twelve numbers, in the order that is documented.
#[test]
fn the_bytes_of_a_state_are_where_the_documentation_says() {
    let ce = build(&plain().label_smoothing(0.5), Backend::Portable);
    let row = [1.0, 3.0, 3.0, f64::NEG_INFINITY, -3.7];
    let targets = [2_u8];
    let mut state = [RowStateF64::EMPTY];
    let columns = Matrix::new(&row, 1, 5).expect("it fits");
    ce.shards(&targets, 9).summarise(columns, 0, &mut state).expect("the shard is valid");
    let bytes = state[0].to_le_bytes();
    let word = |index: usize| bytes.as_chunks::<8>().0[index];
    let number = |index: usize| f64::from_le_bytes(word(index));
    let rest = (-2.0_f64).exp() + (-6.7_f64).exp();
    assert!((number(0) / 2.0_f64.powi(512) - rest).abs() < 1e-15);
    assert!(number(1) != 0.0 && number(1).abs() <= U_F64 * number(0));
    assert_eq!([2, 3, 4, 5, 6].map(number), [f64::INFINITY, 0.0, 4.0, 0.0, 0.0]);
    assert_eq!([u64::from_le_bytes(word(7)), u64::from_le_bytes(word(11))], [5, 1]);
    assert_eq!([8, 9, 10].map(number), [3.0; 3]);
}

#[test]
fn shards_of_masked_classes_change_nothing() {
    const MASK: f64 = f64::NEG_INFINITY;
    for backend in backends() {
        let ce = build(&CrossEntropy::builder().z_loss(0.1), backend);
        let row = [MASK, MASK, 0.5, -1.0, MASK];
        let batch = Doubles { rows: 1, classes: 5, logits: row.to_vec(), targets: vec![3] };
        let live = Doubles { rows: 1, classes: 2, logits: row[2..4].to_vec(), targets: vec![1] };
        for order in [Order::Forward, Order::Backward, Order::Accumulated] {
            let evaluate = |ranges: &[Range<usize>], batch| {
                evaluate_shards(&Split::new(ranges.to_vec(), order), &Call::default(), &ce, batch)
            };
            let found = evaluate(&[0..2, 2..4, 4..5], &batch);
            let of_live = evaluate(&[0..2, 2..2], &live);
            assert_eq!(found.losses[0].to_bits(), of_live.losses[0].to_bits());
            assert_eq!(found.lse[0].to_bits(), of_live.lse[0].to_bits());
            let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found.grad[2..4]), bits(&of_live.grad));
            assert_eq!([found.grad[0], found.grad[1], found.grad[4]].map(f64::to_bits), [0; 3]);
        }
    }
}

/// What no finite row has, in every shard in turn, for every target.
#[test]
fn rows_with_a_nan_or_plus_infinity_in_any_shard_are_nan_in_all_and_touch_no_others() {
    let builder = CrossEntropy::builder().label_smoothing(0.1).z_loss(0.1).reduction(Reduction::Sum);
    for backend in backends() {
        let ce = build(&builder, backend);
        for (classes, cut) in [(4, 2), (40, 17), (300, 150)] {
            let clean = Doubles::near(&Batch::random(3, classes, 6));
            let split = Split::new(vec![0..cut, cut..cut, cut..classes], Order::Forward);
            let untouched = evaluate_shards(&split, &Call::default(), &ce, &clean);
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for at in [0, cut - 1, cut, classes - 1] {
                    for target in [0, cut - 1, cut, classes - 1] {
                        let mut batch = clean.clone();
                        batch.targets[1] = target as i64;
                        let row = &mut batch.logits[classes..2 * classes];
                        row.fill(if value == f64::NEG_INFINITY { value } else { 0.5 });
                        row[at] = value;
                        for order in [Order::Forward, Order::Backward, Order::Accumulated] {
                            let split = Split { order, ..split.clone() };
                            let found = evaluate_shards(&split, &Call::default(), &ce, &batch);
                            let context = format!("{value} at {at}, target {target}, {backend}, {split:?}");
                            assert!(found.summary.loss.is_nan() && found.losses[1].is_nan(), "{context}");
                            assert!(found.lse[1].is_nan(), "{context}");
                            let grad = |row: usize| row * classes..(row + 1) * classes;
                            assert!(found.grad[grad(1)].iter().all(|g| g.is_nan()), "{context}");
                            let whole = evaluate(&Call::default(), &ce, &batch);
                            assert_eq!(found.summary.correct, whole.summary.correct, "{context}");
                            for other in [0, 2] {
                                let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
                                let (ours, theirs) = (&found.grad[grad(other)], &untouched.grad[grad(other)]);
                                assert!(ours.iter().zip(theirs).all(same), "{context}");
                                assert!(same((&found.losses[other], &untouched.losses[other])), "{context}");
                                assert!(same((&found.lse[other], &untouched.lse[other])), "{context}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn neither_threads_nor_fused_backends_change_a_bit() {
    let pools: Vec<_> = [1, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start"))
        .into();
    for (rows, classes) in [(8000, 9), (400, 300), (20, 9001), (2, 100_000)] {
        let batch = Doubles::near(&Batch::random(rows, classes, 7));
        let builder = CrossEntropy::builder().label_smoothing(0.1).weight(weights(classes)).z_loss(0.1);
        let ranges = random_ranges(classes, 3, &mut Random::new(8));
        let split = Split::new(ranges, Order::Forward);
        let evaluate = |ce: &CrossEntropy| {
            let states = states(&split, ce, &batch);
            let states: Vec<_> = states.iter().map(|state| state.to_le_bytes()).collect();
            (states, evaluate_shards(&split, &Call::default(), ce, &batch).bits())
        };
        let mut fused = None;
        for backend in backends() {
            let serial = evaluate(&build(&builder.clone().parallelism(Parallelism::Serial), backend));
            let ce = build(&builder, backend);
            for pool in &pools {
                let context = format!("{backend}, {rows} x {classes}");
                assert!(pool.install(|| evaluate(&ce)) == serial, "serial and rayon, {context}");
            }
            if fused_backends().contains(&backend) {
                let expected = fused.get_or_insert_with(|| serial.clone());
                assert!(*expected == serial, "{backend} and another, {rows} x {classes}");
            }
        }
    }
}

/// Whose target is correct depends on the order of equal logits, not on that of the merges.
#[test]
fn a_target_is_correct_only_if_no_earlier_shard_has_an_equal_logit() {
    const CLASSES: usize = 12;
    let mut random = Random::new(4);
    let ce = build(&plain(), Backend::Portable);
    let mut seen = [0; 2];
    for _ in 0..1000 {
        // Zeros of both signs are equal.
        let some = [-1.0, -0.0, 0.0, 0.0, f64::NEG_INFINITY];
        let logits = (0..CLASSES).map(|_| some[random.below(5)]).collect();
        let targets = vec![random.below(CLASSES) as i64];
        let batch = Doubles { rows: 1, classes: CLASSES, logits, targets };
        let split = Split::random(CLASSES, 5, &mut random);
        let found = evaluate_shards(&split, &Call::default(), &ce, &batch).summary.correct;
        assert_eq!(found, evaluate(&Call::default(), &ce, &batch).summary.correct, "{batch:?}, {split:?}");
        seen[found] += 1;
    }
    assert!(seen[0] > 50 && seen[1] > 50);
}

#[test]
fn an_error_leaves_states_and_gradients_untouched() {
    const GARBAGE: [u8; RowStateF64::BYTES] = [0x5e; RowStateF64::BYTES];
    let (logits, targets) = ([0.5_f64; KINDS * 2], vec![1_u8; KINDS]);
    let ce = CrossEntropy::default();
    let shards = ce.shards(&targets, 3);
    let columns = Matrix::new(&logits, KINDS, 2).expect("it fits");
    let mut states = [RowStateF64::from_le_bytes(GARBAGE); KINDS];
    let error = Error::ColumnsOutOfRange { first_column: 2, cols: 2, classes: 3 };
    assert_eq!(shards.summarise(columns, 2, &mut states), Err(error));
    let error = Error::LengthMismatch { argument: "states", expected: KINDS, actual: 1 };
    assert_eq!(shards.accumulate(columns, 0, &mut states[..1]), Err(error));
    assert!(states.iter().all(|state| state.to_le_bytes() == GARBAGE));

    shards.summarise(columns, 0, &mut states).expect("the shard is valid");
    let mut grad = [7.0; KINDS * 2];
    let out = MatrixMut::new(&mut grad, KINDS, 2).expect("it fits");
    let error = Error::IncompleteState { row: 0, columns: 2, targets: 1, classes: 3 };
    assert_eq!(shards.grad(columns, 0, &states, out), Err(error.clone()));
    let mut losses = [7.0; KINDS];
    assert_eq!(shards.losses(&states, &mut losses).map(drop), Err(error.clone()));
    assert_eq!(shards.lse(&states, &mut losses), Err(error));
    assert!(losses.iter().chain(&grad).all(|&x| x == 7.0));
}
