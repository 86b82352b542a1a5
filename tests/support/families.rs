//! Families of extreme rows: what breaks a softmax that is written as its formula stands.
//!
//! A row depends on its family, its number of classes and its seed, and on no platform's mathematical functions: the same
//! call makes the same row everywhere.

use super::batch::{Batch, Random};
use core::fmt;

/// Logits and a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub logits: Vec<f32>,
    pub target: usize,
}

/// Rows that are extreme in one way.
pub struct Family {
    pub name: &'static str,
    row: fn(usize, &mut Random) -> Row,
}

/// Add a family here.
pub const FAMILIES: [Family; 19] = [
    Family { name: "gap of 0 to 1e38", row: any_gap },
    Family { name: "gap of 0 to 100", row: gap_to_100 },
    Family { name: "exact gap", row: exact_gap },
    Family { name: "all equal", row: all_equal },
    Family { name: "one dominates", row: one_dominates },
    Family { name: "ties at the maximum", row: ties },
    Family { name: "U(90, 100)", row: |classes, random| uniform(classes, random, 90.0, 100.0) },
    Family { name: "U(-150, 190)", row: |classes, random| uniform(classes, random, -150.0, 190.0) },
    Family { name: "U(-200, 0)", row: |classes, random| uniform(classes, random, -200.0, 0.0) },
    Family { name: "offset", row: offset },
    Family { name: "every magnitude", row: every_magnitude },
    Family { name: "masked", row: masked },
    Family { name: "sorted", row: sorted },
    Family { name: "alternating sign", row: alternating_sign },
    Family { name: "subnormals", row: subnormals },
    Family { name: "zeros of both signs", row: zeros },
    Family { name: "smallest normal result", row: smallest_normal_result },
    Family { name: "maxima that rise", row: rising_maxima },
    Family { name: "any bits", row: any_bits },
];

/// The family of this name.
pub fn family(name: &str) -> &'static Family {
    FAMILIES.iter().find(|family| family.name == name).expect("there is such a family")
}

impl Family {
    pub fn row(&self, classes: usize, seed: u64) -> Row {
        (self.row)(classes, &mut Random::new(seed))
    }

    /// Rows of consecutive seeds.
    pub fn batch(&self, rows: usize, classes: usize, seed: u64) -> Batch {
        let mut batch =
            Batch { rows, classes, logits: Vec::with_capacity(rows * classes), targets: Vec::new() };
        for row in 0..rows as u64 {
            let row = self.row(classes, seed.wrapping_add(row));
            batch.logits.extend(row.logits);
            batch.targets.push(row.target as i64);
        }
        batch
    }
}

impl Row {
    pub fn batch(&self) -> Batch {
        Batch {
            rows: 1,
            classes: self.logits.len(),
            logits: self.logits.clone(),
            targets: vec![self.target as i64],
        }
    }
}

/// As the source code that makes it.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row {{ logits: vec![")?;
        for (i, x) in self.logits.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match *x {
                f32::NEG_INFINITY => write!(f, "{comma}f32::NEG_INFINITY")?,
                // The shortest that reads back as the same number.
                x => write!(f, "{comma}{x:?}")?,
            }
        }
        write!(f, "], target: {} }}", self.target)
    }
}

/// A number of any magnitude below infinity, subnormal ones among them: its logarithm is about uniform.
fn magnitude(random: &mut Random) -> f32 {
    f32::from_bits(random.below(f32::INFINITY.to_bits() as usize) as u32)
}

fn sign(random: &mut Random) -> f32 {
    if random.below(2) == 0 { 1.0 } else { -1.0 }
}

fn row_of(classes: usize, random: &mut Random, mut logit: impl FnMut(usize, &mut Random) -> f32) -> Row {
    let target = random.below(classes);
    Row { logits: (0..classes).map(|class| logit(class, random)).collect(), target }
}

/// The target or another class, as likely.
fn leader(row: &Row, random: &mut Random) -> usize {
    if random.below(2) == 0 { row.target } else { random.below(row.logits.len()) }
}

fn any_gap(classes: usize, random: &mut Random) -> Row {
    let gap = if random.below(8) == 0 { 0.0 } else { magnitude(random).min(1e38) };
    // It leads, or it trails.
    let gap = sign(random) * gap;
    let others = if random.below(2) == 0 { 0.0 } else { random.normal() };
    let mut row = row_of(classes, random, |_, _| others);
    let target = row.target;
    row.logits[target] += gap;
    row
}

