//! Slices that end at a page that nobody may touch, or begin right behind one: a single element read or written beside
//! them ends the process, also where a masked instruction would only have looked.
#![cfg(target_os = "linux")]

mod forbidden;

use crate::support::backends;
use crate::support::batch::{Batch, Random};
#[cfg(feature = "half")]
use crate::support::halves::narrow;
use bytemuck::Pod;
use forbidden::{Edge, Pages};
use xent::{
    CrossEntropy, Element, Matrix, MatrixMut, Parallelism, PlanesMut, PlanesRequest, Reduction, Request,
    ShardElement, ShardState, Softmax,
};

/// Both sides of every vector, block and transposition.
const MOST_CLASSES: usize = 300;

/// One row, and more than one vector of rows.
const ROWS: [usize; 2] = [1, 17];

/// Memory for each argument of a call.
struct Arena {
    logits: Pages,
    grad: Pages,
    probabilities: Pages,
    narrow: Pages,
    targets: Pages,
}

impl Arena {
    fn new() -> Self {
        let wide = || Pages::new(MOST_CLASSES * 17 * size_of::<f64>());
        Self { logits: wide(), grad: wide(), probabilities: wide(), narrow: wide(), targets: wide() }
    }
}

/// Options alone and together: each has loops of its own.
fn losses(classes: usize, backend: xent::Backend) -> Vec<CrossEntropy> {
    let plain = || CrossEntropy::builder().backend(backend).parallelism(Parallelism::Serial);
    let weight: Vec<f32> = (0..classes).map(|class| 0.5 + (class % 3) as f32).collect();
    let all =
        plain().weight(weight).label_smoothing(0.1).z_loss(0.01).focal_gamma(1.0).reduction(Reduction::Sum);
    let built = [plain(), plain().label_smoothing(0.1), all].map(|builder| builder.build());
    built.into_iter().map(|ce| ce.expect("the options are valid")).collect()
}

/// Every call on logits of this type, at this edge.
fn call_everything<E>(ce: &CrossEntropy, batch: &Batch, x: &[E], edge: Edge, arena: &mut Arena)
where
    E: ShardElement<PerRow: Pod> + Pod + PartialEq + core::fmt::Debug,
{
    let (rows, classes) = (batch.rows, batch.classes);
    let Arena { logits, grad, probabilities, narrow, targets } = arena;
    let targets: &[i64] = targets.holding(&batch.targets, edge);
    let context =
        || format!("{rows} x {classes}, {edge:?}, {}, {}", ce.backend(), core::any::type_name::<E>());

    // In common memory.
    let mut expected = vec![E::default(); rows * classes];
    let out = MatrixMut::new(&mut expected, rows, classes).expect("it fits");
    let common = Matrix::new(x, rows, classes).expect("it fits");
    let loss = ce.loss_and_grad(common, targets, out).expect("the batch is valid");

    // The loss alone; then out of place, with outputs of both widths.
    let x_at_edge: &[E] = logits.holding(x, edge);
    let view = Matrix::new(x_at_edge, rows, classes).expect("it fits");
    assert_eq!(ce.loss(view, targets).map(f64::to_bits), Ok(loss.to_bits()), "{}", context());
    let grad_at_edge = grad.slice::<E>(rows * classes, edge);
    let out = MatrixMut::new(&mut *grad_at_edge, rows, classes).expect("it fits");
    let p = MatrixMut::new(probabilities.slice::<E>(rows * classes, edge), rows, classes).expect("it fits");
    let request = Request::new().grad(out).probabilities(p).losses(narrow.slice(rows, edge));
    ce.run(view, targets, request).expect("the batch is valid");
    assert_eq!(grad_at_edge, &expected[..], "{}", context());
    let log_p =
        MatrixMut::new(probabilities.slice::<E>(rows * classes, edge), rows, classes).expect("it fits");
    let request = Request::new().log_probabilities(log_p).entropies(narrow.slice(rows, edge));
    ce.run(view, targets, request).expect("the batch is valid");
    let request = Request::new().target_ranks(narrow.slice(rows, edge));
    ce.run(view, targets, request).expect("the batch is valid");
    let request = Request::new().argmax(narrow.slice(rows, edge));
    ce.run(view, targets, request).expect("the batch is valid");

    // Added to zeros.
    let sum = grad.slice::<E>(rows * classes, edge);
    sum.fill(E::default());
    let out = MatrixMut::new(&mut *sum, rows, classes).expect("it fits");
    ce.run(view, targets, Request::new().accumulate(out)).expect("the batch is valid");
    assert_eq!(sum, &expected[..], "{}", context());

    // In another dtype.
    let other = grad.slice::<f32>(rows * classes, edge);
    let out = MatrixMut::new(&mut *other, rows, classes).expect("it fits");
    ce.run(view, targets, Request::new().grad_as(out)).expect("the batch is valid");
    let out = MatrixMut::new(other, rows, classes).expect("it fits");
    ce.run(view, targets, Request::new().accumulate_as(out)).expect("the batch is valid");
    #[cfg(feature = "half")]
    {
        let other = grad.slice::<half::f16>(rows * classes, edge);
        let out = MatrixMut::new(&mut *other, rows, classes).expect("it fits");
        ce.run(view, targets, Request::new().grad_as(out)).expect("the batch is valid");
        let out = MatrixMut::new(other, rows, classes).expect("it fits");
        ce.run(view, targets, Request::new().accumulate_as(out)).expect("the batch is valid");
    }

    // In shards of which one is the whole.
    let mut states = vec![E::State::EMPTY; rows];
    let shards = ce.shards(targets, classes);
    shards.summarise(view, 0, &mut states).expect("the shard is valid");
    let out = MatrixMut::new(grad.slice::<E>(rows * classes, edge), rows, classes).expect("it fits");
    shards.grad(view, 0, &states, out).expect("the states are complete");

    // In place.
    let out = MatrixMut::new(logits.holding(x, edge), rows, classes).expect("it fits");
    let in_place = ce.loss_and_grad_in_place(out, targets).expect("the batch is valid");
    assert_eq!(in_place.to_bits(), loss.to_bits(), "{}", context());
    assert_eq!(logits.slice::<E>(rows * classes, edge), &expected[..], "{}", context());
}

