//! Rows of `f64` of every kind that a bound may depend on.

use super::batch::Random;
use super::doubles::{Doubles, ExactRow};

/// How many kinds of rows there are.
pub const KINDS: usize = 13;

/// A row of some kind, and its target.
fn row_of_kind(kind: usize, classes: usize, random: &mut Random) -> (Vec<f64>, usize) {
    let target = random.below(classes);
    let other = random.below(classes);
    let mut unit = || (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut normal = |scale: f64| scale * ((0..12).map(|_| unit()).sum::<f64>() - 6.0);
    let mut x: Vec<f64> = match kind {
        0 | 5 | 6 => (0..classes).map(|_| normal(1.0)).collect(),
        1 => (0..classes).map(|_| normal(10.0)).collect(),
        2 => (0..classes).map(|_| normal(300.0)).collect(),
        3 => (0..classes).map(|_| 1000.0 + normal(3.0)).collect(),
        // Where exponentials themselves overflow.
        4 => (0..classes).map(|_| 720.0 + normal(5.0)).collect(),
        7 => vec![3.25; classes],
        8 | 9 => (0..classes).map(|_| normal(1.0)).collect(),
        10 => (0..classes).map(|_| normal(0.1) * 1e-3).collect(),
        11 => (0..classes).map(|i| -(1500.0 / classes as f64) * i as f64).collect(),
        _ => (0..classes).map(|_| f64::from(unit() < 0.5)).collect(),
    };
    match kind {
        // The target leads, or another class.
        5 => x[target] = 20.0 + 680.0 * unit(),
        6 => x[other] = 20.0 + 680.0 * unit(),
        // Half of them masked.
        8 => {
            for (i, x) in x.iter_mut().enumerate() {
                if i != target && unit() < 0.5 {
                    *x = f64::NEG_INFINITY;
                }
            }
        }
        // Log-probabilities: the lse is about 0.
        9 => {
            x[target] = 30.0;
            x = ExactRow::new(&x).log_probabilities.iter().map(|x| x.to_f64()).collect();
        }
        _ => {}
    }
    (x, target)
}

/// A row of each.
pub fn batch_of_all_kinds(classes: usize, seed: u64) -> Doubles {
    let mut random = Random::new(seed);
    let mut batch = Doubles { rows: KINDS, classes, logits: Vec::new(), targets: Vec::new() };
    for kind in 0..KINDS {
        let (x, target) = row_of_kind(kind, classes, &mut random);
        batch.logits.extend(x);
        batch.targets.push(target as i64);
    }
    batch
}
