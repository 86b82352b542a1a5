//! Input that is not finite, or that is at the ends of what is: the table of the contract, line by line.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::{Expected, check_log_softmax, check_softmax};
use crate::support::evaluation::{Call, Evaluation, assert_same_bits};
use crate::support::{PARALLELISMS, backends};
use core::ops::RangeInclusive;
use xent::{CrossEntropy, CrossEntropyBuilder, Matrix, MatrixMut, Parallelism, Reduction, Request, Softmax};

/// Few classes, one and two vectors, one and two blocks; and columns that are cut into three pieces.
const CLASS_COUNTS: [usize; 13] = [1, 2, 3, 10, 16, 17, 64, 100, 1000, 2048, 2049, 5000, 131_089];

/// Quiet and signalling NaN of both signs.
const NANS: [u32; 4] = [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff];

/// For few classes, a whole vector of rows and an incomplete one.
fn rows_for(classes: usize) -> usize {
    match classes {
        0..=100 => 21,
        101..=5000 => 4,
        _ => 2,
    }
}

/// Columns in every region: every lane of the first vectors, both sides of every boundary, the last.
fn positions(classes: usize) -> Vec<usize> {
    if classes <= 100 {
        return (0..classes).collect();
    }
    let last = classes - 1;
    let ends = [classes / 64 * 64, classes / 16 * 16, classes];
    let boundaries: &[usize] =
        if classes > 5000 { &[16, 2048, 65_536, 131_072] } else { &[0, 8, 16, 32, 64, 128, 512, 2048, 4096] };
    let mut positions: Vec<usize> = boundaries
        .iter()
        .chain(&ends)
        .flat_map(|&boundary| [boundary.saturating_sub(1), boundary])
        .filter(|&position| position <= last)
        .collect();
    positions.sort_unstable();
    positions.dedup();
    positions
}

/// Rows of normal logits around 0, which all count.
fn ordinary(rows: usize, classes: usize, seed: u64) -> Batch {
    let mut random = Random::new(seed);
    Batch {
        rows,
        classes,
        logits: (0..rows * classes).map(|_| 3.0 * random.normal()).collect(),
        targets: (0..rows).map(|_| random.below(classes) as i64).collect(),
    }
}

/// Class weights, all above 0.
fn weights(classes: usize) -> Vec<f32> {
    (0..classes).map(|class| 0.25 + (class % 7) as f32 / 4.0).collect()
}

/// With and without class weights and smoothing.
fn variants(classes: usize) -> [CrossEntropyBuilder; 4] {
    let plain = CrossEntropy::builder().reduction(Reduction::Sum);
    [
        plain.clone(),
        plain.clone().weight(weights(classes)),
        plain.clone().label_smoothing(0.1),
        plain.weight(weights(classes)).label_smoothing(0.3),
    ]
}

/// Calls `check` with what every backend gives, serial or not, in place or not; of many classes, one of the two each.
fn for_every_call(
    builder: &CrossEntropyBuilder,
    batch: &Batch,
    upstream: Option<&[f32]>,
    mut check: impl FnMut(&Evaluation, &str),
) {
    for backend in backends() {
        for parallelism in PARALLELISMS {
            for in_place in [false, true] {
                if batch.classes > 5000 && in_place == (parallelism == Parallelism::Serial) {
                    continue;
                }
                let ce = builder.clone().backend(backend).parallelism(parallelism);
                let ce = ce.build().expect("the backend is available");
                let found = Call { upstream, in_place, ..Call::default() }.evaluate(&ce, batch);
                let context = format!(
                    "{} x {}, {backend}, {parallelism:?}, in place {in_place}",
                    batch.rows, batch.classes
                );
                found.assert_no_subnormal(&context);
                check(&found, &context);
            }
        }
    }
}

/// Checks what every backend gives against the reference.
fn check_every_call(builder: &CrossEntropyBuilder, batch: &Batch, upstream: Option<&[f32]>, context: &str) {
    let ce = builder.clone().build().expect("the options are valid");
    let expected = Expected::new(&ce, batch, upstream);
    for_every_call(builder, batch, upstream, |found, call| {
        expected.check(found, &format!("{call}, {context}"))
    });
}

/// Whether a value is a zero without a sign.
fn is_positive_zero(x: &f32) -> bool {
    x.to_bits() == 0
}