/// The softmax functions: forward and backward, in and out of place.
fn call_softmax<E: ShardElement + Pod>(
    backend: xent::Backend,
    (rows, classes): (usize, usize),
    x: &[E],
    edge: Edge,
    arena: &mut Arena,
) {
    let softmax = Softmax::default().backend(backend).expect("the backend is available");
    let softmax = softmax.parallelism(Parallelism::Serial);
    let Arena { logits, grad, probabilities, .. } = arena;
    let upstream: &[E] = probabilities.holding(x, edge);
    let upstream = Matrix::new(upstream, rows, classes).expect("it fits");
    for is_log in [false, true] {
        let input: &[E] = logits.holding(x, edge);
        let input = Matrix::new(input, rows, classes).expect("it fits");
        let out = MatrixMut::new(grad.slice::<E>(rows * classes, edge), rows, classes).expect("it fits");
        let forward = if is_log { softmax.log_softmax(input, out) } else { softmax.softmax(input, out) };
        forward.expect("the shapes agree");
        let y: Vec<E> = grad.slice::<E>(rows * classes, edge).to_vec();
        let y: &[E] = logits.holding(&y, edge);
        let y = Matrix::new(y, rows, classes).expect("it fits");
        let out = MatrixMut::new(grad.slice::<E>(rows * classes, edge), rows, classes).expect("it fits");
        let backward = match is_log {
            true => softmax.log_softmax_backward(y, upstream, out),
            false => softmax.softmax_backward(y, upstream, out),
        };
        backward.expect("the shapes agree");
        let out = MatrixMut::new(grad.holding(x, edge), rows, classes).expect("it fits");
        let in_place = if is_log { softmax.log_softmax_in_place(out) } else { softmax.softmax_in_place(out) };
        in_place.expect("the shapes agree");
    }
}

fn check_dtype<E>(narrow: fn(&[f32]) -> Vec<E>)
where
    E: ShardElement<PerRow: Pod> + Pod + PartialEq + core::fmt::Debug,
{
    let mut arena = Arena::new();
    for classes in 1..=MOST_CLASSES {
        for rows in ROWS {
            let mut batch = Batch::random(rows, classes, classes as u64);
            // NaN equals nothing.
            batch.make_rows_count(&mut Random::new(1));
            let x = narrow(&batch.logits);
            for backend in backends() {
                for edge in Edge::BOTH {
                    for ce in losses(classes, backend) {
                        call_everything(&ce, &batch, &x, edge, &mut arena);
                    }
                    call_softmax(backend, (rows, classes), &x, edge, &mut arena);
                }
            }
        }
    }
}

