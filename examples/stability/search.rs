//! What is tried, and the worst that was found.

use std::panic::{self, AssertUnwindSafe};

use xent::{Backend, Parallelism};

use crate::support::PARALLELISMS;
use crate::support::batch::Random;
use crate::support::bounds::{Deviation, Quantity};
use crate::support::families::{FAMILIES, Family, Row};
use crate::support::trial::Trial;
use crate::support::variants::{DTYPES, Dtype, VARIANTS, Variant};

/// In the order of their columns.
pub const QUANTITIES: [(Quantity, &str); 4] = [
    (Quantity::Loss, "loss"),
    (Quantity::Gradient, "gradient"),
    (Quantity::TargetGradient, "target gradient"),
    (Quantity::Lse, "lse"),
];

/// Logits of a batch, unless a row has more.
const LOGITS: usize = 4096;
/// The longest row that is printed number by number.
const MOST_PRINTED: usize = 8;

/// All that has been tried.
pub struct Search {
    random: Random,
    most_classes: usize,
    pub backends: Vec<Backend>,
    /// In the order of [`FAMILIES`].
    pub families: Vec<Findings>,
    /// In the order of [`VARIANTS`].
    pub variants: Vec<Findings>,
    /// In the order of [`DTYPES`].
    pub dtypes: Vec<Findings>,
}

/// The largest deviations among some rows.
#[derive(Clone)]
pub struct Findings {
    pub name: &'static str,
    pub rows: u64,
    pub results: u64,
    /// For each quantity that is `f32`.
    pub largest_error_in_u: [Option<f64>; 4],
    /// For each quantity.
    pub worst: [Option<Worst>; 4],
    /// For each backend.
    pub share_on: Vec<f64>,
    /// Where the contract broke: what was wrong, and the first input on which it was.
    pub broken: Option<(String, String)>,
}

/// The largest share of a bound that was used.
#[derive(Clone)]
pub struct Worst {
    pub share: f64,
    pub error_in_u: f64,
    /// As source code.
    pub input: String,
}

/// The input of one trial.
struct Input {
    family: &'static Family,
    dtype: Dtype,
    variant: Variant,
    parallelism: Parallelism,
    in_place: bool,
    rows: usize,
    classes: usize,
    seed: u64,
}

impl Search {
    pub fn new(seed: u64, most_classes: usize) -> Self {
        let backends: Vec<Backend> = Backend::available().collect();
        let findings = |name| Findings::new(name, backends.len());
        Self {
            random: Random::new(seed),
            most_classes,
            families: FAMILIES.iter().map(|family| findings(family.name)).collect(),
            variants: VARIANTS.iter().map(|variant| findings(variant.name)).collect(),
            dtypes: DTYPES.iter().map(|dtype| findings(dtype.name)).collect(),
            backends,
        }
    }

    /// One batch of each family.
    pub fn round(&mut self) {
        // The same for all, so that a round takes its time for long rows in all of them.
        let classes = self.class_count();
        for family in 0..FAMILIES.len() {
            let random = &mut self.random;
            let variant = random.below(VARIANTS.len());
            // Half of them `f32`.
            let dtype = random.below(2) * random.below(DTYPES.len());
            let input = Input {
                family: &FAMILIES[family],
                dtype: DTYPES[dtype],
                variant: VARIANTS[variant],
                parallelism: PARALLELISMS[random.below(PARALLELISMS.len())],
                in_place: random.below(2) == 1,
                rows: (LOGITS / classes).clamp(1, 1 + random.below(40)),
                classes,
                seed: random.next(),
            };
            let mut findings = Findings::new("", self.backends.len());
            input.run(&self.backends, &mut findings);
            // Results of 16 bits use up what rounding to them has in the bound, and nothing else would be seen.
            let of_f32 = if dtype == 0 { findings.clone() } else { findings.counts() };
            self.families[family].merge(&of_f32);
            self.variants[variant].merge(&of_f32);
            self.dtypes[dtype].merge(&findings);
        }
    }