#[test]
fn ignored_rows_have_zeros_whatever_they_hold() {
    let contents = [f32::NAN, f32::from_bits(NANS[3]), f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45];
    for classes in CLASS_COUNTS {
        let others = ordinary(rows_for(classes), classes, 1);
        // An ignored row after every second row.
        let mut batch = Batch { rows: 0, classes, logits: Vec::new(), targets: Vec::new() };
        let mut counting = Vec::new();
        for row in 0..others.rows {
            counting.push(batch.rows);
            batch.rows += 1;
            batch.logits.extend_from_slice(others.row(row));
            batch.targets.push(others.targets[row]);
            if row % 2 == 0 {
                batch.rows += 1;
                batch.logits.resize(batch.rows * classes, contents[row / 2 % contents.len()]);
                batch.targets.push(IGNORE_INDEX);
            }
        }
        // What an ignored row's upstream gradient holds does not matter either.
        let upstream: Vec<f32> =
            batch.targets.iter().map(|&target| if target == IGNORE_INDEX { f32::NAN } else { 2.0 }).collect();
        for builder in variants(classes) {
            for upstream in [None, Some(&upstream[..])] {
                check_every_call(&builder, &batch, upstream, "rows ignored");
                let others_upstream = vec![2.0; others.rows];
                let mut alone = Vec::new();
                let others_upstream = upstream.map(|_| &others_upstream[..]);
                for_every_call(&builder, &others, others_upstream, |found, _| alone.push(found.clone()));
                let mut alone = alone.iter();
                for_every_call(&builder, &batch, upstream, |found, context| {
                    let alone = alone.next().expect("there are as many calls");
                    for (row, &at) in counting.iter().enumerate() {
                        let context = format!("row {row} beside ignored rows, {context}");
                        alone.row(row).assert_rows_equal(found, at..at + 1, &context);
                    }
                    assert_eq!(found.counted, others.rows, "{context}");
                    for row in (0..batch.rows).filter(|row| !counting.contains(row)) {
                        let grad = &found.grad[row * classes..][..classes];
                        assert!(grad.iter().all(is_positive_zero), "row {row}: {grad:?}, {context}");
                        assert!(is_positive_zero(&found.losses[row]), "row {row}, {context}");
                        assert_eq!(found.argmax[row], usize::MAX, "row {row}, {context}");
                    }
                });
            }
            // The mean is over the rows that count.
            check_every_call(&builder.reduction(Reduction::Mean), &batch, None, "rows ignored, mean");
        }
    }
}

#[test]
fn a_class_can_be_the_ignored_one() {
    for classes in CLASS_COUNTS {
        let ignored = classes as i64 / 2;
        let mut batch = ordinary(rows_for(classes), classes, 2);
        batch.targets[0] = ignored;
        batch.row_mut(0).fill(f32::NAN);
        let builder = CrossEntropy::builder().ignore_index(ignored).reduction(Reduction::Sum);
        check_every_call(&builder, &batch, None, "a class is ignored");
    }
}

#[test]
fn a_masked_class_has_no_probability_and_no_gradient() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        for position in positions(classes) {
            let mut batch = ordinary(rows_for(classes), classes, 3 + position as u64);
            for row in 0..batch.rows {
                batch.row_mut(row)[position] = f32::NEG_INFINITY;
                if batch.targets[row] == position as i64 {
                    batch.targets[row] = ((position + 1) % classes) as i64;
                }
            }
            let [plain, weighted, ..] = variants(classes);
            for builder in [plain, weighted] {
                let ce = builder.clone().build().expect("the options are valid");
                let expected = Expected::new(&ce, &batch, None);
                for_every_call(&builder, &batch, None, |found, context| {
                    let context = format!("{context}, column {position} masked");
                    expected.check(found, &context);
                    assert!(found.loss.is_finite(), "{context}");
                    for row in 0..batch.rows {
                        let at = row * classes + position;
                        assert!(is_positive_zero(&found.probabilities[at]), "{context}");
                        assert!(is_positive_zero(&found.grad[at]), "{context}");
                        assert_eq!(found.log_probabilities[at], f32::NEG_INFINITY, "{context}");
                    }
                });
            }
        }
    }
}

/// Whole vectors, blocks and pieces without a finite logit; all classes but one or two.
#[test]
fn ranges_of_masked_classes_have_no_probability_and_no_gradient() {
    for classes in CLASS_COUNTS {
        let last = classes - 1;
        let ranges: [RangeInclusive<usize>; 9] = [
            0..=15,
            0..=63,
            16..=last,
            0..=2047,
            2048..=4095,
            2048..=last,
            0..=65_535,
            65_536..=131_071,
            0..=last,
        ];
        for (index, range) in ranges.into_iter().enumerate() {
            let mut batch = ordinary(rows_for(classes), classes, 4);
            for row in 0..batch.rows {
                let target = batch.targets[row] as usize;
                // In every other row, one more class stays.
                let other = if row % 2 == 0 { target } else { (target + classes / 2) % classes };
                for (class, x) in batch.row_mut(row).iter_mut().enumerate() {
                    if range.contains(&class) && class != target && class != other {
                        *x = f32::NEG_INFINITY;
                    }
                }
            }
            check_every_call(&variants(classes)[index % 2], &batch, None, "a range masked");
        }
    }
}