#[test]
fn no_call_on_f32_reaches_beyond_its_slices() {
    check_dtype::<f32>(<[f32]>::to_vec);
}

#[test]
fn no_call_on_f64_reaches_beyond_its_slices() {
    check_dtype::<f64>(|x| x.iter().map(|&x| f64::from(x)).collect());
}

#[cfg(feature = "half")]
#[test]
fn no_call_on_bf16_reaches_beyond_its_slices() {
    check_dtype::<half::bf16>(narrow::<half::bf16>);
}

#[cfg(feature = "half")]
#[test]
fn no_call_on_f16_reaches_beyond_its_slices() {
    check_dtype::<half::f16>(narrow::<half::f16>);
}

/// Rows are columns here.
fn check_planes<E>(narrow_to: fn(&[f32]) -> Vec<E>)
where
    E: Element<PerRow: Pod> + Pod,
{
    let mut arena = Arena::new();
    for classes in [1, 3, 17] {
        for positions in 1..=MOST_CLASSES {
            let mut batch = Batch::random(positions, classes, positions as u64);
            batch.make_rows_count(&mut Random::new(1));
            for backend in backends() {
                for edge in Edge::BOTH {
                    let ce = &losses(classes, backend)[1];
                    let Arena { logits, narrow, targets, .. } = &mut arena;
                    let targets: &[i64] = targets.holding(&batch.targets, edge);
                    let x = logits.holding(&narrow_to(&batch.logits), edge);
                    let planes = PlanesMut::new(x, 1, classes, positions).expect("it fits");
                    let request = PlanesRequest::new().losses(narrow.slice(positions, edge));
                    ce.run_planes_in_place(planes, targets, request).expect("the batch is valid");
                }
            }
        }
    }
}

#[test]
fn no_call_on_planes_reaches_beyond_its_slices() {
    check_planes::<f32>(<[f32]>::to_vec);
}

#[test]
fn no_call_on_planes_of_f64_reaches_beyond_its_slices() {
    check_planes::<f64>(|x| x.iter().map(|&x| f64::from(x)).collect());
}

#[cfg(feature = "half")]
#[test]
fn no_call_on_planes_of_bf16_reaches_beyond_its_slices() {
    check_planes::<half::bf16>(narrow::<half::bf16>);
}

#[cfg(feature = "half")]
#[test]
fn no_call_on_planes_of_f16_reaches_beyond_its_slices() {
    check_planes::<half::f16>(narrow::<half::f16>);
}

/// Padding need not be there behind the last row.
#[test]
fn the_last_row_of_a_padded_matrix_may_end_where_memory_does() {
    let mut pages = Pages::new(20_000);
    for classes in [1, 4, 10, 16, 21, 64, 65, 81, 130, 300] {
        for padding in [1, 3, 16] {
            let (rows, stride) = (16, classes + padding);
            let len = (rows - 1) * stride + classes;
            for backend in backends() {
                let ce = &losses(classes, backend)[0];
                let x = pages.slice::<f32>(len, Edge::End);
                x.fill(0.25);
                let logits = MatrixMut::with_row_stride(x, rows, classes, stride).expect("it fits");
                let loss = ce.loss_and_grad_in_place(logits, &[0_u8; 16]).expect("the batch is valid");
                assert!((loss - (classes as f64).ln()).abs() < 1e-6, "{loss}, {classes} classes");
            }
        }
    }
}

/// The checks above are worth what the pages are: they are where the slices end, and they are forbidden.
#[test]
fn pages_beside_a_slice_are_forbidden() {
    let mut pages = Pages::new(1000);
    let [before, behind] = pages.forbidden();
    assert_eq!(pages.slice::<f32>(7, Edge::Begin).as_ptr().addr(), before.end);
    assert_eq!(pages.slice::<f32>(7, Edge::End).as_ptr_range().end.addr(), behind.start);
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
    for forbidden in [before, behind] {
        let is_here = |line: &&str| {
            let ends = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
            let [start, end] =
                [ends.0, ends.1].map(|end| usize::from_str_radix(end, 16).expect("an address"));
            start <= forbidden.start && forbidden.end <= end
        };
        let line = maps.lines().find(is_here).expect("the page is mapped");
        assert!(line.contains(" ---p "), "{line}");
    }
}
