//! Batches and rows of more than 2^31 elements: no index is of 32 bits.
//!
//! They need up to 9 GB of memory and a minute, so they run when they are asked for:
//! `cargo test --release --test huge -- --ignored --test-threads 1`

use xent::contract::{LOSS, PROBABILITY, TARGET_GRADIENT, U};
use xent::{CrossEntropy, Element, Matrix, MatrixMut, Reduction, Request};

/// More than an `i32` counts.
const MANY: usize = (1 << 31) + 4113;

/// Logits repeat with this period: 0, -1, ... -7.
const PERIOD: usize = 8;

/// They are exact in every dtype.
fn fill<T: Copy>(x: &mut [T], number: fn(f32) -> T) {
    let numbers: [T; PERIOD] = core::array::from_fn(|i| number(-(i as f32)));
    for (i, x) in x.iter_mut().enumerate() {
        *x = numbers[i % PERIOD];
    }
}

/// The sum of exponentials of so many logits that begin with 0.
fn sum(len: usize) -> f64 {
    let count = |i: usize| (len + PERIOD - 1 - i) / PERIOD;
    (0..PERIOD).map(|i| count(i) as f64 * (-(i as f64)).exp()).sum()
}

/// What each logit has of it.
fn probabilities(sum: f64) -> [f64; PERIOD] {
    core::array::from_fn(|i| (-(i as f64)).exp() / sum)
}

fn assert_close(found: f64, exact: f64, bound: f64, name: &str) {
    let error = (found - exact).abs();
    assert!(error <= bound * exact.abs(), "{name}: {found:e} instead of {exact:e}");
}

/// D is at most this: sum p |d| of the logits above.
const MEAN_GAP: f64 = 0.6;

/// One row, whose target is its last class.
fn check_row<T: Element<PerRow = f32> + PartialEq>(
    mut x: Vec<T>,
    number: fn(f32) -> T,
    to_f64: fn(T) -> f64,
    unit: f64,
) {
    fill(&mut x, number);
    let (classes, sum) = (x.len(), sum(x.len()));
    let target = classes - 1;
    let gap = (target % PERIOD) as f64;
    let ce = CrossEntropy::builder().reduction(Reduction::Sum).build().expect("the options are valid");
    let mut rank = [0];
    let request = Request::new().target_ranks(&mut rank);
    let logits = Matrix::new(&x, 1, classes).expect("it fits");
    let loss = ce.run(logits, &[target], request).expect("the batch is valid").loss;
    assert_close(loss, sum.ln() + gap, (MEAN_GAP + LOSS) * U, "loss");
    // The target is the last: those with larger logits, and all others with an equal one.
    let before = x[..target].iter().filter(|&&x| to_f64(x) >= -gap).count();
    assert_eq!(rank[0], before, "rank");

    let logits = MatrixMut::new(&mut x, 1, classes).expect("it fits");
    let in_place = ce.loss_and_grad_in_place(logits, &[target]).expect("the batch is valid");
    assert_eq!(in_place.to_bits(), loss.to_bits());
    let p = probabilities(sum);
    for (i, &g) in x[..target].iter().enumerate() {
        let (gap, exact) = ((i % PERIOD) as f64, p[i % PERIOD]);
        let bound = (gap + MEAN_GAP + PROBABILITY) * U + unit;
        let error = (to_f64(g) - exact).abs();
        assert!(error <= bound * exact, "gradient at {i}: {:e} instead of {exact:e}", to_f64(g));
    }
    let others = sum - (-gap).exp();
    assert_close(
        to_f64(x[target]),
        -others / sum,
        (MEAN_GAP + TARGET_GRADIENT) * U + unit,
        "gradient at the target",
    );
}

#[test]
#[ignore = "8.6 GB"]
fn a_row_of_more_than_2_to_the_31_f32() {
    check_row::<f32>(vec![0.0; MANY], |x| x, f64::from, 0.0);
}

#[cfg(feature = "half")]
#[test]
#[ignore = "4.3 GB"]
fn a_row_of_more_than_2_to_the_31_bf16() {
    use half::bf16;
    check_row(vec![bf16::ZERO; MANY], bf16::from_f32, bf16::to_f64, xent::contract::U_BF16);
}

/// Rows behind the 2^31st element, in place.
#[test]
#[ignore = "8.6 GB"]
fn rows_behind_2_to_the_31_elements() {
    const CLASSES: usize = 1000;
    let rows = MANY / CLASSES + 1;
    let mut x = vec![0.0_f32; rows * CLASSES];
    for row in x.chunks_mut(CLASSES) {
        fill(row, |x| x);
    }
    let targets: Vec<u16> = (0..rows).map(|row| (row % CLASSES) as u16).collect();
    let sum = sum(CLASSES);
    let gaps: f64 = targets.iter().map(|&target| (usize::from(target) % PERIOD) as f64).sum();
    let logits = MatrixMut::new(&mut x, rows, CLASSES).expect("it fits");
    let loss = CrossEntropy::default().loss_and_grad_in_place(logits, &targets).expect("the batch is valid");
    assert_close(loss, sum.ln() + gaps / rows as f64, (MEAN_GAP + LOSS + 1.0) * U, "loss");
    let p = probabilities(sum);
    for (row, x) in x.chunks(CLASSES).enumerate() {
        let target = usize::from(targets[row]);
        for (i, &g) in x.iter().enumerate() {
            let gap = (i % PERIOD) as f64;
            let exact = if i == target { p[i % PERIOD] - 1.0 } else { p[i % PERIOD] } / rows as f64;
            let bound = (gap + MEAN_GAP + TARGET_GRADIENT) * U;
            let error = (f64::from(g) - exact).abs();
            assert!(error <= bound * exact.abs(), "row {row}, column {i}: {g:e} instead of {exact:e}");
        }
    }
}
