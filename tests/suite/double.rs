//! Logits of `f64`: the contract with its own unit, against numbers of twice the precision.

use crate::support::batch::{Batch, Random};
use crate::support::double_bounds::{Shares, check};
use crate::support::double_double::{DoubleDouble, LN_2};
use crate::support::double_rows::{KINDS, batch_of_all_kinds};
use crate::support::doubles::{Doubles, ExactRow, Found, Watched, evaluate};
use crate::support::evaluation::Call;
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::contract::{LOSS, PROBABILITY, U_F64};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Reduction, Request,
    Softmax, reference,
};

/// The sum of plain losses, whose factors are all 1.
fn plain(backend: Backend) -> CrossEntropy {
    CrossEntropy::builder().backend(backend).reduction(Reduction::Sum).build().expect("it is available")
}

#[test]
fn numbers_of_twice_the_precision_have_it() {
    let close = |found: DoubleDouble, high: f64, low: f64| {
        let error = (found - DoubleDouble { high, low }).high.abs();
        assert!(error <= 2.0_f64.powi(-95) * high.abs(), "{found:?} instead of {high:e} + {low:e}");
    };
    // From mpmath with 60 digits.
    close(DoubleDouble::from(-1.0).exp(), 0.367_879_441_171_442_33, -1.242_875_367_278_836_3e-17);
    close(DoubleDouble::from(-20.25).exp(), 1.605_228_055_185_611_6e-9, -3.657_643_988_865_463e-26);
    close(DoubleDouble::from(1.5).exp(), 4.481_689_070_338_064_5, 3.048_175_955_653_634_3e-16);
    close(DoubleDouble::from(1.0).ln_1p(), LN_2.high, LN_2.low);
    close(DoubleDouble::from(1e-20).ln_1p(), 1e-20, -5e-41);
    close(DoubleDouble::from(0.25).ln_1p(), 0.223_143_551_314_209_76, -9.091_270_597_324_799e-18);
    close(DoubleDouble::from(1e5).ln_1p(), 11.512_935_464_920_23, -3.693_330_901_748_556_7e-16);
    close(DoubleDouble::from(3e-5).ln_1p(), 2.999_955_000_899_98e-5, -1.111_919_140_423_213_1e-21);
    let (tanh, slope) = DoubleDouble::from(1e-9).tanh_and_slope();
    close(tanh, 1e-9, -3.333_333_333_333_333_8e-28);
    close(slope, 1.0, -1e-18);
    let (tanh, slope) = DoubleDouble::from(-0.25).tanh_and_slope();
    close(tanh, -0.244_918_662_403_709_13, 1.603_622_884_988_269_3e-18);
    close(slope, 0.940_014_848_806_378, -2.208_579_173_211_251_6e-17);
    let (tanh, slope) = DoubleDouble::from(0.75).tanh_and_slope();
    close(tanh, 0.635_148_952_387_287_3, 1.701_297_700_656_483_6e-17);
    close(slope, 0.596_585_808_281_331_5, -2.734_488_152_874_710_7e-17);
    let (tanh, slope) = DoubleDouble::from(20.25).tanh_and_slope();
    close(tanh, 1.0, -5.153_514_218_309_962e-18);
    close(slope, 1.030_702_843_661_992_4e-17, -4.336_929_926_204_332e-34);
}

#[test]
fn plain_losses_keep_the_contract_with_the_unit_of_f64() {
    let counts = (1..=20).chain([31, 63, 64, 65, 100, 127, 128, 129, 200, 1000, 2049, 5000]);
    let mut shares = Shares::default();
    for classes in counts {
        let batch = batch_of_all_kinds(classes, classes as u64);
        for backend in backends() {
            for in_place in [false, true] {
                let (ce, call) = (plain(backend), Call { in_place, ..Call::default() });
                let found = evaluate(&call, &ce, &batch);
                let context = format!("{backend}, in place {in_place}");
                check(&ce, &batch, &call, &found, true, &mut shares, &context);
            }
        }
    }
    shares.print();
}