#[test]
fn a_row_with_nothing_but_its_target_has_loss_0_and_gradient_0() {
    for classes in CLASS_COUNTS {
        for target in positions(classes) {
            let mut batch = ordinary(1, classes, 5);
            batch.logits.fill(f32::NEG_INFINITY);
            batch.logits[target] = -7.5;
            batch.targets[0] = target as i64;
            for_every_call(&variants(classes)[0], &batch, None, |found, context| {
                assert_eq!(found.loss, 0.0, "{context}");
                assert!(is_positive_zero(&found.losses[0]), "{context}");
                assert!(found.grad.iter().all(is_positive_zero), "{context}");
                assert_eq!(found.probabilities[target], 1.0, "{context}");
                assert_eq!(found.log_probabilities[target], 0.0, "{context}");
                assert_eq!(found.lse[0], -7.5, "{context}");
                assert_eq!(found.correct, 1, "{context}");
            });
        }
    }
}

#[test]
fn a_masked_target_has_loss_inf_and_gradient_minus_1() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        for target in positions(classes) {
            let mut batch = ordinary(rows_for(classes), classes, 6);
            let row = target % batch.rows;
            batch.targets[row] = target as i64;
            batch.row_mut(row)[target] = f32::NEG_INFINITY;
            let [plain, weighted, ..] = variants(classes);
            let weight = weights(classes)[target];
            let upstream: Vec<f32> = (0..batch.rows).map(|row| row as f32 - 0.5).collect();
            let (builder, weight) = if target % 2 == 0 { (&plain, 1.0) } else { (&weighted, weight) };
            for (upstream, factor) in [(None, 1.0), (Some(&upstream[..]), upstream[row])] {
                let ce = builder.clone().build().expect("the options are valid");
                let expected = Expected::new(&ce, &batch, upstream);
                for_every_call(builder, &batch, upstream, |found, context| {
                    let context = format!("{context}, target {target} of row {row} masked");
                    expected.check(found, &context);
                    assert_eq!(found.loss, f64::INFINITY, "{context}");
                    assert_eq!(found.losses[row], f32::INFINITY, "{context}");
                    assert_eq!(found.grad[row * classes + target], -factor * weight, "{context}");
                    assert!(found.grad.iter().all(|g| g.is_finite()), "{context}");
                });
            }
            let mean = plain.reduction(Reduction::Mean);
            for_every_call(&mean, &batch, None, |found, context| {
                assert_eq!(found.grad[row * classes + target], -1.0 / batch.rows as f32, "{context}");
                assert_eq!(found.loss, f64::INFINITY, "{context}");
            });
        }
    }
}

#[test]
fn a_masked_target_of_weight_0_has_loss_0_and_gradient_0() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        let mut batch = ordinary(rows_for(classes), classes, 7);
        let mut weight = weights(classes);
        weight[classes - 1] = 0.0;
        batch.targets.fill(classes as i64 - 1);
        batch.logits.iter_mut().skip(classes - 1).step_by(classes).for_each(|x| *x = f32::NEG_INFINITY);
        let builder = CrossEntropy::builder().weight(weight).reduction(Reduction::Sum);
        for_every_call(&builder, &batch, None, |found, context| {
            assert_eq!(found.loss, 0.0, "{context}");
            assert!(found.losses.iter().all(is_positive_zero), "{context}");
            assert!(found.grad.iter().all(is_positive_zero), "{context}");
        });
    }
}

/// A change to a row, at a position of it.
type Change = fn(&mut [f32], usize);

/// What makes a row's softmax NaN.
const POISONS: [(&str, Change); 8] = [
    ("NaN", |x, at| x[at] = f32::from_bits(NANS[0])),
    ("-NaN", |x, at| x[at] = f32::from_bits(NANS[1])),
    ("signalling NaN", |x, at| x[at] = f32::from_bits(NANS[2])),
    ("inf", |x, at| x[at] = f32::INFINITY),
    ("inf twice", |x, at| {
        x[at] = f32::INFINITY;
        x[x.len() / 2] = f32::INFINITY;
    }),
    ("inf and NaN", |x, at| {
        x[0] = f32::INFINITY;
        x[at] = f32::from_bits(NANS[3]);
    }),
    ("NaN among -inf", |x, at| {
        x.fill(f32::NEG_INFINITY);
        x[at] = f32::NAN;
    }),
    ("-inf only", |x, _| x.fill(f32::NEG_INFINITY)),
];