fn gap_to_100(classes: usize, random: &mut Random) -> Row {
    let gap = sign(random) * random.between(0.0, 100.0);
    let mut row = row_of(classes, random, |_, random| random.normal());
    let leader = leader(&row, random);
    row.logits[leader] = gap;
    row
}

/// Multiples of 1/4, whose differences are exact.
fn exact_gap(classes: usize, random: &mut Random) -> Row {
    let gap = random.below(345) as f32 / 4.0;
    let mut row = row_of(classes, random, |_, _| -1.5);
    let leader = leader(&row, random);
    row.logits[leader] += gap;
    row
}

fn all_equal(classes: usize, random: &mut Random) -> Row {
    let value = sign(random) * magnitude(random);
    row_of(classes, random, |_, _| value)
}

fn one_dominates(classes: usize, random: &mut Random) -> Row {
    let scale = random.between(0.0, 3.0);
    let lead = random.between(10.0, 120.0);
    let mut row = row_of(classes, random, |_, random| scale * random.normal());
    let leader = leader(&row, random);
    row.logits[leader] = lead;
    row
}

fn ties(classes: usize, random: &mut Random) -> Row {
    let max = sign(random) * random.between(0.0, 1000.0);
    let one_in = 1 + random.below(classes);
    row_of(
        classes,
        random,
        |_, random| {
            if random.below(one_in) == 0 { max } else { max - random.between(0.0, 30.0) }
        },
    )
}

fn uniform(classes: usize, random: &mut Random, low: f32, high: f32) -> Row {
    row_of(classes, random, |_, random| random.between(low, high))
}

/// Far from 0, where neighbouring numbers are far from each other.
fn offset(classes: usize, random: &mut Random) -> Row {
    let offset = sign(random) * [1e3, 1e5, 1e7, 1e9][random.below(4)];
    let scale = random.between(0.0, 40.0);
    row_of(classes, random, |_, random| offset + scale * random.normal())
}

fn every_magnitude(classes: usize, random: &mut Random) -> Row {
    row_of(classes, random, |_, random| sign(random) * magnitude(random))
}

/// From one class of a hundred to all but one. Seldom, the target's logit is masked too.
fn masked(classes: usize, random: &mut Random) -> Row {
    let percent = [1, 10, 50, 90, 99, 100][random.below(6)];
    let scale = random.between(0.0, 30.0);
    let mut row = row_of(classes, random, |_, random| {
        let x = scale * random.normal();
        if random.below(100) < percent { f32::NEG_INFINITY } else { x }
    });
    let live = if random.below(16) == 0 { random.below(classes) } else { row.target };
    row.logits[live] = scale * random.normal();
    row
}

fn sorted(classes: usize, random: &mut Random) -> Row {
    let range = sign(random) * random.between(0.0, 200.0);
    row_of(classes, random, |class, _| range * (class as f32 / classes as f32))
}

fn alternating_sign(classes: usize, random: &mut Random) -> Row {
    let value = magnitude(random);
    row_of(classes, random, |class, _| if class % 2 == 0 { value } else { -value })
}

fn subnormals(classes: usize, random: &mut Random) -> Row {
    row_of(classes, random, |_, random| {
        sign(random) * f32::from_bits(random.below(f32::MIN_POSITIVE.to_bits() as usize) as u32)
    })
}

fn zeros(classes: usize, random: &mut Random) -> Row {
    row_of(classes, random, |_, random| sign(random) * 0.0)
}

/// Gaps around that at which an exponential is no normal number any more.
fn smallest_normal_result(classes: usize, random: &mut Random) -> Row {
    let mut row = row_of(classes, random, |_, random| random.between(-88.5, -86.5));
    let leader = leader(&row, random);
    row.logits[leader] = 0.0;
    row
}

/// Each run of columns higher than the one before: what has been summed up must be scaled down again and again.
fn rising_maxima(classes: usize, random: &mut Random) -> Row {
    let run = 1 << random.below(12);
    let step = random.between(0.0, 100.0);
    row_of(classes, random, |class, random| step * (class / run) as f32 + random.normal())
}

/// Every finite number as likely.
fn any_bits(classes: usize, random: &mut Random) -> Row {
    row_of(classes, random, |_, random| {
        let bits = random.next() as u32;
        // NaN and infinity lose an exponent bit.
        let x = f32::from_bits(bits);
        if x.is_finite() { x } else { f32::from_bits(bits & !(1 << 30)) }
    })
}
