//! Properties of the loss, for batches that proptest makes up.

use crate::support::backends;
use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::Expected;
use crate::support::evaluation::Evaluation;
use core::ops::Range;
use proptest::prelude::*;
use std::sync::LazyLock;
use xent::contract::{PROBABILITY, TARGET_GRADIENT, U};
use xent::{CrossEntropy, CrossEntropyBuilder, Parallelism, Reduction, reference};

/// Logits are multiples of this, below 16: differences are exact, and so is every shift by an integer up to 1024.
const GRID: f32 = 1.0 / 1024.0;
const LARGEST_LOGIT: i32 = 16 * 1024;
const LARGEST_SHIFT: i32 = 1024;

const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// Class counts for every kernel, small ones most often.
fn class_counts() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1_usize..=20, 4 => 21_usize..=130, 1 => 2040_usize..=2056]
}

/// Logits on the grid, near each other or not; targets, some of them ignored.
fn batches() -> impl Strategy<Value = Batch> {
    class_counts().prop_flat_map(|classes| {
        let rows: usize = if classes > 130 { 3 } else { 40 };
        (1..=rows).prop_flat_map(move |rows| {
            let target = prop_oneof![6 => 0..classes as i64, 1 => Just(IGNORE_INDEX)];
            let targets = prop::collection::vec(target, rows);
            let spread = prop_oneof![Just(3), Just(2000), Just(LARGEST_LOGIT)];
            let logits = spread.prop_flat_map(move |spread| {
                prop::collection::vec((-spread..=spread).prop_map(|k| k as f32 * GRID), rows * classes)
            });
            (logits, targets).prop_map(move |(logits, targets)| Batch { rows, classes, logits, targets })
        })
    })
}

/// Options by number, so that failures shrink to the plain ones.
fn options() -> impl Strategy<Value = usize> {
    0_usize..4
}

fn builder(options: usize, classes: usize) -> CrossEntropyBuilder {
    let mut random = Random::new(classes as u64);
    let weight: Vec<f32> = (0..classes).map(|_| random.below(8) as f32 / 4.0).collect();
    let builder = CrossEntropy::builder().reduction(Reduction::Sum);
    match options {
        0 => builder,
        1 => builder.label_smoothing(0.2),
        2 => builder.weight(weight),
        _ => builder.weight(weight).label_smoothing(0.2),
    }
}

/// The loss with some options on every backend.
fn on_every_backend(builder: &CrossEntropyBuilder) -> Vec<CrossEntropy> {
    let build = |backend| builder.clone().backend(backend).build().expect("the backend is available");
    backends().into_iter().map(build).collect()
}

/// Failing input is printed; there is no file of it beside integration tests.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Pools of 1 to 4 threads.
static POOLS: LazyLock<Vec<rayon::ThreadPool>> = LazyLock::new(|| {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    (1..=4).map(|threads| pool(threads).expect("threads can be started")).collect()
});

fn rows_that_count(batch: &Batch) -> impl Iterator<Item = usize> {
    (0..batch.rows).filter(|&row| batch.targets[row] != IGNORE_INDEX)
}

fn columns(batch: &Batch, row: usize) -> Range<usize> {
    row * batch.classes..(row + 1) * batch.classes
}

/// A row's softmax and the contract's gaps below its maximum: D, and |d_i|.
fn exact_softmax(x: &[f32]) -> (reference::SoftmaxRow, f64, Vec<f64>) {
    let softmax = reference::softmax_row(x);
    let max = x.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
    let gaps: Vec<f64> = x.iter().map(|&x| max - f64::from(x)).collect();
    let mean_gap = softmax.probabilities.iter().zip(&gaps).map(|(p, gap)| p * gap).sum();
    (softmax, mean_gap, gaps)
}

