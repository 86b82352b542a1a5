//! The error bounds of `xent::contract`, on every backend, against the scalar reference.

use xent::contract::{CONFIDENT, LOG_PROBABILITY, LOSS, LSE, PROBABILITY, TARGET_GRADIENT, U};
use xent::{Backend, CrossEntropy, Matrix, MatrixMut, Parallelism, Reduction, Request, reference};

/// The largest share of a bound that was used, and the input that used it.
#[derive(Default)]
struct Share {
    worst: f64,
    input: String,
}

impl Share {
    /// `error` against `bound`, both absolute.
    fn note(&mut self, error: f64, bound: f64, input: impl FnOnce() -> String) {
        let share = if error == 0.0 { 0.0 } else { error / bound };
        assert!(!share.is_nan(), "{}", input());
        if share > self.worst {
            self.worst = share;
            self.input = input();
        }
    }

    fn check(&self, quantity: &str, backend: Backend) {
        println!("{backend:>9}  {quantity:<34} {:.3} of the bound  {}", self.worst, self.input);
        assert!(self.worst <= 1.0, "{quantity} on {backend}: {} of the bound at {}", self.worst, self.input);
    }
}

/// A seeded generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (core::f64::consts::TAU * self.unit()).cos()
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Rows of many kinds, each named.
fn row_of_kind(kind: usize, classes: usize, random: &mut Random) -> (&'static str, Vec<f32>, usize) {
    let mut target = random.below(classes);
    let scale = |random: &mut Random, scale: f64, offset: f64| -> Vec<f32> {
        (0..classes).map(|_| (random.normal() * scale + offset) as f32).collect()
    };
    let (name, x) = match kind {
        0 => ("normal, scale 1", scale(random, 1.0, 0.0)),
        1 => ("normal, scale 10", scale(random, 10.0, 0.0)),
        2 => ("normal, scale 40", scale(random, 40.0, 0.0)),
        3 => ("offset 1000", scale(random, 3.0, 1000.0)),
        4 => ("uniform in 90..100", (0..classes).map(|_| (90.0 + 10.0 * random.unit()) as f32).collect()),
        5 => {
            let mut x = scale(random, 1.0, 0.0);
            x[target] = 15.0 + 60.0 * random.unit() as f32;
            ("confident", x)
        }
        6 => {
            let mut x = scale(random, 1.0, 0.0);
            let winner = random.below(classes);
            x[winner] = 15.0 + 60.0 * random.unit() as f32;
            ("confident of any class", x)
        }
        7 => ("all equal", vec![3.25; classes]),
        8 => {
            let x: Vec<f32> = (0..classes)
                .map(|_| if random.unit() < 0.5 { f32::NEG_INFINITY } else { random.normal() as f32 })
                .collect();
            match x.iter().position(|x| x.is_finite()) {
                Some(first) => target = first,
                None => return ("masked", vec![0.0; classes], target),
            }
            ("half of them masked", x)
        }
        9 => {
            let p = row_of_kind(5, classes, random);
            target = p.2;
            ("log-probabilities", reference::log_softmax(&p.1).iter().map(|&x| x as f32).collect())
        }
        10 => ("down to 200 below", (0..classes).map(|_| (-200.0 * random.unit()) as f32).collect()),
        _ => {
            let step = 180.0 / classes as f64;
            ("sorted", (0..classes).map(|i| (-step * i as f64) as f32).collect())
        }
    };
    (name, x, target)
}

const KINDS: usize = 12;

/// What a backend gives for one row.
struct Found {
    loss: f64,
    row_loss: f32,
    lse: f32,
    grad: Vec<f32>,
    probabilities: Vec<f32>,
    log_probabilities: Vec<f32>,
}