#[test]
fn a_row_with_nan_or_inf_or_without_a_finite_logit_is_nan_and_no_other_row_changes() {
    for classes in CLASS_COUNTS {
        let clean = ordinary(rows_for(classes), classes, 8);
        let variants = variants(classes);
        let mut of_clean = [const { Vec::new() }; 4];
        for (builder, of_clean) in variants.iter().zip(&mut of_clean) {
            for_every_call(builder, &clean, None, |found, _| of_clean.push(found.clone()));
        }
        for (turn, position) in positions(classes).into_iter().enumerate() {
            for (kind, (name, poison)) in POISONS.into_iter().enumerate() {
                if classes > 5000 && (turn + kind) % 3 != 0 {
                    continue;
                }
                let mut batch = clean.clone();
                let row = (5 * turn + kind) % batch.rows;
                poison(batch.row_mut(row), position);
                if kind % 2 == 0 {
                    batch.targets[row] = position as i64;
                }
                // Over the positions, each kind meets each variant.
                let variant = (turn + kind) % variants.len();
                let ce = variants[variant].clone().build().expect("the options are valid");
                let expected = Expected::new(&ce, &batch, None);
                let mut of_clean = of_clean[variant].iter();
                for_every_call(&variants[variant], &batch, None, |found, context| {
                    let context = format!("{context}, {name} at {position} of row {row}, variant {variant}");
                    expected.check(found, &context);
                    let of_clean = of_clean.next().expect("there are as many calls");
                    for other in (0..batch.rows).filter(|&other| other != row) {
                        of_clean.row(other).assert_rows_equal(found, other..other + 1, &context);
                    }
                });
            }
        }
    }
}

#[test]
fn the_mean_over_ignored_rows_only_is_nan_and_its_gradient_0() {
    for classes in CLASS_COUNTS {
        for rows in [1, 3, 16, 20].into_iter().filter(|&rows| rows <= rows_for(classes)) {
            let mut batch = ordinary(rows, classes, 9);
            batch.targets.fill(IGNORE_INDEX);
            batch.logits[0] = f32::NAN;
            for builder in variants(classes) {
                for (reduction, is_nan) in [(Reduction::Mean, true), (Reduction::Sum, false)] {
                    for_every_call(&builder.clone().reduction(reduction), &batch, None, |found, context| {
                        assert_eq!(found.loss.is_nan(), is_nan, "{context}");
                        assert!(is_nan || found.loss == 0.0, "{context}");
                        assert_eq!((found.counted, found.correct, found.weight), (0, 0, 0.0), "{context}");
                        assert!(found.grad.iter().all(is_positive_zero), "{context}");
                        assert!(found.losses.iter().all(is_positive_zero), "{context}");
                    });
                }
            }
        }
    }
}

#[test]
fn the_mean_over_rows_of_weight_0_is_nan_and_its_gradient_0() {
    for classes in CLASS_COUNTS {
        let batch = ordinary(rows_for(classes), classes, 10);
        let builder = CrossEntropy::builder().weight(vec![0.0; classes]);
        for_every_call(&builder, &batch, None, |found, context| {
            assert!(found.loss.is_nan(), "{context}");
            assert_eq!((found.counted, found.weight), (batch.rows, 0.0), "{context}");
            assert!(found.grad.iter().all(is_positive_zero), "{context}");
        });
    }
}

#[test]
fn smoothing_with_a_masked_class_has_loss_inf() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        let [.., smoothed, both] = variants(classes);
        let nothing_else = CrossEntropy::builder().label_smoothing(1.0).reduction(Reduction::Sum);
        for (turn, position) in positions(classes).into_iter().enumerate() {
            let mut batch = ordinary(rows_for(classes), classes, 11);
            let row = turn % batch.rows;
            batch.row_mut(row)[position] = f32::NEG_INFINITY;
            if turn % 3 == 0 {
                batch.targets[row] = position as i64;
            }
            let builder = [&smoothed, &both, &nothing_else][turn % 3];
            let ce = builder.clone().build().expect("the options are valid");
            let expected = Expected::new(&ce, &batch, None);
            for_every_call(builder, &batch, None, |found, context| {
                let context = format!("{context}, column {position} of row {row} masked");
                expected.check(found, &context);
                assert_eq!(found.losses[row], f32::INFINITY, "{context}");
                assert_eq!(found.loss, f64::INFINITY, "{context}");
                assert!(found.grad.iter().all(|g| g.is_finite()), "{context}");
                let is_finite = |other: usize| other == row || found.losses[other].is_finite();
                assert!((0..batch.rows).all(is_finite), "{context}");
            });
        }
    }
}

#[test]
fn smoothing_with_a_masked_class_of_weight_0_has_a_finite_loss() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        for position in positions(classes) {
            let mut batch = ordinary(rows_for(classes), classes, 12);
            for row in 0..batch.rows {
                batch.row_mut(row)[position] = f32::NEG_INFINITY;
                if batch.targets[row] == position as i64 {
                    batch.targets[row] = ((position + 1) % classes) as i64;
                }
            }
            let mut weight = weights(classes);
            weight[position] = 0.0;
            let builder =
                CrossEntropy::builder().weight(weight).label_smoothing(0.2).reduction(Reduction::Sum);
            check_every_call(&builder, &batch, None, "a class of weight 0 masked");
        }
    }
}

