//! Logits of 16 bits: the bounds, the bits and the memory that calls on `f32` keep to.
#![cfg(feature = "half")]

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::{Expected, check_rounded_log_softmax, check_rounded_softmax};
use crate::support::buffer::Layout;
use crate::support::evaluation::{Call, Evaluation, assert_same_bits};
use crate::support::halves::{Half, HalfBuffer, evaluate, narrow, rounded, widen};
use crate::support::shards::Split;
use crate::support::{PARALLELISMS, backends, fused_backends};
use core::ops::Range;
use half::{bf16, f16};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Matrix, MatrixMut, Parallelism, Reduction, Request, RowState,
    Softmax,
};

/// Lies anywhere, its rows apart.
const ODD: Layout = Layout { offset: 3, padding: 5 };

/// Both sides of every boundary at which the kernels do something else.
fn class_counts() -> impl Iterator<Item = usize> {
    (1..=130).chain([1000, 2047, 2048, 2049, 2050, 70_000])
}

/// Rows of every kind, and a tile that is not whole, where that takes no time.
fn rows_for(classes: usize) -> usize {
    match classes {
        0..=130 => 37,
        131..=4000 => 11,
        _ => 10,
    }
}

/// Options alone and together.
fn variants(classes: usize) -> Vec<(&'static str, CrossEntropyBuilder)> {
    let plain = || CrossEntropy::builder().ignore_index(IGNORE_INDEX);
    let weight: Vec<f32> = (0..classes).map(|class| (class % 5) as f32 * 0.75).collect();
    vec![
        ("plain", plain()),
        ("sum", plain().reduction(Reduction::Sum)),
        ("smoothing", plain().label_smoothing(0.1).reduction(Reduction::Sum)),
        ("everything", plain().label_smoothing(0.2).weight(weight).z_loss(1e-3).reduction(Reduction::Sum)),
    ]
}

fn batch<T: Half>(rows: usize, classes: usize, seed: u64) -> Batch {
    rounded::<T>(&Batch::random(rows, classes, seed))
}

fn build(builder: &CrossEntropyBuilder, backend: Backend, parallelism: Parallelism) -> CrossEntropy {
    builder.clone().backend(backend).parallelism(parallelism).build().unwrap()
}

