//! A row's results depend on the row's bits and on the options, and on nothing else.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::buffer::{Buffer, Layout};
use crate::support::evaluation::{Call, Evaluation, assert_same_bits};
use crate::support::{PARALLELISMS, backends, class_counts, fused_backends, most_cache_bytes};
use rayon::{ThreadPool, ThreadPoolBuilder};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Matrix, MatrixMut, Parallelism, Reduction, Request,
    Smoothing, Softmax,
};

/// Rows for a number of classes: for few classes, more than two vectors of rows, and an incomplete one.
fn rows_for(classes: usize) -> usize {
    match classes {
        0..=130 => 37,
        131..=4096 => 11,
        _ => 3,
    }
}

/// With and without class weights, smoothing, z-loss and focal loss. The sum, because the mean's divisor belongs to the batch.
fn variants(classes: usize) -> [(&'static str, CrossEntropyBuilder); 7] {
    let mut random = Random::new(classes as u64);
    let weight: Vec<f32> =
        (0..classes).map(|_| if random.below(8) == 0 { 0.0 } else { random.between(0.1, 3.0) }).collect();
    let plain = CrossEntropy::builder().reduction(Reduction::Sum);
    [
        ("plain", plain.clone()),
        ("weights", plain.clone().weight(weight.clone())),
        ("smoothing", plain.clone().label_smoothing(0.1)),
        ("z-loss", plain.clone().z_loss(0.01)),
        ("focal", plain.clone().focal_gamma(2.0)),
        (
            "smoothing of live classes",
            plain.clone().weight(weight.clone()).smoothing(Smoothing::LiveClasses).label_smoothing(0.2),
        ),
        ("weights and smoothing", plain.weight(weight).label_smoothing(0.3)),
    ]
}

/// Fewer of the class counts, for tests that walk another dimension as well.
fn some_class_counts() -> impl Iterator<Item = usize> {
    let some = [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64, 79, 80, 95, 96, 127, 128, 129, 130];
    class_counts().into_iter().filter(move |classes| *classes > 130 || some.contains(classes))
}

fn build(builder: &CrossEntropyBuilder, backend: Backend, parallelism: Parallelism) -> CrossEntropy {
    builder.clone().backend(backend).parallelism(parallelism).build().expect("the backend is available")
}

#[test]
fn fused_backends_give_the_same_bits() {
    let backends = fused_backends();
    for classes in class_counts() {
        let batch = Batch::random(rows_for(classes), classes, 1);
        for (variant, builder) in variants(classes) {
            let evaluate = |backend| Evaluation::of(&build(&builder, backend, Parallelism::Serial), &batch);
            let mut others = backends.iter().copied();
            let Some(first) = others.next() else { return };
            let expected = evaluate(first);
            for backend in others {
                let context = format!("{backend} and {first}, {classes} classes, {variant}");
                evaluate(backend).assert_equal(&expected, &context);
            }
        }
    }
}

#[test]
fn fused_backends_give_the_same_bits_for_logits_of_every_magnitude() {
    let backends = fused_backends();
    for classes in some_class_counts() {
        let mut batch = Batch::random(rows_for(classes), classes, 2);
        let mut random = Random::new(3);
        for x in &mut batch.logits {
            // Any finite number that has bits.
            let bits = random.next() as u32;
            *x = f32::from_bits(if bits >> 23 & 0xff == 0xff { bits ^ 1 << 30 } else { bits });
        }
        for (variant, builder) in variants(classes) {
            let evaluate = |backend| Evaluation::of(&build(&builder, backend, Parallelism::Serial), &batch);
            let evaluations: Vec<_> = backends.iter().map(|&backend| (backend, evaluate(backend))).collect();
            for pair in evaluations.windows(2) {
                let context = format!("{} and {}, {classes} classes, {variant}", pair[0].0, pair[1].0);
                pair[0].1.assert_rows_equal(&pair[1].1, 0..batch.rows, &context);
            }
        }
    }
}

fn pools() -> Vec<(usize, ThreadPool)> {
    let pool =
        |threads| ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    [1, 2, 3, 8].map(|threads| (threads, pool(threads))).into()
}

#[test]
fn any_number_of_threads_gives_the_bits_of_one() {
    if cfg!(not(feature = "rayon")) {
        println!("without the feature `rayon` every call runs on one thread: NOT checked");
        return;
    }
    let pools = pools();
    let shapes = [
        (200_001, 1),
        (70_001, 2),
        (20_001, 10),
        (9_000, 17),
        (3_003, 64),
        (1_501, 100),
        (203, 1000),
        (97, 2048),
        (70, 2049),
        (17, 10_000),
        (3, 65_535),
        (3, 65_536),
        (3, 65_537),
        (2, 131_072),
        (2, 200_000),
        (1, 600_003),
    ];
    for backend in backends() {
        for (rows, classes) in shapes {
            let batch = Batch::random(rows, classes, 4);
            for (variant, builder) in variants(classes) {
                let builder = builder.reduction(Reduction::Mean);
                let expected = Evaluation::of(&build(&builder, backend, Parallelism::Serial), &batch);
                let ce = build(&builder, backend, Parallelism::Rayon);
                for (threads, pool) in &pools {
                    let found = pool.install(|| Evaluation::of(&ce, &batch));
                    let context =
                        format!("{backend}, {rows} x {classes}, {variant}, {threads} threads and serial");
                    found.assert_equal(&expected, &context);
                }
            }
        }
    }
}

#[test]
fn rows_are_the_same_alone_as_in_the_batch() {
    for backend in backends() {
        for classes in class_counts() {
            let batch = Batch::random(rows_for(classes), classes, 5);
            for (variant, builder) in variants(classes) {
                let ce = build(&builder, backend, Parallelism::Serial);
                let whole = Evaluation::of(&ce, &batch);
                for row in 0..batch.rows {
                    let alone = Evaluation::of(&ce, &batch.select([row]));
                    let context = format!("{backend}, {classes} classes, {variant}, row {row} alone");
                    alone.assert_rows_equal(&whole, row..row + 1, &context);
                }
            }
        }
    }
}

#[test]
fn rows_with_nan_infinities_and_masks_are_the_same_alone_as_in_the_batch() {
    for backend in backends() {
        for classes in some_class_counts().filter(|&classes| classes <= 1000) {
            let mut batch = Batch::random(rows_for(classes), classes, 6);
            let mut random = Random::new(7);
            for row in 0..batch.rows {
                let target = batch.targets[row];
                let x = batch.row_mut(row);
                let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                match row % 8 {
                    0 => x[random.below(classes)] = f32::NAN,
                    1 => x[random.below(classes)] = f32::INFINITY,
                    2 => x.fill(f32::NEG_INFINITY),
                    3 | 4 => {
                        x.iter_mut().filter(|_| random.below(2) == 0).for_each(|x| *x = f32::NEG_INFINITY)
                    }
                    5 => x[random.below(classes)] = largest,
                    6 if target >= 0 => x[target as usize] = largest,
                    _ => {}
                }
            }
            for (variant, builder) in variants(classes) {
                let ce = build(&builder, backend, Parallelism::Serial);
                let whole = Evaluation::of(&ce, &batch);
                for count in [1, 3, 7] {
                    for start in (0..batch.rows).step_by(count) {
                        let rows = start..batch.rows.min(start + count);
                        let alone = Evaluation::of(&ce, &batch.select(rows.clone()));
                        let context = format!("{backend}, {classes} classes, {variant}, rows {rows:?} alone");
                        alone.assert_rows_equal(&whole, rows, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_the_same_however_the_batch_is_split() {
    let mut random = Random::new(6);
    for backend in backends() {
        for (rows, classes) in [
            (50_000, 1),
            (20_001, 7),
            (9_000, 16),
            (6_007, 33),
            (2_500, 64),
            (1_501, 100),
            (200, 1000),
            (5, 65_537),
        ] {
            let batch = Batch::random(rows, classes, 7);
            for (variant, builder) in variants(classes) {
                for parallelism in PARALLELISMS {
                    let ce = build(&builder, backend, parallelism);
                    let whole = Evaluation::of(&ce, &batch);
                    for _ in 0..2 {
                        let mut start = 0;
                        while start < rows {
                            let end = (start + 1 + random.below(rows / 4 + 1)).min(rows);
                            let part = Evaluation::of(&ce, &batch.select(start..end));
                            let context = format!(
                                "{backend}, {parallelism:?}, {rows} x {classes}, {variant}, rows {start}..{end}"
                            );
                            part.assert_rows_equal(&whole, start..end, &context);
                            start = end;
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_at_every_position() {
    for backend in backends() {
        for classes in class_counts() {
            let batch = Batch::random(rows_for(classes), classes, 8);
            for (variant, builder) in variants(classes) {
                let ce = build(&builder, backend, Parallelism::Serial);
                let expected = Evaluation::of(&ce, &batch);
                let mut positions: Vec<usize> = (0..batch.rows).collect();
                for turn in [1, batch.rows / 2, batch.rows - 1] {
                    positions.rotate_left(turn);
                    positions[..batch.rows / 2].reverse();
                    let found = Evaluation::of(&ce, &batch.select(positions.iter().copied()));
                    for (to, &from) in positions.iter().enumerate() {
                        let context = format!(
                            "{backend}, {classes} classes, {variant}, row {from} of {} at {to}",
                            batch.rows
                        );
                        found.row(to).assert_rows_equal(&expected, from..from + 1, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn alignment_changes_no_bit() {
    for backend in backends() {
        for classes in some_class_counts() {
            let batch = Batch::random(rows_for(classes), classes, 9);
            for (variant, builder) in variants(classes) {
                let ce = build(&builder, backend, Parallelism::Serial);
                let expected = Evaluation::of(&ce, &batch);
                for offset in 0..16 {
                    let call = Call {
                        logits: Layout { offset, padding: 0 },
                        outputs: Layout { offset: (offset * 7 + 3) % 16, padding: 0 },
                        in_place: offset % 4 == 3,
                        ..Call::default()
                    };
                    let context = format!("{backend}, {classes} classes, {variant}, {call:?}");
                    call.evaluate(&ce, &batch).assert_equal(&expected, &context);
                }
            }
        }
    }
}

#[test]
fn row_stride_changes_no_bit() {
    for backend in backends() {
        for classes in some_class_counts() {
            let batch = Batch::random(rows_for(classes), classes, 10);
            for (variant, builder) in variants(classes) {
                for parallelism in PARALLELISMS {
                    let ce = build(&builder, backend, parallelism);
                    let expected = Evaluation::of(&ce, &batch);
                    for (padding, output_padding) in [(1, 0), (0, 3), (13, 16), (64 - classes % 64, 5)] {
                        let call = Call {
                            logits: Layout { offset: 0, padding },
                            outputs: Layout { offset: 0, padding: output_padding },
                            ..Call::default()
                        };
                        let context =
                            format!("{backend}, {parallelism:?}, {classes} classes, {variant}, {call:?}");
                        call.evaluate(&ce, &batch).assert_equal(&expected, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn in_place_gives_the_bits_of_out_of_place() {
    for backend in backends() {
        for classes in class_counts() {
            let batch = Batch::random(rows_for(classes), classes, 11);
            let upstream: Vec<f32> = (0..batch.rows).map(|row| row as f32 - 2.5).collect();
            for (variant, builder) in variants(classes) {
                for parallelism in PARALLELISMS {
                    let ce = build(&builder, backend, parallelism);
                    for upstream in [None, Some(&upstream[..])] {
                        let call = Call { upstream, ..Call::default() };
                        let context = format!(
                            "{backend}, {parallelism:?}, {classes} classes, {variant}, upstream {}",
                            upstream.is_some()
                        );
                        let in_place = Call { in_place: true, ..call }.evaluate(&ce, &batch);
                        in_place.assert_equal(&call.evaluate(&ce, &batch), &context);
                    }
                }
            }
        }
    }
}

/// Outputs that would not fit the last cache go past it. A single row can say that it has any stride, and its size is
/// taken from that.
#[test]
fn stores_past_the_caches_change_no_bit() {
    for backend in backends() {
        for classes in some_class_counts() {
            let batch = Batch::random(10, classes, 12);
            for (variant, builder) in variants(classes) {
                let ce = build(&builder, backend, Parallelism::Rayon);
                let expected = Evaluation::of(&ce, &batch);
                for row in 0..batch.rows {
                    let x = batch.row(row);
                    let far =
                        Matrix::with_row_stride(x, 1, classes, usize::MAX).expect("one row has any stride");
                    for offset in [0, 1, 7, 15] {
                        let layout = Layout { offset, padding: 0 };
                        let mut outputs = [(); 3].map(|()| Buffer::unwritten(1, classes, layout));
                        let [grad, probabilities, log_probabilities] = &mut outputs;
                        let request = Request::new()
                            .grad(grad.matrix_mut())
                            .probabilities(probabilities.matrix_mut())
                            .log_probabilities(log_probabilities.matrix_mut());
                        ce.run(far, &batch.targets[row..=row], request).expect("the row is valid");
                        let exact = expected.row(row);
                        let context =
                            format!("{backend}, {classes} classes, {variant}, row {row}, {layout:?}");
                        let wanted = [&exact.grad, &exact.probabilities, &exact.log_probabilities];
                        for (output, wanted) in outputs.iter().zip(wanted) {
                            output.assert_canaries_live(&context);
                            assert_same_bits("output", classes, &output.elements(), wanted, &context);
                        }
                    }
                }
            }
        }
    }
}

/// A gradient that goes past the caches keeps its exponentials in the rows that are written last. Rows that lie far apart
/// make a batch large, and most of its memory is never touched.
#[test]
fn exponentials_kept_in_later_rows_change_no_bit() {
    let rows = 11;
    // In place, so many rows are one buffer; out of place, there are two.
    let row_stride = most_cache_bytes() / (size_of::<f32>() * rows) + 1;
    let mut logits = vec![0.0; (rows - 1) * row_stride + 70_000];
    for backend in backends() {
        for classes in [3, 10, 80, 127, 128, 130, 1000, 2048, 2049, 5000, 70_000] {
            let mut batch = Batch::random(rows, classes, 21);
            // Next to the last rows, whose memory is used before it is written.
            batch.row_mut(4)[classes / 2] = f32::NAN;
            batch.row_mut(7)[classes / 3] = f32::NAN;
            batch.row_mut(rows - 1)[0] = f32::INFINITY;
            batch.targets[6] = IGNORE_INDEX;
            batch.targets[rows - 2] = IGNORE_INDEX;
            let fill = |logits: &mut [f32]| {
                for row in 0..rows {
                    logits[row * row_stride..][..classes].copy_from_slice(batch.row(row));
                }
            };
            for (variant, builder) in variants(classes) {
                for parallelism in PARALLELISMS {
                    let ce = build(&builder, backend, parallelism);
                    let expected = Evaluation::of(&ce, &batch);
                    let context =
                        format!("{backend}, {classes} classes, {variant}, {parallelism:?}, in place");
                    for with_lse in [false, true] {
                        fill(&mut logits);
                        // With lse, the logits are needed again, and so no exponentials are kept.
                        let mut lse = vec![0.0; rows];
                        let request = if with_lse { Request::new().lse(&mut lse) } else { Request::new() };
                        let x = MatrixMut::with_row_stride(&mut logits, rows, classes, row_stride)
                            .expect("the memory is as large as that");
                        let summary =
                            ce.run_in_place(x, &batch.targets, request).expect("the batch is valid");
                        assert_eq!(summary.loss.to_bits(), expected.loss.to_bits(), "{context}");
                        let found: Vec<f32> =
                            logits.chunks(row_stride).flat_map(|row| &row[..classes]).copied().collect();
                        assert_same_bits("grad", classes, &found, &expected.grad, &context);
                    }

                    fill(&mut logits);
                    let far = Matrix::with_row_stride(&logits, rows, classes, row_stride)
                        .expect("the memory is as large as that");
                    for layout in [Layout { offset: 0, padding: 0 }, Layout { offset: 3, padding: 5 }] {
                        let mut grad = Buffer::unwritten(rows, classes, layout);
                        let loss = ce.loss_and_grad(far, &batch.targets, grad.matrix_mut());
                        let loss = loss.expect("the batch is valid");
                        let context =
                            format!("{backend}, {classes} classes, {variant}, {parallelism:?}, {layout:?}");
                        grad.assert_canaries_live(&context);
                        assert_eq!(loss.to_bits(), expected.loss.to_bits(), "{context}");
                        assert_same_bits("grad", classes, &grad.elements(), &expected.grad, &context);

                        let mut probabilities = Buffer::unwritten(rows, classes, layout);
                        let request = Request::new().probabilities(probabilities.matrix_mut());
                        ce.run(far, &batch.targets, request).expect("the batch is valid");
                        probabilities.assert_canaries_live(&context);
                        let (found, wanted) = (probabilities.elements(), &expected.probabilities);
                        assert_same_bits("probabilities", classes, &found, wanted, &context);
                    }
                }
            }
        }
    }
}

/// Outputs besides the reduced loss.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Output {
    Losses,
    Lse,
    Argmax,
    Probabilities,
    LogProbabilities,
    /// All others, which have one number for each row.
    OfRows,
}

#[test]
fn other_outputs_change_no_bit() {
    const OUTPUTS: [Output; 6] = [
        Output::Losses,
        Output::Lse,
        Output::Argmax,
        Output::Probabilities,
        Output::LogProbabilities,
        Output::OfRows,
    ];
    for backend in backends() {
        for classes in some_class_counts().filter(|classes| !(65_538..).contains(classes)) {
            let rows = rows_for(classes).min(if classes < 65_000 { 37 } else { 2 });
            let batch = Batch::random(rows, classes, 13);
            let [plain, .., both] = variants(classes);
            for (variant, builder) in [plain, both] {
                let ce = build(&builder, backend, Parallelism::Serial);
                let expected = Evaluation::of(&ce, &batch);
                for subset in 0..1 << OUTPUTS.len() {
                    let has = |output: Output| subset >> output as usize & 1 == 1;
                    // Without a gradient, with one, and with one in place.
                    for gradients in 0..3 {
                        let mut found = Evaluation::of(&ce, &batch.select([]));
                        found.losses.resize(rows, f32::NAN);
                        found.lse.resize(rows, f32::NAN);
                        found.argmax.resize(rows, 0);
                        found.target_log_probabilities.resize(rows, f32::NAN);
                        found.argmax_probabilities.resize(rows, f32::NAN);
                        found.entropies.resize(rows, f32::NAN);
                        found.target_ranks.resize(rows, 0);
                        found.probabilities.resize(rows * classes, f32::NAN);
                        found.log_probabilities.resize(rows * classes, f32::NAN);
                        found.grad = batch.logits.clone();

                        let mut request = Request::new();
                        if has(Output::Losses) {
                            request = request.losses(&mut found.losses);
                        }
                        if has(Output::Lse) {
                            request = request.lse(&mut found.lse);
                        }
                        if has(Output::Argmax) {
                            request = request.argmax(&mut found.argmax);
                        }
                        if has(Output::OfRows) {
                            request = request
                                .target_log_probabilities(&mut found.target_log_probabilities)
                                .argmax_probabilities(&mut found.argmax_probabilities)
                                .entropies(&mut found.entropies)
                                .target_ranks(&mut found.target_ranks);
                        }
                        if has(Output::Probabilities) {
                            request =
                                request.probabilities(matrix_mut(&mut found.probabilities, rows, classes));
                        }
                        if has(Output::LogProbabilities) {
                            request = request.log_probabilities(matrix_mut(
                                &mut found.log_probabilities,
                                rows,
                                classes,
                            ));
                        }
                        let grad = matrix_mut(&mut found.grad, rows, classes);
                        let logits = matrix(&batch.logits, rows, classes);
                        let summary = match gradients {
                            0 => ce.run(logits, &batch.targets, request),
                            1 => ce.run(logits, &batch.targets, request.grad(grad)),
                            _ => ce.run_in_place(grad, &batch.targets, request),
                        }
                        .expect("the batch is valid");

                        // What was not asked for is compared with itself.
                        found.loss = summary.loss;
                        found.weight = summary.weight;
                        found.counted = summary.counted;
                        found.correct = summary.correct;
                        let mut expected = expected.clone();
                        if gradients == 0 {
                            expected.grad = batch.logits.clone();
                        }
                        for output in OUTPUTS.into_iter().filter(|&output| !has(output)) {
                            match output {
                                Output::Losses => expected.losses.fill(f32::NAN),
                                Output::Lse => expected.lse.fill(f32::NAN),
                                Output::Argmax => expected.argmax.fill(0),
                                Output::Probabilities => expected.probabilities.fill(f32::NAN),
                                Output::LogProbabilities => expected.log_probabilities.fill(f32::NAN),
                                Output::OfRows => {
                                    expected.target_log_probabilities.fill(f32::NAN);
                                    expected.argmax_probabilities.fill(f32::NAN);
                                    expected.entropies.fill(f32::NAN);
                                    expected.target_ranks.fill(0);
                                }
                            }
                        }
                        let context = format!(
                            "{backend}, {classes} classes, {variant}, outputs {subset:#08b}, gradients {gradients}"
                        );
                        found.assert_equal(&expected, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn short_forms_give_the_bits_of_the_general_call() {
    for backend in backends() {
        for classes in class_counts() {
            let rows = rows_for(classes);
            let batch = Batch::random(rows, classes, 14);
            for (variant, builder) in variants(classes) {
                let ce = build(&builder, backend, Parallelism::Rayon);
                let expected = Evaluation::of(&ce, &batch);
                let context = format!("{backend}, {classes} classes, {variant}");
                let logits = matrix(&batch.logits, rows, classes);
                let loss = ce.loss(logits, &batch.targets).expect("the batch is valid");
                assert_eq!(loss.to_bits(), expected.loss.to_bits(), "loss, {context}");

                let mut grad = vec![f32::NAN; rows * classes];
                let loss = ce
                    .loss_and_grad(logits, &batch.targets, matrix_mut(&mut grad, rows, classes))
                    .expect("the batch is valid");
                assert_eq!(loss.to_bits(), expected.loss.to_bits(), "loss with gradient, {context}");
                assert_same_bits("grad", classes, &grad, &expected.grad, &context);

                let mut x = batch.logits.clone();
                let loss = ce
                    .loss_and_grad_in_place(matrix_mut(&mut x, rows, classes), &batch.targets)
                    .expect("the batch is valid");
                assert_eq!(loss.to_bits(), expected.loss.to_bits(), "loss in place, {context}");
                assert_same_bits("grad in place", classes, &x, &expected.grad, &context);
            }
        }
    }
}

fn matrix(x: &[f32], rows: usize, classes: usize) -> Matrix<'_> {
    Matrix::new(x, rows, classes).expect("the slice is long enough")
}

fn matrix_mut(x: &mut [f32], rows: usize, classes: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, classes).expect("the slice is long enough")
}

/// All that the softmax functions give for a batch: softmax, log-softmax, and their products with an upstream gradient.
fn softmax_functions(softmax: Softmax, batch: &Batch, upstream: &[f32], in_place: bool) -> [Vec<f32>; 4] {
    let (rows, classes) = (batch.rows, batch.classes);
    let mut results = [(); 4].map(|()| vec![f32::NAN; rows * classes]);
    let [p, log_p, p_backward, log_p_backward] = &mut results;
    if in_place {
        for (output, input) in [
            (&mut *p, &batch.logits[..]),
            (&mut *log_p, &batch.logits),
            (&mut *p_backward, upstream),
            (&mut *log_p_backward, upstream),
        ] {
            output.copy_from_slice(input);
        }
        softmax.softmax_in_place(matrix_mut(p, rows, classes)).expect("the batch is valid");
        softmax.log_softmax_in_place(matrix_mut(log_p, rows, classes)).expect("the batch is valid");
        softmax
            .softmax_backward_in_place(matrix(p, rows, classes), matrix_mut(p_backward, rows, classes))
            .expect("the batch is valid");
        softmax
            .log_softmax_backward_in_place(
                matrix(log_p, rows, classes),
                matrix_mut(log_p_backward, rows, classes),
            )
            .expect("the batch is valid");
    } else {
        let (x, g) = (matrix(&batch.logits, rows, classes), matrix(upstream, rows, classes));
        softmax.softmax(x, matrix_mut(p, rows, classes)).expect("the batch is valid");
        softmax.log_softmax(x, matrix_mut(log_p, rows, classes)).expect("the batch is valid");
        softmax
            .softmax_backward(matrix(p, rows, classes), g, matrix_mut(p_backward, rows, classes))
            .expect("the batch is valid");
        softmax
            .log_softmax_backward(matrix(log_p, rows, classes), g, matrix_mut(log_p_backward, rows, classes))
            .expect("the batch is valid");
    }
    results
}

const SOFTMAX_FUNCTIONS: [&str; 4] = ["softmax", "log_softmax", "softmax_backward", "log_softmax_backward"];

/// A batch, and upstream gradients; some of both are NaN, with payloads that would say where a result came from.
fn softmax_inputs(rows: usize, classes: usize, seed: u64) -> (Batch, Vec<f32>) {
    let mut batch = Batch::random(rows, classes, seed);
    let mut random = Random::new(seed);
    let mut upstream: Vec<f32> = (0..rows * classes).map(|_| random.normal()).collect();
    let payload = |random: &mut Random| f32::from_bits(0xffc0_0000 | random.below(1 << 20) as u32);
    for row in 0..rows {
        let at = row * classes + random.below(classes);
        match random.below(6) {
            0 => batch.logits[at] = payload(&mut random),
            1 => upstream[at] = payload(&mut random),
            2 => upstream[at] = f32::INFINITY,
            _ => {}
        }
    }
    (batch, upstream)
}

#[test]
fn softmax_functions_give_the_same_bits_in_place_split_and_on_every_fused_backend() {
    let fused = fused_backends();
    for classes in class_counts() {
        let rows = rows_for(classes);
        let (batch, upstream) = softmax_inputs(rows, classes, 15);
        let mut of_fused = None;
        for backend in backends() {
            let softmax = Softmax::default().backend(backend).expect("the backend is available");
            let whole = softmax_functions(softmax.parallelism(Parallelism::Serial), &batch, &upstream, false);
            let check = |found: &[Vec<f32>; 4], expected: &[Vec<f32>; 4], start: usize, context: &str| {
                for (i, name) in SOFTMAX_FUNCTIONS.into_iter().enumerate() {
                    let expected = &expected[i][start..start + found[i].len()];
                    assert_same_bits(name, classes, &found[i], expected, context);
                }
            };
            for parallelism in PARALLELISMS {
                let softmax = softmax.parallelism(parallelism);
                let context = format!("{backend}, {parallelism:?}, {classes} classes");
                check(&softmax_functions(softmax, &batch, &upstream, false), &whole, 0, &context);
                let context = format!("{context}, in place");
                check(&softmax_functions(softmax, &batch, &upstream, true), &whole, 0, &context);
            }
            for row in 0..rows {
                let start = row * classes;
                let found = softmax_functions(
                    softmax,
                    &batch.select([row]),
                    &upstream[start..start + classes],
                    row % 2 == 0,
                );
                check(&found, &whole, start, &format!("{backend}, {classes} classes, row {row} alone"));
            }
            if fused.contains(&backend) {
                let (first, expected) = of_fused.get_or_insert((backend, whole.clone()));
                check(&whole, expected, 0, &format!("{backend} and {first}, {classes} classes"));
            }
        }
    }
}

#[test]
fn softmax_functions_give_the_same_bits_on_any_number_of_threads() {
    let pools = pools();
    for backend in backends() {
        for (rows, classes) in
            [(100_001, 2), (16_000, 17), (303, 1000), (7, 65_536), (5, 65_537), (1, 1_000_003)]
        {
            let (batch, upstream) = softmax_inputs(rows, classes, 16);
            let softmax = Softmax::default().backend(backend).expect("the backend is available");
            let expected =
                softmax_functions(softmax.parallelism(Parallelism::Serial), &batch, &upstream, false);
            for (threads, pool) in &pools {
                let found = pool.install(|| softmax_functions(softmax, &batch, &upstream, threads % 2 == 0));
                for (i, name) in SOFTMAX_FUNCTIONS.into_iter().enumerate() {
                    let context = format!("{backend}, {rows} x {classes}, {threads} threads and serial");
                    assert_same_bits(name, classes, &found[i], &expected[i], &context);
                }
            }
        }
    }
}