    /// Few classes more often than many; from time to time, the most.
    fn class_count(&mut self) -> usize {
        let random = &mut self.random;
        let classes = match random.below(64) {
            0..24 => 1 + random.below(16),
            24..40 => 1 + random.below(130),
            40..54 => 1 + random.below(3000),
            54..60 => [2047, 2048, 2049, 4096][random.below(4)],
            60..63 => 1 + random.below(1 << 16),
            _ => 1 + random.below(self.most_classes),
        };
        classes.min(self.most_classes)
    }

    /// Each way in which the contract broke, and its first input.
    pub fn breaks(&self) -> Vec<&(String, String)> {
        self.families.iter().filter_map(|findings| findings.broken.as_ref()).collect()
    }
}

impl Input {
    fn run(&self, backends: &[Backend], findings: &mut Findings) {
        let Self { dtype, variant, parallelism, in_place, rows, .. } = *self;
        let batch = self.family.batch(rows, self.classes, self.seed);
        let trial = Trial { dtype, variant, parallelism, in_place, batch: &batch };
        let is_f32 = dtype.name == "f32";
        // The checks of the tests panic: whatever else they find fails them too.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            trial.run(backends, &mut |backend, row, quantity, deviation| {
                let backend = backends.iter().position(|&other| other == backend).unwrap_or(0);
                findings.note(backend, quantity, deviation, is_f32, || self.source(row));
            });
        }));
        findings.rows += (rows * backends.len()) as u64;
        if let Err(payload) = outcome {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text =
                text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
            // The text names the row.
            let row = text.split("row ").nth(1).and_then(|text| text.split(' ').next()?.parse().ok());
            findings.broken = Some((text.to_owned(), self.source(row.unwrap_or(0))));
        }
    }

    /// One row as a line of `tests/suite/families.rs`.
    fn source(&self, row: usize) -> String {
        let Self { family, dtype, variant, classes, .. } = self;
        let seed = self.seed.wrapping_add(row as u64);
        let row = if *classes <= MOST_PRINTED {
            let Row { logits, target } = family.row(*classes, seed);
            Row { logits, target }.to_string()
        } else {
            format!("family({:?}).row({classes}, {seed:#x})", family.name)
        };
        format!("keeps_the_contract({:?}, {:?}, &{row});", dtype.name, variant.name)
    }
}

impl Findings {
    fn new(name: &'static str, backends: usize) -> Self {
        Self {
            name,
            rows: 0,
            results: 0,
            largest_error_in_u: [None; 4],
            worst: [const { None }; 4],
            share_on: vec![0.0; backends],
            broken: None,
        }
    }

    fn note(
        &mut self,
        backend: usize,
        quantity: Quantity,
        deviation: Deviation,
        is_f32: bool,
        input: impl FnOnce() -> String,
    ) {
        let at = QUANTITIES.iter().position(|(other, _)| *other == quantity).unwrap_or(0);
        let (share, error_in_u) = (deviation.share_of_bound(), deviation.in_u());
        self.results += 1;
        self.share_on[backend] = self.share_on[backend].max(share);
        if is_f32 || matches!(quantity, Quantity::Loss | Quantity::Lse) {
            self.largest_error_in_u[at] = Some(self.largest_error_in_u[at].unwrap_or(0.0).max(error_in_u));
        }
        if share > self.worst[at].as_ref().map_or(0.0, |worst| worst.share) {
            self.worst[at] = Some(Worst { share, error_in_u, input: input() });
        }
    }

    /// Without the deviations.
    fn counts(&self) -> Self {
        let broken = self.broken.clone();
        let Self { rows, results, .. } = *self;
        Self { rows, results, broken, ..Self::new(self.name, self.share_on.len()) }
    }

    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.results += other.results;
        for at in 0..QUANTITIES.len() {
            let (own, other_error) = (&mut self.largest_error_in_u[at], other.largest_error_in_u[at]);
            if other_error > *own {
                *own = other_error;
            }
            if let Some(worst) = &other.worst[at]
                && self.worst[at].as_ref().is_none_or(|own| worst.share > own.share)
            {
                self.worst[at] = Some(worst.clone());
            }
        }
        for (share, other) in self.share_on.iter_mut().zip(&other.share_on) {
            *share = share.max(*other);
        }
        if self.broken.is_none() {
            self.broken.clone_from(&other.broken);
        }
    }
}