/// Each test is of both types.
macro_rules! of_both_types {
    ($($name:ident => $check:ident),+ $(,)?) => {
        mod of_bf16 {
            $(#[test] fn $name() { super::$check::<half::bf16>(); })+
        }
        mod of_f16 {
            $(#[test] fn $name() { super::$check::<half::f16>(); })+
        }
    };
}

of_both_types! {
    every_output_keeps_the_bounds => check_bounds,
    upstream_gradients_keep_the_bounds => check_upstream,
    fused_backends_give_the_same_bits => check_backends,
    threads_alignment_padding_and_place_change_no_bit => check_bits,
    other_outputs_change_no_bit => check_outputs,
    a_sum_is_rounded_like_a_gradient => check_accumulate,
    stores_past_the_caches_change_no_bit => check_streaming,
    nan_and_infinite_rows_are_nan_and_no_other_row_changes => check_nan_rows,
    softmax_functions_keep_the_bounds_in_and_out_of_place => check_softmax_functions,
    finite_numbers_pass_through_a_backward_pass_unchanged => check_every_number,
    the_gradient_at_the_target_is_rounded_once => check_one_rounding,
    small_stacks_are_enough => check_small_stack,
    shards_keep_the_bounds => check_shards,
}

fn check_bounds<T: Half>() {
    for classes in class_counts() {
        let batch = batch::<T>(rows_for(classes), classes, classes as u64);
        for (name, builder) in variants(classes) {
            let expected_of = |ce: &CrossEntropy, found: &Evaluation, context: &str| {
                Expected::new(ce, &batch, None).rounded(T::ROUNDING).check(found, context);
            };
            for backend in backends() {
                let ce = build(&builder, backend, Parallelism::Serial);
                for in_place in [false, true] {
                    let found =
                        evaluate::<T>(&Call { outputs: ODD, in_place, ..Call::default() }, &ce, &batch);
                    let context =
                        format!("{} of {classes} classes, {name}, {backend}, in place {in_place}", T::NAME);
                    expected_of(&ce, &found, &context);
                }
                if classes > 2050 && name == "sum" {
                    // Once is enough.
                    break;
                }
            }
        }
    }
}

fn check_upstream<T: Half>() {
    for classes in [7, 100, 3000] {
        let batch = batch::<T>(37, classes, 5);
        let mut random = Random::new(6);
        // Down to where products are subnormal in f16, and up to where they overflow.
        let upstream: Vec<f32> = (0..37).map(|row| random.normal() * 10.0_f32.powi(row % 13 - 6)).collect();
        for backend in backends() {
            let ce = build(&variants(classes)[3].1, backend, Parallelism::Serial);
            let found = evaluate::<T>(
                &Call { upstream: Some(&upstream), logits: ODD, outputs: ODD, ..Call::default() },
                &ce,
                &batch,
            );
            let context = format!("{} of {classes} classes, {backend}", T::NAME);
            Expected::new(&ce, &batch, Some(&upstream)).rounded(T::ROUNDING).check(&found, &context);
        }
    }
}

fn check_shards<T: Half>() {
    for classes in [1, 7, 100, 3000, 70_000] {
        let rows = rows_for(classes);
        let batch = batch::<T>(rows, classes, 15);
        let mut random = Random::new(classes as u64);
        for (name, builder) in variants(classes) {
            for backend in backends() {
                let ce = build(&builder, backend, Parallelism::Rayon);
                let split = Split::random(classes, 5, &mut random);
                let columns_of = |range: &Range<usize>| {
                    let rows = (0..rows).flat_map(|row| &batch.row(row)[range.clone()]);
                    narrow::<T>(&rows.copied().collect::<Vec<f32>>())
                };
                let shards = ce.shards(&batch.targets, classes);
                let mut states = vec![RowState::EMPTY; rows];
                for range in &split.ranges {
                    let columns = columns_of(range);
                    let columns = Matrix::new(&columns, rows, range.len()).unwrap();
                    shards.accumulate(columns, range.start, &mut states).unwrap();
                }

                let mut found = evaluate::<T>(&Call::default(), &ce, &batch);
                found.loss = shards.losses(&states, &mut found.losses).unwrap().loss;
                shards.lse(&states, &mut found.lse).unwrap();
                for range in &split.ranges {
                    let mut columns = columns_of(range);
                    let mut grad = columns.clone();
                    let out = MatrixMut::new(&mut grad, rows, range.len()).unwrap();
                    let logits = Matrix::new(&columns, rows, range.len()).unwrap();
                    shards.grad(logits, range.start, &states, out).unwrap();
                    let in_place = MatrixMut::new(&mut columns, rows, range.len()).unwrap();
                    shards.grad_in_place(in_place, range.start, &states).unwrap();
                    for row in 0..rows {
                        let of_row = row * range.len()..(row + 1) * range.len();
                        let (grad, in_place) = (widen(&grad[of_row.clone()]), widen(&columns[of_row]));
                        assert_same_bits("grad", range.len(), &grad, &in_place, name);
                        found.grad[row * classes..][range.clone()].copy_from_slice(&grad);
                    }
                }
                let context = format!("{} of {classes} classes, {name}, {backend}, {split:?}", T::NAME);
                Expected::new(&ce, &batch, None).rounded(T::ROUNDING).check(&found, &context);
            }
        }
    }
}

fn check_backends<T: Half>() {
    for classes in class_counts() {
        let batch = batch::<T>(rows_for(classes), classes, 7 + classes as u64);
        for (name, builder) in variants(classes) {
            let mut first: Option<Evaluation> = None;
            for backend in fused_backends() {
                let ce = build(&builder, backend, Parallelism::Serial);
                let found = evaluate::<T>(&Call::default(), &ce, &batch);
                let context = format!("{} of {classes} classes, {name}, {backend}", T::NAME);
                first.get_or_insert_with(|| found.clone()).assert_equal(&found, &context);
            }
        }
    }
}

fn check_bits<T: Half>() {
    for classes in [1, 10, 80, 95, 96, 100, 127, 128, 513, 2048, 2049, 70_000, 600_000] {
        let rows = if classes > 100_000 { 2 } else { 200_000 / classes + 3 };
        let batch = batch::<T>(rows.min(600), classes, 11);
        for (name, builder) in variants(classes) {
            for backend in backends() {
                let plain = build(&builder, backend, Parallelism::Serial);
                let first = evaluate::<T>(&Call::default(), &plain, &batch);
                for parallelism in PARALLELISMS {
                    let ce = build(&builder, backend, parallelism);
                    for (layouts, in_place) in
                        [([ODD; 2], true), ([Layout { offset: 1, padding: 0 }, ODD], false)]
                    {
                        let found = evaluate::<T>(
                            &Call { logits: layouts[0], outputs: layouts[1], in_place, ..Call::default() },
                            &ce,
                            &batch,
                        );
                        let context = format!(
                            "{} of {classes} classes, {name}, {backend}, {parallelism:?}, {layouts:?}",
                            T::NAME
                        );
                        first.assert_equal(&found, &context);
                    }
                }
                let alone = batch.select([batch.rows - 1]);
                let alone = evaluate::<T>(
                    &Call { upstream: Some(&[1.5]), logits: ODD, outputs: ODD, ..Call::default() },
                    &plain,
                    &alone,
                );
                let upstream = vec![1.5; batch.rows];
                let together = evaluate::<T>(
                    &Call {
                        upstream: Some(&upstream),
                        logits: ODD,
                        outputs: ODD,
                        in_place: true,
                        ..Call::default()
                    },
                    &plain,
                    &batch,
                );
                alone.assert_rows_equal(&together, batch.rows - 1..batch.rows, "a row alone");
            }
        }
    }
}

/// The gradient alone has the bits that it has beside all other outputs.
fn check_outputs<T: Half>() {
    for classes in [10, 128, 1000, 2048, 5000] {
        let batch = batch::<T>(40, classes, 13);
        let (logits, targets) = (narrow::<T>(&batch.logits), &batch.targets);
        let (rows, len) = (batch.rows, batch.logits.len());
        for backend in backends() {
            let ce = build(&variants(classes)[2].1, backend, Parallelism::Serial);
            let all = evaluate::<T>(&Call::default(), &ce, &batch);
            let mut grad = vec![T::from_f32(9.0); len];
            let x = Matrix::new(&logits, rows, classes).unwrap();
            let loss =
                ce.loss_and_grad(x, targets, MatrixMut::new(&mut grad, rows, classes).unwrap()).unwrap();
            assert_eq!(widen(&grad), all.grad, "{} of {classes} classes, {backend}", T::NAME);
            let mut in_place = logits.clone();
            let x_mut = MatrixMut::new(&mut in_place, rows, classes).unwrap();
            let losses = [ce.loss(x, targets).unwrap(), ce.loss_and_grad_in_place(x_mut, targets).unwrap()];
            assert_eq!(in_place, grad, "{} of {classes} classes, {backend}", T::NAME);
            assert_eq!([loss; 2], losses);
            assert_eq!(loss.to_bits(), all.loss.to_bits());

            let mut probabilities = vec![T::from_f32(9.0); len];
            let request =
                Request::new().probabilities(MatrixMut::new(&mut probabilities, rows, classes).unwrap());
            ce.run(x, targets, request).unwrap();
            assert_eq!(widen(&probabilities), all.probabilities, "{} of {classes}, {backend}", T::NAME);
        }
    }
}

/// What is added to what is there is that of the call that does not add, but for the rounding of both.
fn check_accumulate<T: Half>() {
    for classes in [2, 10, 128, 1000, 2049, 70_000] {
        let batch = batch::<T>(40.min(400_000 / classes), classes, 37);
        let (logits, rows) = (narrow::<T>(&batch.logits), batch.rows);
        let mut random = Random::new(41);
        let before: Vec<T> = batch.logits.iter().map(|_| T::from_f32(random.normal())).collect();
        for (name, builder) in variants(classes) {
            for backend in backends() {
                let ce = build(&builder, backend, Parallelism::Serial);
                let gradient = evaluate::<T>(&Call::default(), &ce, &batch).grad;
                let mut sum = before.clone();
                let request = Request::new().accumulate(MatrixMut::new(&mut sum, rows, classes).unwrap());
                ce.run(Matrix::new(&logits, rows, classes).unwrap(), &batch.targets, request).unwrap();
                for i in 0..sum.len() {
                    let [sum, before] = [sum[i], before[i]].map(|x| f64::from(x.to_f32()));
                    let exact = before + f64::from(gradient[i]);
                    let bound = T::ROUNDING.unit * (f64::from(gradient[i]).abs() + exact.abs());
                    let bound = bound + 2.0 * T::ROUNDING.half_of_smallest + f64::from(f32::MIN_POSITIVE);
                    assert!(
                        (sum - exact).abs() <= bound,
                        "{sum:e} instead of {exact:e}, column {} of {classes}, {}, {name}, {backend}",
                        i % classes,
                        T::NAME
                    );
                }
            }
        }
    }
}

/// Batches larger than the caches.
fn check_streaming<T: Half>() {
    for (rows, classes) in [(9000, 1001), (70, 130_003)] {
        let few = batch::<T>(10, classes, 17);
        let all = few.select((0..rows).map(|row| row % 10));
        let (logits, layout) = (narrow::<T>(&all.logits), Layout { offset: 5, padding: 0 });
        for backend in backends() {
            let ce = build(&variants(classes)[1].1, backend, Parallelism::Rayon);
            let mut grad = HalfBuffer::<T>::unwritten(rows, classes, layout);
            let x = Matrix::new(&logits, rows, classes).unwrap();
            ce.loss_and_grad(x, &all.targets, grad.matrix_mut()).unwrap();
            let expected =
                evaluate::<T>(&Call { logits: layout, outputs: layout, ..Call::default() }, &ce, &few).grad;
            for (row, grad) in grad.elements("grad").chunks(classes).enumerate() {
                let of_row = &expected[row % 10 * classes..][..classes];
                assert!(grad == of_row, "{} row {row} of {rows} x {classes}, {backend}", T::NAME);
            }
        }
    }
}

fn check_nan_rows<T: Half>() {
    for classes in [1, 5, 80, 95, 96, 128, 200, 2048, 2049, 5000] {
        let plain = batch::<T>(20, classes, 19);
        let mut spoilt = plain.clone();
        for (i, value) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            for row in [1 + i, 7 + 4 * i] {
                spoilt.targets[row] = (row % classes) as i64;
                if value == f32::NEG_INFINITY {
                    spoilt.row_mut(row).fill(value);
                } else {
                    spoilt.row_mut(row)[(row * 31) % classes] = value;
                }
            }
        }
        for backend in backends() {
            let ce = build(&variants(classes)[1].1, backend, Parallelism::Serial);
            for in_place in [false, true] {
                let found = evaluate::<T>(
                    &Call { logits: ODD, outputs: ODD, in_place, ..Call::default() },
                    &ce,
                    &spoilt,
                );
                let context = format!("{} of {classes} classes, {backend}, {in_place}", T::NAME);
                Expected::new(&ce, &spoilt, None).rounded(T::ROUNDING).check(&found, &context);
                let before = evaluate::<T>(
                    &Call { logits: ODD, outputs: ODD, in_place, ..Call::default() },
                    &ce,
                    &plain,
                );
                for row in (0..20).filter(|row| ![1, 2, 3, 7, 11, 15].contains(row)) {
                    found.row(row).assert_rows_equal(&before, row..row + 1, &context);
                }
            }
        }
    }
}

fn check_softmax_functions<T: Half>() {
    for classes in [1, 3, 16, 80, 95, 96, 128, 130, 2048, 2049, 2050, 9001] {
        let batch = batch::<T>(20, classes, 23);
        let logits = narrow::<T>(&batch.logits);
        fn matrix_of<T>(x: &[T], classes: usize) -> Matrix<'_, T> {
            Matrix::new(x, 20, classes).unwrap()
        }
        let mut random = Random::new(29);
        let g: Vec<f32> = (0..20 * classes).map(|_| T::from_f32(random.normal()).to_f32()).collect();
        let g = narrow::<T>(&g);
        let mut first: Option<[Vec<f32>; 4]> = None;
        for backend in backends() {
            let softmax = Softmax::default().backend(backend).unwrap();
            let context = format!("{} of {classes} classes, {backend}", T::NAME);
            let [mut p, mut l, mut dp, mut dl] = [(); 4].map(|()| vec![T::from_f32(9.0); 20 * classes]);
            let x = matrix_of(&logits, classes);
            softmax.softmax(x, MatrixMut::new(&mut p, 20, classes).unwrap()).unwrap();
            softmax.log_softmax(x, MatrixMut::new(&mut l, 20, classes).unwrap()).unwrap();
            let upstream = matrix_of(&g, classes);
            let out = MatrixMut::new(&mut dp, 20, classes).unwrap();
            softmax.softmax_backward(matrix_of(&p, classes), upstream, out).unwrap();
            let out = MatrixMut::new(&mut dl, 20, classes).unwrap();
            softmax.log_softmax_backward(matrix_of(&l, classes), upstream, out).unwrap();

            for (row, x) in batch.logits.chunks(classes).enumerate() {
                let columns = row * classes..(row + 1) * classes;
                check_rounded_softmax(x, &widen(&p[columns.clone()]), T::ROUNDING, &context);
                check_rounded_log_softmax(x, &widen(&l[columns.clone()]), T::ROUNDING, &context);
                check_backward::<T>([&p, &g, &dp].map(|x| widen(&x[columns.clone()])), &context);
            }

            let mut in_place = [logits.clone(), logits.clone(), g.clone(), g.clone()];
            let [a, b, c, d] = in_place.each_mut().map(|x| MatrixMut::new(x, 20, classes).unwrap());
            softmax.softmax_in_place(a).unwrap();
            softmax.log_softmax_in_place(b).unwrap();
            softmax.softmax_backward_in_place(matrix_of(&p, classes), c).unwrap();
            softmax.log_softmax_backward_in_place(matrix_of(&l, classes), d).unwrap();
            let found = [p, l, dp, dl].map(|x| widen(&x));
            for (i, (found, in_place)) in found.iter().zip(&in_place).enumerate() {
                assert_same(found, &widen(in_place), &format!("function {i} in place, {context}"));
            }
            if fused_backends().contains(&backend) {
                for (first, found) in first.get_or_insert_with(|| found.clone()).iter().zip(&found) {
                    assert_same(first, found, &context);
                }
            }
        }
    }
}