#[test]
fn scaled_and_capped_logits_keep_their_bounds() {
    let builders = [
        ("scale", CrossEntropy::builder().logit_scale(0.7)),
        ("softcap", CrossEntropy::builder().softcap(15.0)),
        ("both", CrossEntropy::builder().softcap(30.0).logit_scale(1.7).z_loss(0.1)),
        ("both, smoothed", CrossEntropy::builder().softcap(50.0).logit_scale(0.3).label_smoothing(0.1)),
        ("a cap far above", CrossEntropy::builder().softcap(1e6).reduction(Reduction::Sum)),
    ];
    let mut shares = Shares::default();
    for classes in (1..=20).chain([31, 63, 64, 65, 127, 128, 129, 200, 1000, 2049]) {
        let batch = batch_of_all_kinds(classes, classes as u64);
        for (name, builder) in &builders {
            let mut bits = None;
            for backend in backends() {
                let ce = builder.clone().backend(backend).build().expect("the options are valid");
                for in_place in [false, true] {
                    let call = Call { in_place, ..Call::default() };
                    let found = evaluate(&call, &ce, &batch);
                    let context = format!("{name}, {backend}, in place {in_place}");
                    found.assert_no_subnormal(&context);
                    check(&ce, &batch, &call, &found, false, &mut shares, &context);
                    if fused_backends().contains(&backend) {
                        assert!(*bits.get_or_insert_with(|| found.bits()) == found.bits(), "bits, {context}");
                    }
                }
            }
        }
    }
    shares.print();
}

/// Targets of every kind for rows of every kind, in turn.
#[test]
fn probabilities_as_targets_keep_their_bounds() {
    let builders = [
        ("sum", CrossEntropy::builder().reduction(Reduction::Sum)),
        ("smoothed", CrossEntropy::builder().label_smoothing(0.1).z_loss(0.1)),
        ("capped", CrossEntropy::builder().softcap(30.0).logit_scale(1.7)),
    ];
    let mut shares = Shares::default();
    for classes in (1..=40).chain([63, 64, 65, 100, 127, 128, 129, 200, 1000, 2049]) {
        let mut random = Random::new(classes as u64);
        let batch = batch_of_all_kinds(classes, classes as u64);
        let logits = batch.logits.iter().map(|&x| x as f32).collect();
        let of_f32 = Batch { rows: KINDS, classes, logits, targets: batch.targets.clone() };
        let plain = of_f32.distributions(&mut random);
        // Each kind of row meets other kinds of targets.
        let q = [&plain[classes..], &plain[..classes]].concat();
        for ((name, builder), q) in builders.iter().flat_map(|builder| [(builder, &plain), (builder, &q)]) {
            let weight: Vec<f32> = (0..classes).map(|c| [1.0, 0.0, 2.5][c % 3]).collect();
            for (backend, weight) in backends().into_iter().zip([None, Some(weight), None]) {
                let builder = builder.clone().backend(backend);
                let builder = weight.into_iter().fold(builder, CrossEntropyBuilder::weight);
                let ce = builder.build().expect("the options are valid");
                for in_place in [false, true] {
                    let call = Call { in_place, target_probabilities: Some(q), ..Call::default() };
                    let found = evaluate(&call, &ce, &batch);
                    let context = format!("{name}, {backend}, in place {in_place}");
                    found.assert_no_subnormal(&context);
                    check(&ce, &batch, &call, &found, false, &mut shares, &context);
                }
            }
        }
    }
    shares.print();
}