fn run(ce: &CrossEntropy, x: &[f32], target: usize) -> Found {
    let c = x.len();
    let (mut grad, mut probabilities, mut log_probabilities) =
        (vec![f32::NAN; c], vec![f32::NAN; c], vec![f32::NAN; c]);
    let (mut losses, mut lse) = ([f32::NAN], [f32::NAN]);
    let request = Request::new()
        .grad(MatrixMut::new(&mut grad, 1, c).unwrap())
        .probabilities(MatrixMut::new(&mut probabilities, 1, c).unwrap())
        .log_probabilities(MatrixMut::new(&mut log_probabilities, 1, c).unwrap())
        .losses(&mut losses)
        .lse(&mut lse);
    let summary = ce.run(Matrix::new(x, 1, c).unwrap(), &[target], request).unwrap();
    Found { loss: summary.loss, row_loss: losses[0], lse: lse[0], grad, probabilities, log_probabilities }
}

#[derive(Default)]
struct Shares {
    probability: Share,
    gradient: Share,
    target_gradient: Share,
    loss: Share,
    reduced: Share,
    lse: Share,
    log_probability: Share,
}

/// A value that has a relative bound where it is normal, and is 0 below that.
fn note_or_zero(share: &mut Share, found: f32, exact: f64, relative: f64, input: impl Fn() -> String) {
    let smallest = f64::from(f32::MIN_POSITIVE);
    assert!(!found.is_subnormal(), "subnormal {found:e}: {}", input());
    if exact.abs() < smallest * (1.0 - relative) {
        assert_eq!(found, 0.0, "exact {exact:e}: {}", input());
    } else if exact.abs() > smallest * (1.0 + relative) || found != 0.0 {
        share.note((f64::from(found) - exact).abs(), relative * exact.abs(), input);
    }
}

impl Shares {
    fn note(&mut self, found: &Found, x: &[f32], target: usize, input: &dyn Fn() -> String) {
        let exact = reference::softmax_row(x);
        let max = x.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
        let gap = |i: usize| max - f64::from(x[i]);
        let ln_sum = -exact.log_probabilities.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
        // p |d|, which is 0 for a masked class.
        let weighted =
            |i: usize| if exact.probabilities[i] == 0.0 { 0.0 } else { exact.probabilities[i] * gap(i) };
        let mean_gap: f64 = (0..x.len()).map(weighted).sum();
        let others: f64 = exact.complements[target];
        let others_gap: f64 = (0..x.len()).filter(|&i| i != target).map(weighted).sum();
        let others_gap = if others > 0.0 { others_gap / others } else { 0.0 };

        for i in 0..x.len() {
            let at = || format!("column {i}, {}", input());
            let relative = if gap(i).is_finite() { (gap(i) + mean_gap + PROBABILITY) * U } else { 0.0 };
            note_or_zero(&mut self.probability, found.probabilities[i], exact.probabilities[i], relative, at);
            if i == target {
                let relative = (others_gap + TARGET_GRADIENT) * U;
                note_or_zero(&mut self.target_gradient, found.grad[i], -others, relative, at);
            } else {
                note_or_zero(&mut self.gradient, found.grad[i], exact.probabilities[i], relative, at);
            }
            if gap(i).is_finite() {
                let error = (f64::from(found.log_probabilities[i]) - exact.log_probabilities[i]).abs();
                let bound = (LOG_PROBABILITY * (gap(i) + ln_sum) + mean_gap) * U;
                if exact.log_probabilities[i].abs() > f64::from(f32::MIN_POSITIVE) {
                    self.log_probability.note(error, bound, at);
                }
            } else {
                assert_eq!(found.log_probabilities[i], f32::NEG_INFINITY, "{}", at());
            }
        }
        let loss = -exact.log_probabilities[target];
        note_or_zero(&mut self.loss, found.row_loss, loss, (others_gap + LOSS) * U, input);
        self.reduced.note((found.loss - loss).abs(), (others_gap + LOSS + 1.0) * U * loss, input);
        let bound = (mean_gap + LSE) * U * (max.abs() + ln_sum);
        if exact.lse.abs() > f64::from(f32::MIN_POSITIVE) {
            self.lse.note((f64::from(found.lse) - exact.lse).abs(), bound, input);
        }
    }

