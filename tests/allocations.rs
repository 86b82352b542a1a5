//! Calls allocate nothing.
//!
//! In a rayon pool, nothing is what xent allocates; rayon itself does in three places, which are not xent's and are kept
//! out of the count: starting a pool, handing work from outside into it, and each thread's first look for work of
//! another thread's. So the pool is warmed up first, and calls are counted from inside it.
#![allow(unsafe_code)]

mod support;

use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::alloc::{GlobalAlloc, Layout, System};
use support::backends;
use support::batch::{Batch, Random};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Distillation, Error, Matrix, MatrixMut, Parallelism, Planes,
    PlanesMut, PlanesRequest, Reduction, Request, RowState, Smoothing, Softmax,
};

/// The system's allocator, and a count of what it is asked for.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Allocations of this thread. Without a destructor, and constant at first: using it allocates nothing.
    static OF_THIS_THREAD: Cell<usize> = const { Cell::new(0) };
    static IS_IN_COUNTED_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Allocations of all threads of the pool that is counted.
static OF_POOL: AtomicUsize = AtomicUsize::new(0);

fn count() {
    OF_THIS_THREAD.set(OF_THIS_THREAD.get() + 1);
    if IS_IN_COUNTED_POOL.get() {
        OF_POOL.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every method passes its arguments on to the system's allocator, which keeps the trait's promises; counting
// neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; all memory comes from the system's allocator.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Every call there is, with memory for all their outputs.
struct Calls {
    name: String,
    batch: Batch,
    ce: CrossEntropy,
    softmax: Softmax,
    upstream: Vec<f32>,
    row_weights: Vec<f32>,
    states: Vec<RowState>,
    target_probabilities: Vec<f32>,
    wide: [Vec<f32>; 3],
    narrow: [Vec<f32>; 5],
    mask: Vec<bool>,
    argmax: Vec<usize>,
    ranks: Vec<usize>,
}

/// The number of calls.
const CALLS: usize = 23;

impl Calls {
    /// Calls of every kind on batches of one and of several pieces, of few classes and of rows that are cut.
    fn on(backend: Backend, parallelism: Parallelism) -> Vec<Self> {
        let mut calls = Vec::new();
        for (rows, classes) in
            [(1, 1), (40, 10), (30_000, 10), (100, 130), (300, 1000), (3, 5000), (3, 200_000)]
        {
            let weight: Vec<f32> = (0..classes).map(|class| (class % 3) as f32).collect();
            let plain = CrossEntropy::builder();
            let focal = plain.clone().focal_gamma(2.0).ignore_indices([-100, -1]);
            let live = focal.clone().smoothing(Smoothing::LiveClasses).label_smoothing(0.1);
            let capped = plain.clone().logit_scale(0.7).softcap(30.0);
            let both = plain.clone().weight(weight).label_smoothing(0.1).reduction(Reduction::Sum);
            for (name, builder) in [
                ("plain", plain),
                ("weights and smoothing", both),
                ("focal, live classes", live),
                ("scale and softcap", capped),
            ] {
                let name = format!("{rows} x {classes}, {backend}, {parallelism:?}, {name}");
                calls.push(Self::new(name, builder, (rows, classes), backend, parallelism));
            }
        }
        calls
    }

    fn new(
        name: String,
        builder: CrossEntropyBuilder,
        (rows, classes): (usize, usize),
        backend: Backend,
        parallelism: Parallelism,
    ) -> Self {
        let mut random = Random::new(1);
        let wide = || vec![0.0; rows * classes];
        let builder = builder.backend(backend).parallelism(parallelism);
        Self {
            name,
            batch: Batch::random(rows, classes, 2),
            ce: builder.build().expect("the backend is available"),
            softmax: Softmax::default()
                .backend(backend)
                .expect("the backend is available")
                .parallelism(parallelism),
            upstream: (0..rows).map(|_| random.normal()).collect(),
            row_weights: (0..rows).map(|row| (row % 4) as f32).collect(),
            states: vec![RowState::EMPTY; rows],
            target_probabilities: vec![0.5; rows * classes],
            wide: [wide(), wide(), wide()],
            narrow: [(); 5].map(|()| vec![0.0; rows]),
            mask: (0..rows).map(|row| row % 7 != 3).collect(),
            argmax: vec![0; rows],
            ranks: vec![0; rows],
        }
    }

    /// Makes one of the calls.
    fn make(&mut self, call: usize) {
        let Self {
            batch,
            ce,
            softmax,
            upstream,
            row_weights,
            states,
            target_probabilities,
            wide,
            narrow,
            mask,
            argmax,
            ranks,
            ..
        } = self;
        let (rows, classes, targets) = (batch.rows, batch.classes, &batch.targets[..]);
        let [first, second, third] = wide.each_mut().map(|x| matrix_mut(x, rows, classes));
        let logits = Matrix::new(&batch.logits, rows, classes).expect("the slice is long enough");
        let [losses, lse, log_probabilities, confidences, entropies] = narrow;
        if (14..=16).contains(&call) {
            let request = Request::new().upstream(upstream).row_weights(row_weights).loss_mask(mask);
            let curvature = ce.curvature_with(logits, targets, &request);
            let made = curvature.and_then(|curvature| match call {
                14 => curvature.hessian_vector_product(logits, first),
                15 => curvature.hessian_diagonal(first),
                _ => curvature.jvp_of_rows(logits, losses).map(drop),
            });
            return assert_eq!(made, Ok(()));
        }
        let all_but_grad = Request::new()
            .losses(losses)
            .lse(lse)
            .target_log_probabilities(log_probabilities)
            .argmax_probabilities(confidences)
            .entropies(entropies)
            .argmax(argmax)
            .target_ranks(ranks)
            .loss_mask(mask)
            .row_weights(row_weights)
            .upstream_scalar(2.0)
            .upstream(upstream)
            .probabilities(second)
            .log_probabilities(third);
        let shards = ce.shards(targets, classes).upstream(upstream).row_weights(row_weights).loss_mask(mask);
        let half =
            Matrix::with_row_stride(&batch.logits[classes / 2..], rows, classes - classes / 2, classes);
        let half = half.expect("the slice is long enough");
        let made = match call {
            0 => ce.loss(logits, targets).map(drop),
            1 => ce.loss_and_grad(logits, targets, first).map(drop),
            2 => ce.loss_and_grad_in_place(first, targets).map(drop),
            3 => ce.run(logits, targets, all_but_grad.grad(first)).map(drop),
            4 => ce.run_in_place(first, targets, all_but_grad).map(drop),
            5 => softmax.softmax(logits, first),
            6 => softmax.softmax_in_place(first),
            7 => softmax.log_softmax(logits, first),
            8 => softmax.log_softmax_in_place(first),
            9 => softmax.softmax_backward(logits, logits, first),
            10 => softmax.log_softmax_backward(logits, logits, first),
            11 => ce.run(logits, targets, Request::new().accumulate(first)).map(drop),
            12 => shards.summarise(half, classes / 2, states).and_then(|()| {
                let before = Matrix::with_row_stride(&batch.logits, rows, classes / 2, classes)?;
                shards.accumulate(before, 0, states)
            }),
            13 => {
                // After the call before, the states are complete.
                let grad = matrix_mut(&mut wide[0], rows, classes);
                let [losses, lse, ..] = narrow;
                let finished = shards.losses(states, losses).and_then(|_| shards.lse(states, lse));
                finished.and_then(|()| shards.grad(logits, 0, states, grad))
            }
            17 => softmax.log_softmax_jvp(logits, logits, first),
            18 => {
                let target_probabilities = Matrix::new(target_probabilities, rows, classes);
                let target_probabilities = target_probabilities.expect("the slice is long enough");
                ce.run_probabilities(logits, target_probabilities, Request::new().grad(first)).map(drop)
            }
            19 => {
                let in_place = softmax.softmax_backward_in_place(logits, first);
                let first = matrix_mut(&mut wide[0], rows, classes);
                in_place.and_then(|()| softmax.log_softmax_backward_in_place(logits, first))
            }
            _ => self.make_on_planes(call),
        };
        // Some losses need classes, not probabilities.
        let refused = call == 18 && matches!(made, Err(Error::NeedsClasses { .. }));
        assert!(made == Ok(()) || refused, "call {call}: {made:?}");
    }

    /// Makes one of the calls on planes: rows are the positions of one image.
    fn make_on_planes(&mut self, call: usize) -> Result<(), xent::Error> {
        let Self { batch, ce, upstream, wide, narrow, argmax, .. } = self;
        let (rows, classes, targets) = (batch.rows, batch.classes, &batch.targets[..]);
        let [first, second, _] = wide;
        let first = PlanesMut::new(first, 1, classes, rows)?;
        let second = PlanesMut::new(second, 1, classes, rows)?;
        let logits = Planes::new(&batch.logits, 1, classes, rows)?;
        let [losses, lse, ..] = narrow;
        let request = PlanesRequest::new()
            .losses(losses)
            .lse(lse)
            .argmax(argmax)
            .upstream(upstream)
            .probabilities(second);
        match call {
            20 => ce.loss_planes(logits, targets).map(drop),
            21 => ce.run_planes(logits, targets, request.grad(first)).map(drop),
            _ => ce.run_planes_in_place(first, targets, request).map(drop),
        }
    }
}

fn matrix_mut(x: &mut [f32], rows: usize, classes: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, classes).expect("the slice is long enough")
}

#[test]
fn the_counter_counts() {
    let before = OF_THIS_THREAD.get();
    let mut numbers = core::hint::black_box(vec![1_u8]);
    assert_eq!(OF_THIS_THREAD.get(), before + 1);
    numbers.reserve_exact(1000);
    assert_eq!(OF_THIS_THREAD.get(), before + 2);
    drop(core::hint::black_box(vec![0_u64; 100]));
    assert_eq!(OF_THIS_THREAD.get(), before + 3);
}

/// The very first call included.
#[test]
fn serial_calls_allocate_nothing() {
    for backend in backends() {
        for mut calls in Calls::on(backend, Parallelism::Serial) {
            for call in 0..CALLS {
                let before = OF_THIS_THREAD.get();
                calls.make(call);
                let allocations = OF_THIS_THREAD.get() - before;
                assert_eq!(allocations, 0, "call {call}, {}", calls.name);
            }
        }
    }
}

#[cfg(feature = "half")]
#[test]
fn calls_on_halves_allocate_nothing() {
    check_dtype(half::bf16::from_f32);
    check_dtype(half::f16::from_f32);
}

#[test]
fn calls_on_doubles_allocate_nothing() {
    check_dtype(f64::from);
}

fn check_dtype<T: xent::Element>(of: fn(f32) -> T) {
    for (rows, classes) in [(40, 10), (100, 130), (3, 5000)] {
        let batch = Batch::random(rows, classes, 2);
        let x: Vec<T> = batch.logits.iter().map(|&x| of(x)).collect();
        let mut wide = [x.clone(), x.clone(), x.clone()];
        let mut losses = vec![T::PerRow::default(); rows];
        let (mut lse, mut argmax) = (losses.clone(), vec![0; rows]);
        for backend in backends() {
            let builder = CrossEntropy::builder().backend(backend).parallelism(Parallelism::Serial);
            let ce = builder.label_smoothing(0.1).build().expect("the backend is available");
            let [first, second, third] = wide
                .each_mut()
                .map(|x| MatrixMut::new(x.as_mut_slice(), rows, classes).expect("the slice is long enough"));
            let logits = Matrix::new(&x, rows, classes).expect("the slice is long enough");
            let everything = Request::new().losses(&mut losses).lse(&mut lse).argmax(&mut argmax);
            let everything = everything.probabilities(second).log_probabilities(third);
            let before = OF_THIS_THREAD.get();
            let made = [
                ce.loss(logits, &batch.targets).is_ok(),
                ce.run(logits, &batch.targets, everything.grad(first)).is_ok(),
            ];
            assert_eq!(OF_THIS_THREAD.get(), before, "{rows} x {classes}, {backend}");
            assert_eq!(made, [true; 2]);
        }
    }
}

#[test]
fn distillation_allocates_nothing() {
    for (rows, classes) in [(1, 1), (40, 10), (300, 1000), (3, 200_000)] {
        let batch = Batch::random(rows, classes, 2);
        let (mut wide, mut losses) = (batch.logits.clone(), vec![0.0; rows]);
        for backend in backends() {
            let builder = Distillation::builder().backend(backend).parallelism(Parallelism::Serial);
            let distillation = builder.temperature(2.0).build().expect("the options are valid");
            let logits = Matrix::new(&batch.logits, rows, classes).expect("the slice is long enough");
            let request = Request::new().losses(&mut losses);
            let before = OF_THIS_THREAD.get();
            let made = [
                distillation.loss(logits, logits).is_ok(),
                distillation.run_in_place(matrix_mut(&mut wide, rows, classes), logits, request).is_ok(),
            ];
            assert_eq!(OF_THIS_THREAD.get(), before, "{rows} x {classes}, {backend}");
            assert_eq!(made, [true; 2]);
        }
    }
}

#[test]
fn failing_calls_allocate_nothing() {
    let ce = CrossEntropy::default();
    let x = [0.5; 6];
    let logits = Matrix::new(&x, 2, 3).expect("the slice is long enough");
    let before = OF_THIS_THREAD.get();
    let is_error = ce.loss(logits, &[0_u8, 3]).is_err();
    assert_eq!(OF_THIS_THREAD.get(), before);
    assert!(is_error);
}

/// The only test that counts a pool's allocations: others would disturb it.
#[test]
fn calls_in_a_warm_pool_allocate_nothing() {
    const THREADS: usize = 3;
    if cfg!(not(feature = "rayon")) {
        println!("without the feature `rayon`: the calls below run on one thread of the pool");
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("threads can be started");
    for backend in backends() {
        let mut all = Calls::on(backend, Parallelism::Rayon);
        // Every thread looks for work of another's.
        for _ in 0..20 {
            pool.broadcast(|_| {
                rayon::join(|| std::thread::sleep(core::time::Duration::from_millis(1)), || ());
            });
        }
        pool.install(|| all.iter_mut().for_each(|calls| (0..CALLS).for_each(|call| calls.make(call))));
        for calls in &mut all {
            for call in 0..CALLS {
                pool.broadcast(|_| IS_IN_COUNTED_POOL.set(true));
                let allocations = pool.install(|| {
                    let before = OF_POOL.load(Ordering::SeqCst);
                    calls.make(call);
                    OF_POOL.load(Ordering::SeqCst) - before
                });
                pool.broadcast(|_| IS_IN_COUNTED_POOL.set(false));
                assert_eq!(allocations, 0, "call {call}, {}", calls.name);
            }
        }
    }
    // The count would have found an allocation.
    pool.broadcast(|_| IS_IN_COUNTED_POOL.set(true));
    let before = OF_POOL.load(Ordering::SeqCst);
    pool.install(|| drop(core::hint::black_box(vec![1_u8])));
    assert!(OF_POOL.load(Ordering::SeqCst) > before);
}