#[test]
fn no_rows_have_sum_0_and_mean_nan() {
    for classes in CLASS_COUNTS.into_iter().chain([0]) {
        let batch = Batch { rows: 0, classes, logits: Vec::new(), targets: Vec::new() };
        for (reduction, is_nan) in [(Reduction::Mean, true), (Reduction::Sum, false)] {
            for builder in variants(classes) {
                for_every_call(&builder.reduction(reduction), &batch, None, |found, context| {
                    assert_eq!(found.loss.is_nan(), is_nan, "{context}");
                    assert!(is_nan || found.loss == 0.0, "{context}");
                    assert_eq!((found.counted, found.correct, found.weight), (0, 0, 0.0), "{context}");
                });
            }
        }
    }
}

/// Magnitudes from the smallest subnormal number on.
const MAGNITUDES: [f32; 15] =
    [1e-45, 3e-42, f32::MIN_POSITIVE, 1e-30, 1e-10, 1e-4, 0.5, 10.0, 80.0, 1e3, 1e6, 1e10, 1e20, 1e30, 1e37];

/// Magnitudes at which differences of logits, or their products with a weight, are too large for an `f32`.
const LARGEST_MAGNITUDES: [f32; 3] = [1e38, f32::MAX / 2.0, f32::MAX];

/// A row of each magnitude: of both signs, all positive, or at both ends with little between.
fn rows_of_magnitudes(magnitudes: &[f32], classes: usize, shape: usize) -> Batch {
    let mut random = Random::new(13);
    let mut batch = Batch { rows: 0, classes, logits: Vec::new(), targets: Vec::new() };
    for magnitude in magnitudes {
        batch.rows += 1;
        batch.targets.push(random.below(classes) as i64);
        batch.logits.extend((0..classes).map(|_| match shape {
            0 => magnitude * random.between(-1.0, 1.0),
            1 => magnitude * random.between(0.0, 1.0),
            _ => magnitude * (random.below(2) as f32 * 2.0 - 1.0),
        }));
    }
    batch
}

#[test]
fn logits_of_every_magnitude_keep_the_bounds() {
    for classes in CLASS_COUNTS {
        for shape in 0..if classes > 5000 { 1 } else { 3 } {
            let batch = rows_of_magnitudes(&MAGNITUDES, classes, shape);
            for builder in variants(classes) {
                check_every_call(&builder, &batch, None, "logits of every magnitude");
            }
            for row in 0..batch.rows {
                check_softmax_functions(Softmax::default(), batch.row(row), "logits of every magnitude");
            }
        }
    }
}

#[test]
fn differences_too_large_for_an_f32_keep_the_bounds() {
    for classes in CLASS_COUNTS {
        for shape in 0..if classes > 5000 { 1 } else { 3 } {
            let batch = rows_of_magnitudes(&LARGEST_MAGNITUDES, classes, shape);
            let [plain, weighted, ..] = variants(classes);
            for builder in [plain, weighted] {
                check_every_call(&builder, &batch, None, "logits of the largest magnitudes");
            }
            for row in 0..batch.rows {
                check_softmax_functions(
                    Softmax::default(),
                    batch.row(row),
                    "logits of the largest magnitudes",
                );
            }
        }
    }
}

#[test]
fn smoothing_over_differences_too_large_for_an_f32_keeps_the_bounds() {
    for classes in CLASS_COUNTS {
        for shape in 0..if classes > 5000 { 1 } else { 3 } {
            let batch = rows_of_magnitudes(&LARGEST_MAGNITUDES, classes, shape);
            let [.., smoothed, both] = variants(classes);
            for builder in [smoothed, both] {
                check_every_call(&builder, &batch, None, "logits of the largest magnitudes");
            }
        }
    }
}

#[test]
fn the_first_of_equal_logits_is_the_argmax() {
    for classes in CLASS_COUNTS {
        for value in [0.0, -0.0, 3.25, -1e30, 1e-45, f32::MAX] {
            let rows = rows_for(classes);
            let mut batch =
                Batch { rows, classes, logits: vec![value; rows * classes], targets: vec![0; rows] };
            for row in 0..rows {
                batch.targets[row] = (row * classes / rows) as i64;
                // Zeros of either sign are equal.
                if value == 0.0 && row % 2 == 0 {
                    batch.row_mut(row)[classes / 2] = -value;
                }
            }
            let [plain, .., both] = variants(classes);
            for builder in [plain, both] {
                let ce = builder.clone().build().expect("the options are valid");
                let expected = Expected::new(&ce, &batch, None);
                for_every_call(&builder, &batch, None, |found, context| {
                    expected.check(found, &format!("all {value}, {context}"));
                    assert!(found.argmax.iter().all(|&class| class == 0), "{context}");
                    let first = batch.targets.iter().filter(|&&target| target == 0).count();
                    assert_eq!(found.correct, first, "{context}");
                });
            }
        }
    }
}