/// What adding 200,000 terms one after the other would lose is far above the bound.
#[test]
fn long_rows_keep_the_bounds_of_short_ones() {
    let classes = 200_000;
    let mut shares = Shares::default();
    for gap in [0.1, 20.3, 700.0] {
        let mut batch = Doubles { rows: 1, classes, logits: vec![-gap; classes], targets: vec![77_777] };
        batch.logits[77_777] = 0.0;
        // All others are alike, and their exact sum is a product.
        let e = DoubleDouble::from(-gap).exp();
        let others = e * ((classes - 1) as f64).into();
        let loss = others.ln_1p();
        for backend in backends() {
            let mut grad = vec![f64::NAN; classes];
            let (x, out) = (
                Matrix::new(&batch.logits, 1, classes).expect("the shape fits"),
                MatrixMut::new(&mut grad, 1, classes).expect("the shape fits"),
            );
            let found = plain(backend).loss_and_grad(x, &batch.targets, out).expect("the batch is valid");
            let context = format!("gap {gap}, {backend}");
            shares.note("loss", found, loss, (gap + LOSS) * U_F64 * loss.high, &context);
            let sum = others + 1.0.into();
            let of_target = -(others / sum);
            let bound = (gap + xent::contract::TARGET_GRADIENT) * U_F64 * of_target.high.abs();
            shares.note("gradient at the target", grad[77_777], of_target, bound, &context);
            let p = e / sum;
            shares.note("gradient", grad[5], p, (2.0 * gap + PROBABILITY) * U_F64 * p.high, &context);
            assert!(grad[..77_777].iter().chain(&grad[77_778..]).all(|g| *g == grad[5]), "{context}");
        }
    }
    shares.print();
}

#[test]
fn a_gap_of_700_has_a_loss_and_a_gradient_and_nothing_subnormal_is_stored() {
    let e = 9.859_676_543_759_77e-305; // exp(-700)
    for backend in backends() {
        let of_gap = |gap: f64, others: usize| {
            let mut x = vec![-gap; others + 1];
            x[0] = 0.0;
            let mut grad = vec![f64::NAN; x.len()];
            let x = Matrix::new(&x, 1, others + 1).expect("the shape fits");
            let out = MatrixMut::new(&mut grad, 1, others + 1).expect("the shape fits");
            let loss = plain(backend).loss_and_grad(x, &[0_u8], out).expect("the batch is valid");
            (loss, grad)
        };
        let (loss, grad) = of_gap(700.0, 1);
        assert!((loss / e - 1.0).abs() < 4.0 * U_F64, "{loss:e}");
        assert_eq!([grad[0], grad[1]], [-loss, loss], "{backend}");
        // Each of the others is below the normal numbers; together they are not.
        let (loss, grad) = of_gap(712.0, 100_000);
        let exact = DoubleDouble::from(-12.0).exp() * 1e5.into() * DoubleDouble::from(-700.0).exp();
        assert!((loss / exact.high - 1.0).abs() < 4.0 * U_F64, "{loss:e}");
        assert_eq!(grad[0], -loss, "{backend}");
        assert!(grad[1..].iter().all(|g| g.to_bits() == 0), "{backend}");
        let (loss, grad) = of_gap(746.0, 3);
        assert_eq!((loss, grad), (0.0, vec![0.0; 4]), "{backend}");
    }
}

#[test]
fn input_that_is_not_finite_gives_what_the_table_says() {
    const INF: f64 = f64::INFINITY;
    for backend in backends() {
        for classes in [3, 17, 200] {
            let mut rows = vec![vec![0.5; classes]; 7];
            rows[1][1] = -INF; // a masked class
            rows[2][0] = -INF; // the target
            rows[3][2] = f64::NAN;
            rows[4][2] = INF;
            rows[5].fill(-INF);
            rows[6].fill(f64::NAN); // ignored
            let x: Vec<f64> = rows.concat();
            let batch = Doubles { rows: 7, classes, logits: x, targets: vec![0, 0, 0, 0, 0, 0, -100] };
            for in_place in [false, true] {
                let call = Call { in_place, ..Call::default() };
                let found = evaluate(&call, &plain(backend), &batch);
                let context = format!("{classes} classes, {backend}, in place {in_place}");
                let grad = |row: usize| &found.grad[row * classes..][..classes];
                assert!(found.losses[0].is_finite() && grad(0).iter().all(|g| g.is_finite()), "{context}");
                assert!(found.losses[1].is_finite() && grad(1)[1].to_bits() == 0, "{context}");
                assert_eq!(found.losses[2], INF, "{context}");
                assert_eq!(grad(2)[0], -1.0, "{context}");
                assert!(grad(2).iter().all(|g| g.is_finite()), "{context}");
                for row in 3..6 {
                    assert!(found.losses[row].is_nan() && grad(row).iter().all(|g| g.is_nan()), "{context}");
                    assert!(found.lse[row].is_nan() && found.entropies[row].is_nan(), "{context}");
                    assert_eq!(found.target_ranks[row], usize::MAX, "{context}");
                }
                assert_eq!([found.argmax[3], found.argmax[4], found.argmax[5]], [2, 2, 0], "{context}");
                assert_eq!(found.losses[6].to_bits(), 0, "{context}");
                assert!(grad(6).iter().all(|g| g.to_bits() == 0), "{context}");
            }
        }
    }
    // A target alone among masked classes, and the extremes of the type.
    for x in [[0.0, -INF], [f64::MAX, -f64::MAX], [-f64::MAX, -INF], [1e-310, -1e300]] {
        let mut grad = [f64::NAN; 2];
        let out = MatrixMut::new(&mut grad, 1, 2).expect("the shape fits");
        let loss = CrossEntropy::default().loss_and_grad(Matrix::new(&x, 1, 2).unwrap(), &[0_u8], out);
        assert_eq!((loss, grad), (Ok(0.0), [0.0; 2]), "{x:?}");
    }
}

