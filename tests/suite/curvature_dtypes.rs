//! Second order of logits of 16 bits: what the kernel of `f32` finds for the same numbers, rounded once.

#![cfg(feature = "half")]

use crate::support::backends;
use crate::support::batch::{IGNORE_INDEX, Random};
use crate::support::buffer::Layout;
use crate::support::curvature::{INPUTS, Problem};
use crate::support::half_curvature::check_halves;
use half::{bf16, f16};
use xent::{CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Reduction, Smoothing};

/// Every option on its own and with others.
const OPTIONS: usize = 12;

fn builder(options: usize, classes: usize) -> CrossEntropyBuilder {
    let mut random = Random::new(classes as u64);
    let weights = (0..classes).map(|_| [0.0, 0.5, 1.0, 3.75, 100.0][random.below(5)]);
    let weights: Vec<f32> = weights.collect();
    let builder = CrossEntropy::builder().ignore_index(IGNORE_INDEX);
    match options {
        0 => builder.reduction(Reduction::Sum),
        1 => builder.label_smoothing(0.1).weight(weights),
        2 => builder.z_loss(0.01).label_smoothing(0.1).smoothing(Smoothing::OtherClasses),
        3 => builder.label_smoothing(0.2).smoothing(Smoothing::LiveClasses).weight(weights),
        4 => builder.focal_gamma(2.0),
        5 => builder.focal_gamma(0.5).z_loss(0.01).weight(weights),
        6 => builder.logit_scale(0.5),
        7 => builder.softcap(15.0),
        8 => builder.softcap(4.0).logit_scale(3.0).label_smoothing(0.1),
        9 => builder.softcap(15.0).focal_gamma(2.0).label_smoothing(0.1).weight(weights),
        10 => builder.logit_scale(2.5).label_smoothing(0.1).smoothing(Smoothing::LiveClasses),
        _ => builder.softcap(10.0).smoothing(Smoothing::LiveClasses).label_smoothing(0.3).z_loss(0.1),
    }
}

#[test]
fn every_option_gives_what_f32_does_rounded_once() {
    for (turn, classes) in [1, 2, 5, 16, 17, 40, 64, 65, 128, 130, 1000, 2049, 5000].into_iter().enumerate() {
        let problem = Problem::random(if classes > 200 { 6 } else { 24 }, classes, 51 + turn as u64);
        for options in 0..OPTIONS {
            let problem = problem.clone().with_inputs((turn + options) % INPUTS);
            for backend in backends() {
                let ce = builder(options, classes).backend(backend).build().expect("it is available");
                let layout = Layout { offset: turn % 16, padding: options % 3 };
                let context = format!("options {options}, {classes} classes, {backend}");
                check_halves::<bf16>(&ce, &problem, layout, &context);
                check_halves::<f16>(&ce, &problem, layout, &context);
            }
        }
    }
}

#[test]
fn hostile_rows_and_directions_give_nan_and_keep_it_to_themselves() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for classes in [1, 2, 16, 17, 65, 130, 2049] {
        for place in [0, classes / 2, classes - 1] {
            let mut problem = Problem::random(20, classes, 52);
            let clean = problem.clone();
            for (turn, row) in (0..20).filter(|&row| clean.batch.targets[row] >= 0).enumerate() {
                let at = row * classes + place;
                match turn % 7 {
                    0 => problem.batch.logits[at] = nan,
                    1 => problem.batch.logits[at] = inf,
                    2 => problem.batch.row_mut(row).fill(-inf),
                    3 => problem.direction[at] = nan,
                    4 => problem.direction[at] = -inf,
                    5 => problem.batch.logits[at] = -inf,
                    _ => {}
                }
            }
            for backend in backends() {
                for options in [0, 3, 9] {
                    let ce = builder(options, classes).backend(backend).build().expect("it is available");
                    let context = format!("place {place}, options {options}, {backend}");
                    check_halves::<bf16>(&ce, &problem, Layout::default(), &context);
                    check_halves::<f16>(&ce, &problem, Layout::default(), &context);
                }
            }
        }
    }
}

#[test]
fn an_error_leaves_every_output_untouched() {
    let ce = CrossEntropy::default();
    let x = [bf16::from_f32(0.5); 6];
    let mut out = [bf16::from_bits(0x7fca); 6];
    let logits = Matrix::new(&x, 2, 3).expect("it fits");
    let wrong = Matrix::new(&x, 3, 2).expect("it fits");
    let curvature = ce.curvature(logits, &[0_u8, 2]).expect("it is valid");
    let result = curvature.hessian_vector_product(wrong, MatrixMut::new(&mut out, 2, 3).expect("it fits"));
    let mismatch = |argument| Error::ShapeMismatch { argument, expected: (2, 3), actual: (3, 2) };
    assert_eq!(result, Err(mismatch("direction")));
    let result = curvature.hessian_diagonal(MatrixMut::new(&mut out, 3, 2).expect("it fits"));
    assert_eq!(result, Err(mismatch("out")));
    assert!(out.iter().all(|x| x.to_bits() == 0x7fca));
}