#[test]
fn a_tie_between_two_classes_is_the_firsts() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        for pair in positions(classes).windows(2) {
            let mut batch = ordinary(2, classes, 14);
            for (row, &target) in pair.iter().enumerate() {
                batch.targets[row] = target as i64;
                for &leader in pair {
                    batch.row_mut(row)[leader] = 90.0;
                }
            }
            let builder = &variants(classes)[0];
            let ce = builder.clone().build().expect("the options are valid");
            let expected = Expected::new(&ce, &batch, None);
            for_every_call(builder, &batch, None, |found, context| {
                expected.check(found, context);
                assert_eq!(found.argmax, [pair[0]; 2], "{context}");
                assert_eq!(found.correct, 1, "{context}");
            });
        }
    }
}

/// Gaps of a confident row: to where the loss of the row is no normal `f32` any more, and far beyond.
fn confident_gaps() -> impl Iterator<Item = f32> {
    (0..440).map(|quarter| quarter as f32 / 4.0).chain([150.0, 300.0, 600.0])
}

#[test]
fn confident_rows_keep_their_loss_and_gradient() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        let builder = &variants(classes)[0];
        let gaps: Vec<f32> = confident_gaps().step_by(if classes > 100 { 40 } else { 1 }).collect();
        let rows = gaps.len();
        // The target leads; another class leads; two others do.
        for leaders in 0..3 {
            let mut batch =
                Batch { rows, classes, logits: vec![-3.5; rows * classes], targets: vec![0; rows] };
            for (row, gap) in gaps.iter().enumerate() {
                let target = row * 7 % classes;
                batch.targets[row] = target as i64;
                let leader = (target + leaders) % classes;
                batch.row_mut(row)[leader] += gap;
                if leaders == 2 {
                    batch.row_mut(row)[(leader + classes / 2) % classes] = -3.5 + gap;
                }
            }
            check_every_call(builder, &batch, None, "confident rows");
            // The reduced loss of a single row, which is not lost in a sum.
            for row in (0..rows).step_by(if classes > 100 { 3 } else { 21 }) {
                check_every_call(builder, &batch.select([row]), None, "a confident row");
            }
        }
    }
}

#[test]
fn a_gap_of_80_is_no_loss_of_0() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        let batch = Batch { rows: 1, classes, logits: vec![0.0; classes], targets: vec![1] };
        let mut batch = batch.clone();
        batch.logits[1] = 80.0;
        for_every_call(&variants(classes)[0], &batch, None, |found, context| {
            let exact = (classes - 1) as f64 * f64::exp(-80.0);
            assert!((found.loss / exact - 1.0).abs() < 1e-6, "{context}");
            assert!((f64::from(found.losses[0]) / exact - 1.0).abs() < 1e-6, "{context}");
            assert!((f64::from(found.grad[1]) / -exact - 1.0).abs() < 1e-6, "{context}");
        });
    }
}

/// Rows whose probabilities are the normal and subnormal numbers around the smallest normal one, and 0.
fn rows_around_the_smallest_normal(classes: usize) -> Batch {
    let rows = if classes > 5000 { 3 } else { 24 };
    let mut batch = Batch { rows, classes, logits: vec![0.0; rows * classes], targets: vec![0; rows] };
    let mut random = Random::new(15);
    for row in 0..rows {
        let leader = random.below(classes);
        let target = if row % 3 == 0 { leader } else { random.below(classes) };
        batch.targets[row] = target as i64;
        for x in batch.row_mut(row) {
            *x = match row % 2 {
                0 => random.between(-105.0, -80.0),
                _ => -87.336_54 + random.between(-1e-3, 1e-3),
            };
        }
        batch.row_mut(row)[leader] = 0.0;
    }
    batch
}

#[test]
fn no_subnormal_number_is_stored() {
    for classes in CLASS_COUNTS {
        let batch = rows_around_the_smallest_normal(classes);
        for upstream in [1.0, -1e-3, 1e-20, 3e-38, -1e-38, 1e-45, 1e3, 1e38] {
            let upstream = vec![upstream; batch.rows];
            for builder in variants(classes) {
                check_every_call(
                    &builder,
                    &batch,
                    Some(&upstream),
                    "probabilities around the smallest normal",
                );
            }
        }
        for tiny in [1e-3, 1e-20, 3e-38, 1e-38, 1e-45] {
            let weighted = CrossEntropy::builder().weight(vec![tiny; classes]).reduction(Reduction::Sum);
            check_every_call(&weighted, &batch, None, "tiny weights");
            check_every_call(&weighted.label_smoothing(0.5), &batch, None, "tiny weights and smoothing");
            let smoothed = CrossEntropy::builder().label_smoothing(tiny.into()).reduction(Reduction::Sum);
            check_every_call(&smoothed, &batch, None, "little smoothing");
        }
    }
}