/// The same numbers, any NaN for NaN.
fn assert_same(a: &[f32], b: &[f32], context: &str) {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    assert!(a.len() == b.len() && a.iter().zip(b).all(same), "{context}");
}

/// p (g - sum g p), with an error of 4 u for each term, in f32, and the rounding of the result.
fn check_backward<T: Half>([p, g, dx]: [Vec<f32>; 3], context: &str) {
    if p.iter().any(|p| p.is_nan()) {
        assert!(dx.iter().all(|dx| dx.is_nan()), "{context}");
        return;
    }
    let terms = || p.iter().zip(&g).map(|(&p, &g)| f64::from(p) * f64::from(g));
    let (sum, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
    for ((&p, &g), &dx) in p.iter().zip(&g).zip(&dx) {
        let exact = f64::from(p) * (f64::from(g) - sum);
        let bound = 4.0 * xent::contract::U * f64::from(p) * (f64::from(g).abs() + magnitude);
        let bound = bound + T::ROUNDING.unit * (exact.abs() + bound) + T::ROUNDING.half_of_smallest;
        let error = (f64::from(dx) - exact).abs();
        assert!(error <= bound + f64::from(f32::MIN_POSITIVE), "{dx:e} instead of {exact:e}, {context}");
    }
}

/// exp(-inf) is 0: g - 0 is g. So every number goes through a load and a store, alone and as part of a vector.
fn check_every_number<T: Half>() {
    let every: Vec<T> = (0..=u16::MAX).map(T::from_bits).filter(|x| !x.to_f32().is_infinite()).collect();
    for backend in backends() {
        let softmax = Softmax::default().backend(backend).unwrap();
        for len in [1, 7, 16, 37] {
            // The sum of g is to stay finite.
            let fits = |x: &&T| x.to_f32().is_nan() || (x.to_f32() * len as f32).is_finite();
            for &x in every.iter().filter(fits) {
                let y = vec![T::from_f32(f32::NEG_INFINITY); len];
                let mut g = vec![x; len];
                let upstream = MatrixMut::new(&mut g, 1, len).unwrap();
                softmax.log_softmax_backward_in_place(Matrix::new(&y, 1, len).unwrap(), upstream).unwrap();
                // No subnormal f32 is stored, nor the bf16 that it would be; subnormal f16 are normal f32.
                let wide = x.to_f32();
                let kept = if wide.is_subnormal() || wide == 0.0 { 0.0 } else { wide };
                let is_kept = |g: &T| g.to_f32() == kept || kept.is_nan() && g.to_f32().is_nan();
                assert!(g.iter().all(is_kept), "{} {:#x} on {backend}: {g:?}", T::NAME, x.bits());
            }
        }
    }
}

/// In rows of two classes the gradient at the target is -1 / (1 + exp(gap)); its exact value is nearer to the result than
/// to either neighbour, to within what `f64` rounds.
fn check_one_rounding<T: Half>() {
    for backend in backends() {
        let ce = build(&variants(2)[1].1, backend, Parallelism::Serial);
        for step in 0..20_000 {
            let gap = T::from_f32(step as f32 / 1000.0);
            let x = [gap, T::from_f32(0.0)];
            for target in 0..2_u8 {
                let mut grad = x;
                let matrix = MatrixMut::new(&mut grad, 1, 2).unwrap();
                ce.loss_and_grad_in_place(matrix, &[target]).unwrap();
                let gap = f64::from(gap.to_f32()) * if target == 0 { 1.0 } else { -1.0 };
                let exact = 1.0 / (1.0 + gap.exp());
                let found = grad[usize::from(target)];
                let magnitude = found.bits() & 0x7fff;
                let neighbours =
                    [magnitude.saturating_sub(1), magnitude + 1].map(|bits| T::from_bits(bits).to_f32());
                let error_of = |x: f32| (f64::from(x.abs()) - exact).abs();
                let least = neighbours.map(error_of).into_iter().fold(f64::INFINITY, f64::min);
                // The gap's exponential is in f32, to within the contract's bound.
                let slack = 16.0 * xent::contract::U * exact;
                assert!(error_of(found.to_f32()) <= least + slack, "{found:?} for {exact:e}, {backend}");
            }
        }
    }
}

/// Scratch memory is on the stack.
fn check_small_stack<T: Half>() {
    let batches: Vec<Batch> =
        [10, 80, 130, 1000, 2048, 5000].into_iter().map(|classes| batch::<T>(20, classes, 31)).collect();
    let logits: Vec<Vec<T>> = batches.iter().map(|batch| narrow(&batch.logits)).collect();
    let call = move || {
        for (batch, logits) in batches.iter().zip(&logits) {
            let ce = CrossEntropy::builder().parallelism(Parallelism::Serial).build().unwrap();
            let mut grad = vec![T::from_f32(0.0); logits.len()];
            let x = Matrix::new(logits, batch.rows, batch.classes).unwrap();
            let grad = MatrixMut::new(&mut grad, batch.rows, batch.classes).unwrap();
            ce.loss_and_grad(x, &batch.targets, grad).unwrap();
        }
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(call).unwrap().join().unwrap();
}

#[test]
fn both_types_go_by_their_own_names() {
    assert_eq!([bf16::NAME, f16::NAME], ["bf16", "f16"]);
}
