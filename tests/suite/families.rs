//! Families of extreme rows under every option, dtype and backend, within the contract. What the example `stability` finds
//! is pasted here.

use crate::support::backends;
use crate::support::families::{FAMILIES, Row, family};
use crate::support::trial::Trial;
use crate::support::variants::{DTYPES, VARIANTS, dtype, variant};
use xent::Parallelism;

/// Of every kernel, with whole and incomplete vectors.
const CLASS_COUNTS: [usize; 11] = [1, 2, 3, 10, 16, 33, 64, 81, 130, 1000, 2049];

/// Checks every output of a call on one row.
fn keeps_the_contract(dtype_name: &str, variant_name: &str, row: &Row) {
    let (dtype, variant) = (dtype(dtype_name), variant(variant_name));
    for in_place in [false, true] {
        let trial = Trial { dtype, variant, parallelism: Parallelism::Serial, in_place, batch: &row.batch() };
        trial.run(&backends(), &mut |_, _, _, _| {});
    }
}

#[test]
fn every_family_keeps_the_contract_under_every_option_on_every_backend() {
    let backends = backends();
    let mut results = 0_u64;
    for family in &FAMILIES {
        for (seed, &classes) in CLASS_COUNTS.iter().enumerate() {
            let rows = (400 / classes).clamp(1, 37);
            let batch = family.batch(rows, classes, 1000 * seed as u64);
            for dtype in DTYPES {
                for (number, variant) in VARIANTS.iter().enumerate() {
                    let (parallelism, in_place) = (Parallelism::Serial, number % 2 == 1);
                    let trial =
                        Trial { dtype: *dtype, variant: *variant, parallelism, in_place, batch: &batch };
                    trial.run(&backends, &mut |_, _, _, _| results += 1);
                }
            }
        }
    }
    println!("{results} results");
    assert!(results > 1_000_000);
}

#[test]
fn a_family_makes_the_same_row_from_the_same_seed_and_another_from_another() {
    for family in &FAMILIES {
        let [row, same, other] = [7, 7, 8].map(|seed| family.row(100, seed));
        assert_eq!(row, same, "{}", family.name);
        assert_ne!(row, other, "{}", family.name);
        assert_eq!(family.batch(3, 100, 6).row(1), row.logits, "{}", family.name);
    }
}

/// Rows that used the largest shares of their bounds.
#[test]
fn the_worst_rows_found_keep_the_contract() {
    keeps_the_contract("f32", "smoothing, weight", &family("every magnitude").row(11, 0xd05a_77cf_d46b_746e));
    keeps_the_contract("f16", "z-loss", &family("sorted").row(57_478, 0x8df1_5bda_be64_1802));
    keeps_the_contract("f16", "weight", &family("one dominates").row(10, 0x0520_80ff_175d_8634));
    let logits = vec![-86.54793, -88.40665, -87.14654, -87.17604, 0.0];
    keeps_the_contract("bf16", "sum", &Row { logits, target: 4 });
    let logits = vec![0.0, -88.310684, -86.797455, -86.61459, -87.745415];
    keeps_the_contract("f32", "smoothing alone", &Row { logits, target: 0 });
}