/// Checks softmax and log-softmax of a row against the reference.
fn check_softmax_functions(softmax: Softmax, x: &[f32], context: &str) {
    let classes = x.len();
    for backend in backends() {
        for parallelism in PARALLELISMS {
            let softmax =
                softmax.backend(backend).expect("the backend is available").parallelism(parallelism);
            let context = format!("{classes} classes, {backend}, {parallelism:?}, {context}");
            let logits = Matrix::new(x, 1, classes).expect("the row is long enough");
            let mut p = vec![f32::NAN; classes];
            let mut log_p = vec![f32::NAN; classes];
            softmax
                .softmax(logits, MatrixMut::new(&mut p, 1, classes).expect("the row is long enough"))
                .expect("the shapes agree");
            softmax
                .log_softmax(logits, MatrixMut::new(&mut log_p, 1, classes).expect("the row is long enough"))
                .expect("the shapes agree");
            assert!(!p.iter().chain(&log_p).any(|p| p.is_subnormal()), "{context}");
            check_softmax(x, &p, &context);
            check_log_softmax(x, &log_p, &context);
        }
    }
}

#[test]
fn softmax_functions_keep_to_the_table() {
    for classes in CLASS_COUNTS {
        let clean = ordinary(1, classes, 16);
        for (turn, position) in positions(classes).into_iter().enumerate() {
            let (name, poison) = POISONS[turn % POISONS.len()];
            let mut x = clean.logits.clone();
            poison(&mut x, position);
            check_softmax_functions(Softmax::default(), &x, &format!("{name} at {position}"));
            let mut x = clean.logits.clone();
            x[position] = f32::NEG_INFINITY;
            check_softmax_functions(Softmax::default(), &x, &format!("column {position} masked"));
            x.fill(f32::NEG_INFINITY);
            x[position] = 2.5;
            check_softmax_functions(Softmax::default(), &x, &format!("all but column {position} masked"));
        }
        let batch = rows_around_the_smallest_normal(classes);
        for row in 0..batch.rows {
            check_softmax_functions(Softmax::default(), batch.row(row), "around the smallest normal");
        }
    }
}

/// Gaps so wide that the logarithm of the sum is no normal number.
#[test]
fn log_probabilities_of_confident_rows_are_never_subnormal() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        for (turn, quarter) in (320..460).step_by(if classes > 100 { 20 } else { 1 }).enumerate() {
            let mut x = vec![0.0; classes];
            let leader = turn * 5 % classes;
            x[leader] = quarter as f32 / 4.0;
            check_softmax_functions(
                Softmax::default(),
                &x,
                &format!("class {leader} leads by {}", x[leader]),
            );
            let target = (leader + turn % 2) % classes;
            let batch = Batch { rows: 1, classes, logits: x, targets: vec![target as i64] };
            check_every_call(&variants(classes)[0], &batch, None, "one class leads");
        }
    }
}

#[test]
fn softmax_backward_stores_no_subnormal_number_and_keeps_nan_to_its_row() {
    for classes in CLASS_COUNTS {
        let rows = 3;
        let mut random = Random::new(17);
        let mut p: Vec<f32> = (0..rows * classes).map(|_| 10_f32.powf(random.between(-37.9, 0.0))).collect();
        p[classes / 2] = 0.0;
        let mut upstream: Vec<f32> =
            (0..rows * classes).map(|_| random.normal() * 10_f32.powf(random.between(-37.0, 0.0))).collect();
        upstream[classes + classes / 2] = f32::NAN;
        let log_p: Vec<f32> = p.iter().map(|p| p.ln()).collect();
        for backend in backends() {
            for parallelism in PARALLELISMS {
                let softmax = Softmax::default().backend(backend).expect("the backend is available");
                let softmax = softmax.parallelism(parallelism);
                let context = format!("{classes} classes, {backend}, {parallelism:?}");
                let matrix = |x| Matrix::new(x, rows, classes).expect("the slice is long enough");
                let mut results = [(); 2].map(|()| vec![0.0; rows * classes]);
                for (kind, result) in results.iter_mut().enumerate() {
                    let grad = MatrixMut::new(result, rows, classes).expect("the slice is long enough");
                    match kind {
                        0 => softmax.softmax_backward(matrix(&p), matrix(&upstream), grad),
                        _ => softmax.log_softmax_backward(matrix(&log_p), matrix(&upstream), grad),
                    }
                    .expect("the shapes agree");
                }
                for (result, name) in results.iter().zip(["softmax_backward", "log_softmax_backward"]) {
                    let subnormal = result.iter().position(|x| x.is_subnormal());
                    assert_eq!(subnormal.map(|at| result[at]), None, "{name}, {context}");
                    for (row, result) in result.chunks(classes).enumerate() {
                        assert_eq!(
                            result.iter().any(|x| x.is_nan()),
                            row == 1,
                            "{name}, row {row}, {context}"
                        );
                    }
                }
            }
        }
    }
}

