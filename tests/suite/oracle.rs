//! The scalar reference itself, against arithmetic of 60 digits: `tests/suite/oracle/points.txt`, made by the script beside it.

use std::collections::HashMap;

use xent::reference::{self, Outcome};
use xent::{CrossEntropy, Matrix, Reduction, Request, Smoothing};

const POINTS: &str = include_str!("oracle/points.txt");

/// How far the reference may be from the exact result, in [`ULP`]: of the result, or of the magnitudes of its terms where
/// they cancel.
const REFERENCE_ULP: f64 = 5.0;

/// How far `exp` and `ln_1p` of the platform may be, which other tests measure against.
const PLATFORM_ULP: f64 = 2.0;

/// A unit in the last place of the largest `f64` below a power of 2, relative: 2^-53.
const ULP: f64 = f64::EPSILON / 2.0;

/// A row of the table.
struct Point {
    text: &'static str,
    outcome: Outcome,
}

fn floats(text: &str) -> Vec<f32> {
    text.split(',').map(|x| x.parse().expect("a number")).collect()
}

fn float(text: &str) -> f64 {
    text.parse().expect("a number")
}

impl Point {
    fn new(text: &'static str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let fields: HashMap<&str, &str> = words.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let mut builder = CrossEntropy::builder()
            .label_smoothing(float(fields["epsilon"]))
            .focal_gamma(float(fields["gamma"]))
            .z_loss(float(fields["z"]))
            // A mean over one row divides by the weight of its target.
            .reduction(Reduction::Sum);
        if fields["weight"] != "-" {
            builder = builder.weight(floats(fields["weight"]));
        }
        if fields.contains_key("target") {
            builder = builder.smoothing(match fields["smoothing"] {
                "all" => Smoothing::AllClasses,
                "others" => Smoothing::OtherClasses,
                "live" => Smoothing::LiveClasses,
                other => panic!("no such smoothing: {other}"),
            });
        }
        let (ce, logits) = (builder.build().expect("the options are valid"), floats(fields["row"]));
        let x = Matrix::new(&logits, 1, logits.len()).expect("a row");
        let outcome = if let Some(target) = fields.get("target") {
            let target: usize = target.parse().expect("a class");
            reference::run(&ce, x, &[target], &Request::new())
        } else {
            let probabilities = floats(fields["probabilities"]);
            let q = Matrix::new(&probabilities, 1, logits.len()).expect("as many as logits");
            reference::run_probabilities(&ce, x, q, &Request::new())
        };
        Self { text, outcome: outcome.expect("the row is valid") }
    }
}

#[test]
fn the_reference_keeps_its_distance_from_60_digits() {
    let mut point = None;
    let (mut rows, mut results) = (0, 0);
    let mut worst = (0.0, String::new());
    for line in POINTS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (found, rest) = match (words[0], &point) {
            ("row", _) => {
                rows += 1;
                point = Some(Point::new(line));
                continue;
            }
            ("lse", Some(Point { outcome, .. })) => (outcome.softmax[0].lse, &words[1..]),
            ("loss", Some(Point { outcome, .. })) => (outcome.loss, &words[1..]),
            ("gradient", Some(Point { outcome, .. })) => {
                let column: usize = words[1].parse().expect("a column");
                (outcome.grad[column], &words[2..])
            }
            _ => continue,
        };
        let Some(Point { text, .. }) = &point else { continue };
        let (exact, scale) = (float(rest[0]), float(rest[1]));
        results += 1;
        let error = (found - exact).abs();
        // What is subnormal in f64 has fewer bits.
        let ulp = if error <= f64::MIN_POSITIVE { 0.0 } else { error / (scale * ULP) };
        assert!(!ulp.is_nan(), "{line}: {found:e}, {text}");
        if ulp > worst.0 {
            worst = (ulp, format!("{line}: {found:e}, {text}"));
        }
        if ulp > REFERENCE_ULP {
            println!("{ulp} ULP, {line}: {found:e}, {text}");
        }
    }
    println!("{results} results of {rows} rows; the worst is {} ULP off: {}", worst.0, worst.1);
    assert!(rows > 300 && results > 1000);
    assert!(worst.0 <= REFERENCE_ULP, "{} ULP: {}", worst.0, worst.1);
}

/// Other tests take them for exact.
#[test]
fn exp_and_ln_1p_of_the_platform_keep_their_distance_from_60_digits() {
    let (mut worst, mut results) = (0.0_f64, 0);
    for line in POINTS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let found = match words[0] {
            "exp" => float(words[1]).exp(),
            "ln_1p" => float(words[1]).ln_1p(),
            _ => continue,
        };
        let exact = float(words[2]);
        let ulp = (found - exact).abs() / (exact.abs() * ULP);
        assert!(ulp <= PLATFORM_ULP, "{line}: {found:e} is {ulp} ULP off");
        (worst, results) = (worst.max(ulp), results + 1);
    }
    println!("{results} results; the worst is {worst} ULP off");
    assert_eq!(results, 300);
}