    fn check(&self, backend: Backend) {
        self.probability.check("probability", backend);
        self.gradient.check("gradient away from the target", backend);
        self.target_gradient.check("gradient at the target", backend);
        self.loss.check("loss of a row", backend);
        self.reduced.check("reduced loss", backend);
        self.lse.check("lse", backend);
        self.log_probability.check("log-probability", backend);
    }
}

/// Every length to 130, and around every boundary of vectors, blocks and pieces.
fn lengths() -> Vec<usize> {
    let mut lengths: Vec<usize> = (1..=130).collect();
    for boundary in [192, 256, 1000, 2048, 4096, 6144, 10_000, 65_536, 131_072] {
        lengths.extend([boundary - 1, boundary, boundary + 1]);
    }
    lengths
}

fn backends() -> impl Iterator<Item = (Backend, CrossEntropy)> {
    Backend::ALL.iter().filter_map(|&backend| {
        let built = CrossEntropy::builder()
            .backend(backend)
            .parallelism(Parallelism::Serial)
            .reduction(Reduction::Sum)
            .build();
        if built.is_err() {
            println!("{backend}: not on this CPU, not tested");
        }
        built.ok().map(|ce| (backend, ce))
    })
}

#[test]
fn every_output_keeps_its_bound_at_every_length() {
    for (backend, ce) in backends() {
        let mut random = Random(1);
        let mut shares = Shares::default();
        for classes in lengths() {
            for kind in 0..KINDS {
                let (name, x, target) = row_of_kind(kind, classes, &mut random);
                let found = run(&ce, &x, target);
                shares.note(&found, &x, target, &|| format!("{name}, {classes} classes, target {target}"));
            }
        }
        shares.check(backend);
    }
}

#[test]
fn rows_of_many_seeds_keep_their_bounds() {
    for (backend, ce) in backends() {
        let mut random = Random(2);
        let mut shares = Shares::default();
        for seed in 0..4000 {
            let classes = [2, 3, 5, 10, 33, 100, 128][seed % 7];
            let (name, x, target) = row_of_kind(seed % KINDS, classes, &mut random);
            let found = run(&ce, &x, target);
            shares.note(&found, &x, target, &|| format!("{name}, row {x:?}, target {target}"));
        }
        shares.check(backend);
    }
}

#[test]
fn confident_rows_lose_nothing() {
    for (backend, ce) in backends() {
        let mut loss = Share::default();
        let mut gradient = Share::default();
        for classes in [2, 100] {
            for quarter in 32..=344 {
                // Multiples of 1/4: the difference is exact.
                let gap = quarter as f32 / 4.0;
                for target in [0, classes / 2, classes - 1] {
                    let mut x = vec![-1.5_f32; classes];
                    x[target] += gap;
                    let input = || format!("gap {gap}, {classes} classes, target {target}");
                    let found = run(&ce, &x, target);
                    let rest = (classes - 1) as f64 * f64::from(-gap).exp();
                    let exact = rest.ln_1p();
                    loss.note((f64::from(found.row_loss) - exact).abs(), CONFIDENT * U * exact, input);
                    let exact = -rest / (1.0 + rest);
                    let error = (f64::from(found.grad[target]) - exact).abs();
                    gradient.note(error, CONFIDENT * U * exact.abs(), input);
                }
            }
        }
        loss.check("loss of confident rows", backend);
        gradient.check("target gradient of confident rows", backend);
    }
}

#[test]
fn a_wide_gap_with_many_classes_is_still_seen() {
    // exp(-88) is subnormal; 200,000 of them are not.
    for (backend, ce) in backends() {
        let mut x = vec![0.0_f32; 200_000];
        x[77_777] = 88.0;
        let exact = (199_999.0 * (-88.0_f64).exp()).ln_1p();
        let found = run(&ce, &x, 77_777);
        let mut share = Share::default();
        share.note((f64::from(found.row_loss) - exact).abs(), CONFIDENT * U * exact, || "gap 88".to_owned());
        share.check("loss at a gap of 88", backend);
    }
}