fn all_bits(ce: &CrossEntropy, batch: &Doubles, in_place: bool) -> Vec<u64> {
    let upstream: Vec<f32> = (0..batch.rows).map(|row| 1.0 + row as f32).collect();
    let call = Call { in_place, upstream: Some(&upstream), ..Call::default() };
    let Found { grad, losses, .. } = &evaluate(&call, ce, batch);
    let bits = evaluate(&call, ce, batch).bits();
    // Alone, the gradient keeps its exponentials where it will be.
    let mut alone = batch.logits.clone();
    let mut out = Watched::new(batch.rows, batch.classes);
    let mut losses_alone = vec![0.0; batch.rows];
    let upstream: Vec<f64> = upstream.iter().map(|&g| f64::from(g)).collect();
    let request = Request::new().losses(&mut losses_alone).upstream(&upstream);
    let (rows, classes) = (batch.rows, batch.classes);
    if in_place {
        let x = MatrixMut::new(&mut alone, rows, classes).expect("the shape fits");
        ce.run_in_place(x, &batch.targets, request).expect("the batch is valid");
    } else {
        let x = Matrix::new(&batch.logits, rows, classes).expect("the shape fits");
        ce.run(x, &batch.targets, request.grad(out.matrix_mut())).expect("the batch is valid");
        alone = out.elements("grad");
    }
    let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    for row in 0..rows {
        let columns = row * classes..(row + 1) * classes;
        assert!(same(&alone[columns.clone()], &grad[columns]), "row {row} of {rows} x {classes}");
    }
    assert!(same(&losses_alone, losses), "losses of {rows} x {classes}");
    bits
}

