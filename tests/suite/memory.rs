//! Calls read their input and write their output, and touch nothing beside them.

use crate::support::batch::{Batch, Random};
use crate::support::buffer::{Buffer, Layout};
use crate::support::evaluation::{Call, Evaluation, assert_same_bits};
use crate::support::{PARALLELISMS, backends, class_counts};
use xent::{CrossEntropy, Reduction, Request, Softmax};

/// Batches of few and many classes, in one and in several pieces, with whole and incomplete vectors of rows.
const SHAPES: [(usize, usize); 24] = [
    (1, 1),
    (40, 1),
    (17, 2),
    (33, 3),
    (16, 4),
    (37, 5),
    (20, 10),
    (15, 16),
    (31, 17),
    (8, 31),
    (16, 33),
    (5, 48),
    (19, 63),
    (18, 64),
    (7, 65),
    (4, 100),
    (7000, 10),
    (1500, 50),
    (150, 1000),
    (3, 2048),
    (3, 2049),
    (3, 65_536),
    (2, 65_537),
    (2, 131_089),
];

/// A padded vocabulary, and paddings that align every row, or none.
const PADDINGS: [usize; 5] = [0, 1, 7, 16, 61];

fn with_everything(classes: usize) -> [CrossEntropy; 2] {
    let weight: Vec<f32> = (0..classes).map(|class| 0.5 + (class % 5) as f32).collect();
    let plain = CrossEntropy::builder().reduction(Reduction::Sum);
    let weighted = plain.clone().weight(weight).label_smoothing(0.1);
    [plain, weighted].map(|builder| builder.build().expect("the options are valid"))
}

fn on(ce: &CrossEntropy, backend: xent::Backend, parallelism: xent::Parallelism) -> CrossEntropy {
    let mut builder = CrossEntropy::builder()
        .reduction(ce.reduction())
        .label_smoothing(ce.label_smoothing())
        .backend(backend)
        .parallelism(parallelism);
    if let Some(weight) = ce.weight() {
        builder = builder.weight(weight);
    }
    builder.build().expect("the backend is available")
}