proptest! {
    #![proptest_config(cases(600))]

    /// Bit for bit, because the differences to the maximum are.
    #[test]
    fn shifting_the_logits_of_a_row_changes_nothing_but_its_lse(
        batch in batches(),
        options in options(),
        shifts in prop::collection::vec(-LARGEST_SHIFT..=LARGEST_SHIFT, 40),
    ) {
        let mut shifted = batch.clone();
        for row in 0..batch.rows {
            for x in shifted.row_mut(row) {
                *x += shifts[row] as f32;
            }
        }
        for ce in on_every_backend(&builder(options, batch.classes)) {
            let mut expected = Evaluation::of(&ce, &batch);
            let mut found = Evaluation::of(&ce, &shifted);
            // The lse moves along, as the check against the reference sees.
            Expected::new(&ce, &shifted, None).check(&found, "shifted");
            expected.lse.fill(0.0);
            found.lse.fill(0.0);
            found.assert_equal(&expected, &format!("shifted, {}", ce.backend()));
        }
    }

    /// Within the bounds: the order of a sum is that of the classes.
    #[test]
    fn permuting_the_classes_permutes_the_outputs(batch in batches(), options in options(), seed: u64) {
        let classes = batch.classes;
        let mut random = Random::new(seed);
        // Class `to` of the permuted batch is class `order[to]` of the batch.
        let mut order: Vec<usize> = (0..classes).collect();
        for i in (1..classes).rev() {
            order.swap(i, random.below(i + 1));
        }
        let mut permuted = batch.clone();
        for row in 0..batch.rows {
            for (to, &from) in order.iter().enumerate() {
                permuted.row_mut(row)[to] = batch.row(row)[from];
            }
            if batch.targets[row] != IGNORE_INDEX {
                let to = order.iter().position(|&from| from as i64 == batch.targets[row]);
                permuted.targets[row] = to.expect("every class is somewhere") as i64;
            }
        }
        let builder = builder(options, classes);
        let ce = builder.clone().build().expect("the options are valid");
        let expected = Expected::new(&ce, &batch, None);
        let permuted_builder = match ce.weight() {
            None => builder,
            Some(weight) => builder.weight(order.iter().map(|&from| weight[from]).collect::<Vec<_>>()),
        };
        for ce in on_every_backend(&permuted_builder) {
            let found = Evaluation::of(&ce, &permuted);
            let mut back = found.clone();
            back.correct = 0;
            for row in 0..batch.rows {
                let start = row * classes;
                for (to, &from) in order.iter().enumerate() {
                    back.grad[start + from] = found.grad[start + to];
                    back.probabilities[start + from] = found.probabilities[start + to];
                    back.log_probabilities[start + from] = found.log_probabilities[start + to];
                }
                // Of equally large logits, another may be the first now.
                if batch.targets[row] != IGNORE_INDEX {
                    let largest = batch.row(row)[order[found.argmax[row]]];
                    let first = batch.row(row).iter().position(|&x| x == largest);
                    back.argmax[row] = first.expect("the logit is of this row");
                    back.correct += usize::from(back.argmax[row] as i64 == batch.targets[row]);
                    // And others may come first.
                    let rank = reference::rank(permuted.row(row), permuted.targets[row] as usize);
                    assert_eq!(found.target_ranks[row], rank, "rank, row {row}, permuted");
                    back.target_ranks[row] = reference::rank(batch.row(row), batch.targets[row] as usize);
                }
            }
            expected.check(&back, &format!("permuted, {}", ce.backend()));
        }
    }

    /// Exactly, it would: softmax does not change when all logits rise alike. Each element errs by its own bound, and
    /// what is below the normal numbers is 0.
    #[test]
    fn gradient_rows_sum_to_0_within_the_sum_of_the_bounds(batch in batches(), options in options()) {
        for ce in on_every_backend(&builder(options, batch.classes)) {
            let found = Evaluation::of(&ce, &batch);
            let classes = batch.classes as f64;
            let weight = |class: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[class]));
            let total: f64 = (0..batch.classes).map(weight).sum();
            for row in rows_that_count(&batch) {
                let (softmax, mean_gap, gaps) = exact_softmax(batch.row(row));
                let target = batch.targets[row] as usize;
                let (hard, smooth) =
                    ((1.0 - ce.label_smoothing()) * weight(target), ce.label_smoothing() / classes);
                let q = softmax.complements[target];
                // D', times q.
                let others_gap = mean_gap - softmax.probabilities[target] * gaps[target];
                let mut bound = classes * SMALLEST;
                for (class, &p) in softmax.probabilities.iter().enumerate() {
                    let own = smooth * weight(class);
                    bound += U * if class == target {
                        let others_mean_gap = if q == 0.0 { 0.0 } else { others_gap / q };
                        (others_mean_gap + TARGET_GRADIENT) * ((smooth * total - own) * p + (own + hard) * q)
                    } else {
                        (gaps[class] + mean_gap + PROBABILITY) * ((hard + smooth * total) * p + own)
                    };
                }
                let sum: f64 = found.grad[columns(&batch, row)].iter().map(|&g| f64::from(g)).sum();
                let share = sum.abs() / bound;
                prop_assert!(share <= 1.0, "{sum:e}, {share} of the bound, row {row}, {}", ce.backend());
            }
        }
    }

    /// Each errs by (|d_i| + D + 4) u of itself; sum_i p_i |d_i| is D, so the sum errs by (2 D + 4) u.
    #[test]
    fn probabilities_lie_in_0_to_1_and_sum_to_1_within_the_bound(batch in batches()) {
        for ce in on_every_backend(&builder(0, batch.classes)) {
            let found = Evaluation::of(&ce, &batch);
            for row in rows_that_count(&batch) {
                let p = &found.probabilities[columns(&batch, row)];
                prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)), "row {row}, {}", ce.backend());
                let log_p = &found.log_probabilities[columns(&batch, row)];
                prop_assert!(log_p.iter().all(|&log_p| log_p <= 0.0), "row {row}, {}", ce.backend());
                let (_, mean_gap, _) = exact_softmax(batch.row(row));
                let bound = (2.0 * mean_gap + PROBABILITY) * U + batch.classes as f64 * SMALLEST;
                let error = (p.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs();
                prop_assert!(error <= bound, "{} of the bound, row {row}, {}", error / bound, ce.backend());
            }
        }
    }

    #[test]
    fn losses_are_never_negative(batch in batches(), options in options()) {
        for ce in on_every_backend(&builder(options, batch.classes)) {
            let found = Evaluation::of(&ce, &batch);
            prop_assert!(found.losses.iter().all(|loss| loss.is_sign_positive() && loss.is_finite()));
            prop_assert!(found.loss >= 0.0);
            let sum: f64 = found.losses.iter().map(|&loss| f64::from(loss)).sum();
            // The rows' losses are rounded to f32, those in the sum are not.
            prop_assert!((found.loss - sum).abs() <= U * sum + batch.rows as f64 * SMALLEST);
        }
    }

    /// Away from the target the gradient of the plain loss is a probability, at the target it is a probability minus 1.
    #[test]
    fn gradients_of_the_plain_loss_lie_in_minus_1_to_1(batch in batches()) {
        for ce in on_every_backend(&builder(0, batch.classes)) {
            let found = Evaluation::of(&ce, &batch);
            for row in rows_that_count(&batch) {
                for (class, g) in found.grad[columns(&batch, row)].iter().enumerate() {
                    let range = if class as i64 == batch.targets[row] { -1.0..=0.0 } else { 0.0..=1.0 };
                    prop_assert!(range.contains(g), "{g} at class {class} of row {row}, {}", ce.backend());
                }
            }
        }
    }

    #[test]
    fn every_output_keeps_its_bound(batch in batches(), options in options()) {
        for ce in on_every_backend(&builder(options, batch.classes)) {
            let context = ce.backend().to_string();
            Expected::new(&ce, &batch, None).check(&Evaluation::of(&ce, &batch), &context);
        }
    }

    #[test]
    fn splitting_the_batch_changes_no_bit_of_a_row(
        batch in batches(),
        options in options(),
        at: prop::sample::Index,
    ) {
        let middle = at.index(batch.rows + 1);
        for ce in on_every_backend(&builder(options, batch.classes)) {
            let whole = Evaluation::of(&ce, &batch);
            for part in [0..middle, middle..batch.rows] {
                let context = format!("rows {part:?}, {}", ce.backend());
                let found = Evaluation::of(&ce, &batch.select(part.clone()));
                found.assert_rows_equal(&whole, part, &context);
            }
        }
    }

    #[test]
    fn ignoring_rows_is_leaving_them_out(batch in batches(), options in options()) {
        let counting: Vec<usize> = rows_that_count(&batch).collect();
        for ce in on_every_backend(&builder(options, batch.classes)) {
            let whole = Evaluation::of(&ce, &batch);
            let without = Evaluation::of(&ce, &batch.select(counting.iter().copied()));
            for (at, &row) in counting.iter().enumerate() {
                let found = Evaluation::of(&ce, &batch.select([row]));
                found.assert_rows_equal(&whole, row..row + 1, "among ignored rows");
                found.assert_rows_equal(&without, at..at + 1, "without ignored rows");
            }
            prop_assert_eq!((whole.counted, whole.correct), (without.counted, without.correct));
            // The tree of the sum has another shape.
            let bound = batch.rows as f64 * f64::EPSILON;
            prop_assert!((whole.loss - without.loss).abs() <= bound * without.loss);
            prop_assert!((whole.weight - without.weight).abs() <= bound * without.weight);
        }
    }
}

proptest! {
    #![proptest_config(cases(40))]

    /// Batches that are several pieces of work, or whose rows are.
    #[test]
    fn the_number_of_threads_changes_no_bit(
        classes in prop_oneof![1_usize..=70, 100_usize..=3000, 65_000_usize..=140_000],
        elements in 1_usize..400_000,
        seed: u64,
        options in options(),
    ) {
        let rows = (elements / classes).clamp(1, 20_000);
        let batch = Batch::random(rows, classes, seed);
        let builder = builder(options, classes);
        for ce in on_every_backend(&builder) {
            let serial = builder.clone().backend(ce.backend()).parallelism(Parallelism::Serial).build();
            let expected = Evaluation::of(&serial.expect("the backend is available"), &batch);
            for pool in POOLS.iter() {
                let found = pool.install(|| Evaluation::of(&ce, &batch));
                let context = format!("{rows} x {classes}, {} threads", pool.current_num_threads());
                found.assert_equal(&expected, &context);
            }
        }
    }
}