#[test]
fn results_have_the_same_bits_on_every_backend_for_all_thread_counts_and_in_place() {
    for (rows, classes) in [(40, 3), (37, 64), (21, 130), (70, 1000), (3, 30_001)] {
        let mut batch = Doubles::near(&Batch::random(rows, classes, 9));
        for x in &mut batch.logits {
            *x *= 3.7;
        }
        let mut expected = None;
        for backend in fused_backends() {
            for parallelism in PARALLELISMS {
                for in_place in [false, true] {
                    let builder = CrossEntropy::builder().backend(backend).parallelism(parallelism);
                    let ce = builder.label_smoothing(0.1).z_loss(1e-3).build().expect("it is available");
                    let bits = all_bits(&ce, &batch, in_place);
                    let expected = expected.get_or_insert_with(|| bits.clone());
                    assert!(
                        bits == *expected,
                        "{rows} x {classes}, {backend}, {parallelism:?}, in place {in_place}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_as_in_a_batch() {
    let batch = Doubles::near(&Batch::random(23, 150, 4));
    let ce = plain(Backend::detect());
    let all = evaluate(&Call::default(), &ce, &batch);
    for row in 0..batch.rows {
        let alone = Doubles {
            rows: 1,
            classes: 150,
            logits: batch.row(row).to_vec(),
            targets: vec![batch.targets[row]],
        };
        let found = evaluate(&Call::default(), &ce, &alone);
        for i in 0..150 {
            assert_eq!(found.grad[i].to_bits(), all.grad[row * 150 + i].to_bits(), "row {row}, column {i}");
        }
        assert_eq!(found.lse[0].to_bits(), all.lse[row].to_bits(), "row {row}");
    }
}

#[test]
fn a_gradient_that_is_added_is_the_gradient_rounded_once_more() {
    for backend in backends() {
        for classes in [5, 64, 333] {
            let batch = Doubles::near(&Batch::random(12, classes, 3));
            let ce = CrossEntropy::builder().backend(backend).label_smoothing(0.2).build().unwrap();
            let expected = evaluate(&Call::default(), &ce, &batch).grad;
            let before: Vec<f64> =
                (0..12 * classes).map(|i| if i % 7 == 3 { 1e-310 } else { 0.1 * i as f64 }).collect();
            let mut grad = Watched::holding(&before, 12, classes);
            let request = Request::new().accumulate(grad.matrix_mut());
            let x = Matrix::new(&batch.logits, 12, classes).unwrap();
            ce.run(x, &batch.targets, request).expect("the batch is valid");
            for (i, found) in grad.elements("grad").into_iter().enumerate() {
                let sum = before[i] + expected[i];
                let sum = if sum.is_subnormal() { 0.0 } else { sum };
                let expected = if batch.targets[i / classes] == -100 { before[i] } else { sum };
                assert_eq!(found.to_bits(), expected.to_bits(), "{i} of 12 x {classes}, {backend}");
            }
        }
    }
}

#[test]
fn an_error_leaves_every_output_untouched() {
    let x = [0.5_f64; 6];
    let ce = CrossEntropy::default();
    let mut grad = Watched::new(2, 3);
    let logits = Matrix::new(&x, 2, 3).unwrap();
    let found = ce.loss_and_grad(logits, &[0, 3], grad.matrix_mut());
    assert_eq!(found, Err(Error::TargetOutOfRange { row: 1, target: 3, classes: 3 }));
    let mut losses = [7.0; 3];
    let request = Request::new().grad(grad.matrix_mut()).losses(&mut losses);
    let found = ce.run(logits, &[0, 1], request).map(|summary| summary.loss);
    assert_eq!(found, Err(Error::LengthMismatch { argument: "losses", expected: 2, actual: 3 }));
    assert_eq!(losses, [7.0; 3]);
    let untouched = Watched::new(2, 3).elements("grad");
    let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
    assert!(grad.elements("grad").iter().zip(&untouched).all(same));
}

#[test]
fn softmax_and_log_softmax_keep_the_bounds_and_so_do_their_products() {
    let mut shares = Shares::default();
    for backend in backends() {
        for classes in [1, 5, 64, 100, 1037] {
            let batch = batch_of_all_kinds(classes, 77);
            let softmax = Softmax::default().backend(backend).unwrap().parallelism(Parallelism::Serial);
            let x = || Matrix::new(&batch.logits, KINDS, classes).unwrap();
            let (mut p, mut ln_p) = (Watched::new(KINDS, classes), Watched::new(KINDS, classes));
            softmax.softmax(x(), p.matrix_mut()).unwrap();
            softmax.log_softmax(x(), ln_p.matrix_mut()).unwrap();
            let mut in_place = batch.logits.clone();
            softmax.softmax_in_place(MatrixMut::new(&mut in_place, KINDS, classes).unwrap()).unwrap();
            let (p, ln_p) = (p.elements("p"), ln_p.elements("ln p"));
            assert_eq!(p, in_place, "{backend}");
            let upstream: Vec<f64> = (0..p.len()).map(|i| (i as f64 * 0.37).sin()).collect();
            let g = || Matrix::new(&upstream, KINDS, classes).unwrap();
            let (mut dx, mut dx_of_log) = (Watched::new(KINDS, classes), Watched::new(KINDS, classes));
            let y = Matrix::new(&p, KINDS, classes).unwrap();
            softmax.softmax_backward(y, g(), dx.matrix_mut()).unwrap();
            let ln_y = Matrix::new(&ln_p, KINDS, classes).unwrap();
            softmax.log_softmax_backward(ln_y, g(), dx_of_log.matrix_mut()).unwrap();
            let (dx, dx_of_log) = (dx.elements("dx"), dx_of_log.elements("dx"));
            let mut jvp_of_log = Watched::new(KINDS, classes);
            softmax.log_softmax_jvp(ln_y, g(), jvp_of_log.matrix_mut()).unwrap();
            let jvp_of_log = jvp_of_log.elements("jvp");
            let in_place = |product: &dyn Fn(MatrixMut<'_, f64>) -> Result<(), Error>| {
                let mut v = upstream.clone();
                product(MatrixMut::new(&mut v, KINDS, classes).unwrap()).unwrap();
                v
            };
            assert_eq!(dx, in_place(&|v| softmax.softmax_backward_in_place(y, v)), "{backend}");
            assert_eq!(dx_of_log, in_place(&|v| softmax.log_softmax_backward_in_place(ln_y, v)), "{backend}");
            assert_eq!(jvp_of_log, in_place(&|v| softmax.log_softmax_jvp_in_place(ln_y, v)), "{backend}");
            for row in 0..KINDS {
                let exact = ExactRow::new(batch.row(row));
                let columns = row * classes..(row + 1) * classes;
                let e = |i: usize| DoubleDouble::from(ln_p[i]).exp();
                let forward: DoubleDouble =
                    columns.clone().map(|i| e(i) * DoubleDouble::from(upstream[i])).sum();
                let (sum, sum_of_log): (DoubleDouble, DoubleDouble) = (
                    columns.clone().map(|i| DoubleDouble::product(p[i], upstream[i])).sum(),
                    columns.clone().map(|i| DoubleDouble::from(upstream[i])).sum(),
                );
                for (class, i) in columns.enumerate() {
                    let context = format!("class {class}, row {row} of {classes}, {backend}");
                    let exact_p = exact.probabilities[class];
                    let gap = exact.gaps[class];
                    let bound = (gap + exact.mean_gap + PROBABILITY) * U_F64 * exact_p.high;
                    shares.note("probability", p[i], exact_p, bound, &context);
                    // From the outputs as they are: a handful of roundings of each term.
                    let product = DoubleDouble::from(p[i]) * (DoubleDouble::from(upstream[i]) - sum);
                    let bound = 8.0 * U_F64 * p[i] * 2.0 + f64::MIN_POSITIVE;
                    assert!((DoubleDouble::from(dx[i]) - product).high.abs() <= bound, "{context}");
                    let e = e(i);
                    let product = DoubleDouble::from(upstream[i]) - e * sum_of_log;
                    let bound =
                        8.0 * U_F64 * (1.0 + (e * sum_of_log).high.abs() + sum_of_log.high.abs() * e.high);
                    assert!((DoubleDouble::from(dx_of_log[i]) - product).high.abs() <= bound, "{context}");
                    // Each |v| is at most 1, and the e add up to 1.
                    let product = DoubleDouble::from(upstream[i]) - forward;
                    let error = (DoubleDouble::from(jvp_of_log[i]) - product).high.abs();
                    assert!(error <= 8.0 * U_F64 * 2.0, "{error:e}, {context}");
                }
            }
        }
    }
    shares.print();
}

/// What `f64` can do without care: a few units for each operation and each class.
#[test]
fn the_reference_takes_rows_of_f64() {
    let batch = Doubles::near(&Batch::random(20, 50, 12));
    let ce = CrossEntropy::builder().label_smoothing(0.1).smoothing(xent::Smoothing::LiveClasses);
    let ce = ce.z_loss(0.1).build().unwrap();
    let x = Matrix::new(&batch.logits, 20, 50).unwrap();
    let outcome = reference::cross_entropy(&ce, x, &batch.targets).expect("the batch is valid");
    let found = evaluate(&Call::default(), &ce, &batch);
    assert!((outcome.loss / found.summary.loss - 1.0).abs() < 1e-13, "{}", outcome.loss);
    for (a, b) in outcome.grad.iter().zip(&found.grad) {
        assert!((a - b).abs() <= 1e-12 * (1.0 + a.abs()), "{a:e} and {b:e}");
    }
}