/// [`Call::evaluate`] checks the canaries; that the results are those of rows without padding shows that no canary was
/// read, and that every element was written.
#[test]
fn padding_is_neither_read_nor_written() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = Batch::random(rows, classes, 1);
            for ce in with_everything(classes) {
                for parallelism in PARALLELISMS {
                    let ce = on(&ce, backend, parallelism);
                    let expected = Evaluation::of(&ce, &batch);
                    for (turn, padding) in PADDINGS.into_iter().enumerate() {
                        for in_place in [false, true] {
                            let call = Call {
                                logits: Layout { offset: turn, padding },
                                outputs: Layout { offset: 3 * turn, padding: PADDINGS[(turn + 2) % 5] },
                                in_place,
                                ..Call::default()
                            };
                            let context = format!("{backend}, {parallelism:?}, {rows} x {classes}, {call:?}");
                            call.evaluate(&ce, &batch).assert_equal(&expected, &context);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn slices_may_start_anywhere() {
    for backend in backends() {
        for classes in class_counts().into_iter().filter(|classes| *classes < 2100 || *classes == 65_537) {
            let batch = Batch::random(if classes < 65 { 18 } else { 2 }, classes, 2);
            let ce = CrossEntropy::builder().backend(backend).build().expect("the backend is available");
            let expected = Evaluation::of(&ce, &batch);
            for offset in 0..16 {
                let call = Call {
                    logits: Layout { offset, padding: 0 },
                    outputs: Layout { offset: (offset + classes) % 16, padding: 0 },
                    in_place: (offset + classes).is_multiple_of(2),
                    ..Call::default()
                };
                let context = format!("{backend}, {classes} classes, {call:?}");
                call.evaluate(&ce, &batch).assert_equal(&expected, &context);
            }
        }
    }
}

#[test]
fn every_output_may_have_a_stride_of_its_own() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = Batch::random(rows, classes, 3);
            let ce = CrossEntropy::builder().backend(backend).build().expect("the backend is available");
            let expected = Evaluation::of(&ce, &batch);
            let layout = |padding| Layout { offset: padding % 16, padding };
            let logits = Buffer::holding(&batch.logits, rows, classes, layout(2));
            let mut outputs = [5, 0, 19].map(|padding| Buffer::unwritten(rows, classes, layout(padding)));
            let [grad, probabilities, log_probabilities] = &mut outputs;
            let request = Request::new()
                .grad(grad.matrix_mut())
                .probabilities(probabilities.matrix_mut())
                .log_probabilities(log_probabilities.matrix_mut());
            ce.run(logits.matrix(), &batch.targets, request).expect("the batch is valid");
            let wanted = [&expected.grad, &expected.probabilities, &expected.log_probabilities];
            let names = ["grad", "probabilities", "log_probabilities"];
            for ((output, wanted), name) in outputs.iter().zip(wanted).zip(names) {
                output.assert_canaries_live(name);
                let context = format!("{backend}, {rows} x {classes}");
                assert_same_bits(name, classes, &output.elements(), wanted, &context);
            }
        }
    }
}

#[test]
fn softmax_functions_touch_nothing_beside_their_rows() {
    let mut random = Random::new(4);
    for (rows, classes) in SHAPES {
        let batch = Batch::random(rows, classes, 5);
        // Without NaN, whose payload would differ.
        let x: Vec<f32> = batch.logits.iter().map(|&x| if x.is_nan() { 0.5 } else { x }).collect();
        let g: Vec<f32> = x.iter().map(|_| random.normal()).collect();
        for backend in backends() {
            for parallelism in PARALLELISMS {
                let softmax = Softmax::default().backend(backend).expect("the backend is available");
                let softmax = softmax.parallelism(parallelism);
                let contiguous =
                    outputs_of(softmax, (rows, classes), [&x, &g], [Layout::default(); 3], false);
                for (turn, padding) in PADDINGS.into_iter().enumerate() {
                    let layouts = [
                        Layout { offset: turn, padding },
                        Layout { offset: 2 * turn + 1, padding: padding + 3 },
                        Layout { offset: 15 - turn, padding: PADDINGS[4 - turn] },
                    ];
                    for in_place in [false, true] {
                        let context = format!(
                            "{backend}, {parallelism:?}, {rows} x {classes}, {layouts:?}, {in_place}"
                        );
                        let found = outputs_of(softmax, (rows, classes), [&x, &g], layouts, in_place);
                        for (found, wanted) in found.iter().zip(&contiguous) {
                            assert_same_bits("output", classes, found, wanted, &context);
                        }
                    }
                }
            }
        }
    }
}

/// What the four softmax functions give for logits and upstream gradients, their canaries checked. The layouts are those
/// of input, upstream gradient and output.
fn outputs_of(
    softmax: Softmax,
    (rows, classes): (usize, usize),
    [x, g]: [&[f32]; 2],
    [of_input, of_upstream, of_output]: [Layout; 3],
    in_place: bool,
) -> [Vec<f32>; 4] {
    let forward = |is_log: bool| {
        let mut input = Buffer::holding(x, rows, classes, of_input);
        let mut output = Buffer::unwritten(rows, classes, of_output);
        match (is_log, in_place) {
            (false, false) => softmax.softmax(input.matrix(), output.matrix_mut()),
            (true, false) => softmax.log_softmax(input.matrix(), output.matrix_mut()),
            (false, true) => softmax.softmax_in_place(input.matrix_mut()),
            (true, true) => softmax.log_softmax_in_place(input.matrix_mut()),
        }
        .expect("the shapes agree");
        input.assert_canaries_live("input");
        output.assert_canaries_live("output");
        if in_place {
            return input.elements();
        }
        assert_same_bits("input", classes, &input.elements(), x, "before and after");
        output.elements()
    };
    let backward = |is_log: bool, y: &[f32]| {
        let input = Buffer::holding(y, rows, classes, of_input);
        let mut upstream = Buffer::holding(g, rows, classes, of_upstream);
        let mut output = Buffer::unwritten(rows, classes, of_output);
        let y = input.matrix();
        match (is_log, in_place) {
            (false, false) => softmax.softmax_backward(y, upstream.matrix(), output.matrix_mut()),
            (true, false) => softmax.log_softmax_backward(y, upstream.matrix(), output.matrix_mut()),
            (false, true) => softmax.softmax_backward_in_place(y, upstream.matrix_mut()),
            (true, true) => softmax.log_softmax_backward_in_place(y, upstream.matrix_mut()),
        }
        .expect("the shapes agree");
        input.assert_canaries_live("input");
        upstream.assert_canaries_live("upstream");
        output.assert_canaries_live("output");
        if in_place {
            return upstream.elements();
        }
        assert_same_bits("upstream", classes, &upstream.elements(), g, "before and after");
        output.elements()
    };
    let (p, log_p) = (forward(false), forward(true));
    let (p_backward, log_p_backward) = (backward(false, &p), backward(true, &log_p));
    [p, log_p, p_backward, log_p_backward]
}

// The checks above are worth what these two are.

#[test]
#[should_panic(expected = "written 2 elements after the end of row 0")]
fn a_write_between_rows_is_noticed() {
    let mut buffer = Buffer::unwritten(2, 3, Layout { offset: 5, padding: 4 });
    let row = buffer.memory_of_row(0);
    buffer.memory_mut()[row.end + 2] = 0;
    buffer.assert_canaries_live("memory");
}

#[test]
#[should_panic(expected = "written 0 elements after the end of row 1")]
fn a_write_behind_the_last_row_is_noticed() {
    let mut buffer = Buffer::unwritten(2, 3, Layout { offset: 5, padding: 4 });
    let row = buffer.memory_of_row(1);
    buffer.memory_mut()[row.end] = 0;
    buffer.assert_canaries_live("memory");
}

#[test]
fn writes_to_rows_are_no_harm_and_starts_are_where_they_should_be() {
    for offset in 0..16 {
        let mut buffer = Buffer::unwritten(3, 5, Layout { offset, padding: 2 });
        assert_eq!(buffer.matrix_mut().row(0).expect("there is a row").as_ptr().addr() % 64, 4 * offset);
        for row in 0..3 {
            buffer.matrix_mut().row_mut(row).expect("there is a row").fill(1.0);
        }
        buffer.assert_canaries_live("memory");
        assert_eq!(buffer.elements(), [1.0; 15]);
    }
}