/// Nothing but the loss was asked for: no pass that writes could have found what is wrong with the row.
#[test]
fn the_loss_alone_keeps_to_the_table() {
    for classes in CLASS_COUNTS.into_iter().filter(|&classes| classes > 1) {
        for (turn, position) in positions(classes).into_iter().enumerate() {
            let (name, poison) = POISONS[turn % POISONS.len()];
            let mut poisoned = ordinary(rows_for(classes), classes, 18);
            let row = turn % poisoned.rows;
            let mut masked = poisoned.clone();
            poison(poisoned.row_mut(row), position);
            masked.row_mut(row)[position] = f32::NEG_INFINITY;
            masked.targets[row] = position as i64;
            for backend in backends() {
                for parallelism in PARALLELISMS {
                    let builder = variants(classes)[turn % 4].clone();
                    let ce = builder.backend(backend).parallelism(parallelism);
                    let ce = ce.build().expect("the backend is available");
                    let context = format!("{classes} classes, {backend}, {parallelism:?}, row {row}, {name}");
                    let loss_of = |batch: &Batch| {
                        let logits = Matrix::new(&batch.logits, batch.rows, classes);
                        let logits = logits.expect("the slice is long enough");
                        let mut losses = vec![0.0; batch.rows];
                        let request = Request::new().losses(&mut losses);
                        let loss = ce.run(logits, &batch.targets, request).expect("the batch is valid").loss;
                        (loss, losses[row])
                    };
                    let (loss, row_loss) = loss_of(&poisoned);
                    assert!(
                        loss.is_nan() && row_loss.is_nan(),
                        "{loss}, {row_loss}, {context} at {position}"
                    );
                    assert_eq!(
                        loss_of(&masked),
                        (f64::INFINITY, f32::INFINITY),
                        "{context}, target {position} masked"
                    );
                }
            }
        }
    }
}

/// Rows whose maximum rises with every block, falls, or comes last: each block's exponentials are relative to another
/// maximum. The longest rows have more blocks than the kernel remembers maxima of.
#[test]
fn maxima_that_rise_from_block_to_block_keep_the_bounds() {
    for classes in [5_000, 100_000, 600_000] {
        let ramp = |rise: f32| (0..classes).map(move |class| rise * class as f32 / classes as f32);
        let mut logits: Vec<f32> = ramp(20.0).chain(ramp(-20.0)).chain(ramp(300.0)).collect();
        logits.extend((0..classes).map(|class| if class == classes - 1 { 150.0 } else { 0.25 }));
        logits.extend((0..classes).map(|class| if class == 0 { 150.0 } else { -0.25 }));
        // Masked up to the last block.
        logits.extend(ramp(5.0).map(|x| if x < 4.0 { f32::NEG_INFINITY } else { x }));
        let last = classes as i64 - 1;
        for targets in [[0, last, last / 2, last, 0, last], [last, 0, last, 0, last, last - 1]] {
            let batch =
                Batch { rows: targets.len(), classes, logits: logits.clone(), targets: targets.to_vec() };
            for builder in [CrossEntropy::builder(), CrossEntropy::builder().weight(weights(classes))] {
                let ce = builder.clone().build().expect("the options are valid");
                let expected = Expected::new(&ce, &batch, None);
                for backend in backends() {
                    for parallelism in PARALLELISMS {
                        let context = format!("{classes} classes, {targets:?}, {backend}, {parallelism:?}");
                        let ce = builder.clone().backend(backend).parallelism(parallelism).build();
                        let ce = ce.expect("the backend is available");
                        let found = Call::default().evaluate(&ce, &batch);
                        expected.check(&found, &context);

                        // The gradient alone keeps its exponentials, in place and not.
                        let (mut x, mut grad) = (batch.logits.clone(), vec![f32::NAN; batch.logits.len()]);
                        let rows = batch.rows;
                        let grad_view = MatrixMut::new(&mut grad, rows, classes).expect("the shape fits");
                        let logits = Matrix::new(&batch.logits, rows, classes).expect("the shape fits");
                        let request = Request::new().grad(grad_view);
                        let summary = ce.run(logits, &batch.targets, request).expect("the batch is valid");
                        assert_eq!(summary.correct, found.correct, "{context}");
                        assert_same_bits("grad", classes, &grad, &found.grad, &context);
                        let in_place = MatrixMut::new(&mut x, rows, classes).expect("the shape fits");
                        let summary = ce.run_in_place(in_place, &batch.targets, Request::new());
                        assert_eq!(summary.expect("the batch is valid").correct, found.correct, "{context}");
                        assert_same_bits("grad in place", classes, &x, &found.grad, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn the_smallest_normal_probability_is_not_0() {
    for classes in [2, 100, 3000] {
        let rows = 33;
        let mut batch =
            Batch { rows, classes, logits: vec![f32::NEG_INFINITY; rows * classes], targets: vec![0; rows] };
        for row in 0..rows {
            // About -ln(f32::MIN_POSITIVE), one number after the other.
            let gap = f32::from_bits(87.336_54_f32.to_bits() - 16 + row as u32);
            batch.logits[row * classes] = 0.0;
            batch.logits[row * classes + classes - 1] = -gap;
        }
        check_every_call(&CrossEntropy::builder().reduction(Reduction::Sum), &batch, None, "at the smallest");
    }
}
