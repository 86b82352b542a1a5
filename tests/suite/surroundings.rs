//! Calls in a process that others have prepared badly: with subnormal numbers switched off, in nested pools, in tasks
//! beside one that panics, on small stacks. Results are the same bits.

use crate::support::backends;
use crate::support::batch::{Batch, Random};
use crate::support::curvature::{CurvatureCall, Problem};
use crate::support::doubles::{self, Doubles};
use crate::support::evaluation::{Call, Evaluation};
use crate::support::shards::{Order, Split};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use xent::{Backend, CrossEntropy, CrossEntropyBuilder, Matrix, MatrixMut, Reduction};

/// Batches for every kernel: in one piece, in several, and with rows that are.
const SHAPES: [(usize, usize); 7] =
    [(37, 3), (20_001, 10), (40, 70), (1_501, 100), (203, 1000), (70, 2049), (3, 140_000)];

/// Plain, and with every option.
fn losses(classes: usize, backend: Backend) -> [CrossEntropy; 3] {
    let mut random = Random::new(classes as u64);
    let weight: Vec<f32> = (0..classes).map(|_| random.between(0.1, 3.0)).collect();
    let plain = || CrossEntropy::builder().backend(backend).reduction(Reduction::Sum);
    let all = plain().weight(weight).label_smoothing(0.1).z_loss(0.01).focal_gamma(2.0);
    let capped = all.clone().logit_scale(0.5).softcap(15.0);
    [plain(), all, capped].map(|builder: CrossEntropyBuilder| builder.build().expect("the options are valid"))
}

/// A batch, losses, and what they give in a quiet process.
struct Work {
    batch: Batch,
    losses: Vec<(CrossEntropy, Evaluation)>,
}

impl Work {
    fn new((rows, classes): (usize, usize), seed: u64) -> Self {
        let batch = Batch::random(rows, classes, seed);
        Self::of(batch)
    }

    fn of(batch: Batch) -> Self {
        let losses = backends().into_iter().flat_map(|backend| losses(batch.classes, backend));
        let losses = losses.map(|ce| (ce.clone(), Evaluation::of(&ce, &batch))).collect();
        Self { batch, losses }
    }

    fn check(&self, context: &str) {
        for (ce, expected) in &self.losses {
            for in_place in [false, true] {
                let found = Call { in_place, ..Call::default() }.evaluate(ce, &self.batch);
                let Batch { rows, classes, .. } = self.batch;
                found.assert_equal(expected, &format!("{context}, {rows} x {classes}, {}", ce.backend()));
            }
        }
    }
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
}

#[cfg(target_arch = "x86_64")]
mod subnormals_off {
    #![allow(unsafe_code)]

    use super::*;
    use core::arch::asm;

    const DENORMALS_ARE_ZERO: u32 = 1 << 6;
    const FLUSH_TO_ZERO: u32 = 1 << 15;

    fn mxcsr() -> u32 {
        let mut bits = 0_u32;
        // SAFETY: stores four bytes to where a `u32` is.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut bits, options(nostack)) };
        bits
    }

    fn set_mxcsr(bits: u32) {
        // SAFETY: loads four bytes from where a `u32` is. That Rust code then runs with other bits than it may count on
        // is what libraries do that switch them, and what is tested.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const bits, options(nostack, readonly)) };
    }

    /// Sets the bits for as long as it lives, on this thread.
    struct Switched(u32);

    impl Switched {
        fn on(bits: u32) -> Self {
            let before = mxcsr();
            set_mxcsr(before | bits);
            Self(before)
        }
    }

    impl Drop for Switched {
        fn drop(&mut self) {
            set_mxcsr(self.0);
        }
    }

    /// Logits of every magnitude but the subnormal, and those of [`Batch::random`].
    fn works() -> Vec<Work> {
        let mut works: Vec<Work> = SHAPES.into_iter().map(|shape| Work::new(shape, 1)).collect();
        let mut random = Random::new(2);
        for (rows, classes) in [(37, 3), (40, 70), (37, 100), (11, 2049)] {
            let mut batch = Batch::random(rows, classes, 3);
            for x in &mut batch.logits {
                let bits = f32::from_bits(random.next() as u32);
                *x = if bits.is_normal() { bits } else { 0.0 };
            }
            works.push(Work::of(batch));
        }
        works
    }

    #[test]
    fn ftz_and_daz_change_no_bit() {
        let works = works();
        for bits in [FLUSH_TO_ZERO, DENORMALS_ARE_ZERO, FLUSH_TO_ZERO | DENORMALS_ARE_ZERO] {
            for work in &works {
                let switched = Switched::on(bits);
                // It is on: the product of two normal numbers would be subnormal, or a subnormal factor counts.
                let least = core::hint::black_box(f32::MIN_POSITIVE);
                let small = core::hint::black_box(f32::from_bits(1));
                assert!(bits & FLUSH_TO_ZERO == 0 || least * core::hint::black_box(0.5) == 0.0);
                assert!(bits & DENORMALS_ARE_ZERO == 0 || small * core::hint::black_box(1e38) == 0.0);
                work.check(&format!("MXCSR with {bits:#x}"));
                drop(switched);
            }
        }
    }

    #[test]
    fn ftz_and_daz_change_no_bit_of_doubles() {
        let builders = [
            CrossEntropy::builder(),
            CrossEntropy::builder().logit_scale(0.7).label_smoothing(0.1),
            CrossEntropy::builder().softcap(15.0),
        ];
        let mut random = Random::new(8);
        for (rows, classes) in [(37, 3), (11, 70), (5, 2049)] {
            let batch = Batch::random(rows, classes, 9);
            let q = batch.distributions(&mut Random::new(10));
            let calls = [None, Some(&q[..])]
                .map(|target_probabilities| Call { target_probabilities, ..Call::default() });
            let ordinary = Doubles::near(&batch);
            let mut any = ordinary.clone();
            for x in &mut any.logits {
                // Below 2^1000 in magnitude, so that no scale makes infinity of it.
                let bits = f64::from_bits(random.next());
                *x = if bits.is_normal() && bits.abs() < 1e300 { bits } else { 0.0 };
            }
            for backend in backends() {
                for builder in &builders {
                    let ce = builder.clone().backend(backend).build().expect("the options are valid");
                    for (batch, call) in
                        [&ordinary, &any].into_iter().flat_map(|x| calls.map(|call| (x, call)))
                    {
                        let expected = doubles::evaluate(&call, &ce, batch).bits();
                        let switched = Switched::on(FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
                        let found = doubles::evaluate(&call, &ce, batch).bits();
                        drop(switched);
                        assert!(found == expected, "{rows} x {classes}, {backend}");
                    }
                }
            }
        }
    }

    #[test]
    fn ftz_and_daz_on_every_thread_of_a_pool_change_no_bit() {
        let start = |_| core::mem::forget(Switched::on(FLUSH_TO_ZERO | DENORMALS_ARE_ZERO));
        let pool = ThreadPoolBuilder::new().num_threads(3).start_handler(start).build();
        let pool = pool.expect("threads can be started");
        for shape in SHAPES {
            let work = Work::new(shape, 4);
            pool.install(|| work.check("FTZ and DAZ on every thread"));
        }
    }

    #[test]
    fn the_switch_of_this_test_works_and_is_undone() {
        let before = mxcsr();
        let switched = Switched::on(FLUSH_TO_ZERO);
        assert_eq!(mxcsr() & FLUSH_TO_ZERO, FLUSH_TO_ZERO);
        drop(switched);
        assert_eq!(mxcsr() & FLUSH_TO_ZERO, before & FLUSH_TO_ZERO);
    }
}

#[test]
fn pools_of_1_to_64_threads_change_no_bit() {
    let works = [(1_501, 100), (3, 140_000)].map(|shape| Work::new(shape, 5));
    for threads in 1..=64 {
        let pool = pool(threads);
        for work in &works {
            let (ce, expected) = &work.losses[work.losses.len() - 1];
            let found = pool.install(|| Evaluation::of(ce, &work.batch));
            found.assert_equal(expected, &format!("{threads} threads, {}", ce.backend()));
        }
    }
}

#[test]
fn pools_within_pools_change_no_bit() {
    let (outer, inner) = (pool(2), pool(3));
    for shape in SHAPES {
        let work = Work::new(shape, 6);
        outer.install(|| {
            work.check("in a pool");
            inner.install(|| work.check("in a pool in a pool"));
            rayon::join(
                || inner.install(|| work.check("in a task's pool")),
                || work.check("in another task"),
            );
        });
    }
}

#[test]
fn calls_from_tasks_of_the_same_pool_change_no_bit() {
    let works: Vec<Work> = SHAPES.into_iter().map(|shape| Work::new(shape, 7)).collect();
    pool(4).scope(|scope| {
        for work in &works {
            scope.spawn(|scope| {
                work.check("in a task");
                scope.spawn(|_| work.check("in a task's task"));
            });
        }
    });
}

#[test]
fn calls_from_many_threads_at_once_change_no_bit() {
    const THREADS: usize = 16;
    let works: Vec<Work> = SHAPES.into_iter().map(|shape| Work::new(shape, 8)).collect();
    let together = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (works, together) = (&works, &together);
            scope.spawn(move || {
                together.wait();
                works[thread % works.len()].check("on one of many threads");
            });
        }
    });
}

#[test]
fn a_panic_in_another_task_of_the_pool_harms_no_call() {
    let pool = pool(2);
    for shape in SHAPES {
        let work = Work::new(shape, 9);
        for _ in 0..3 {
            // The call ends before the panic reaches the caller; or it is never made, where the panic came first.
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.join(
                    || work.check("beside a panic"),
                    || std::panic::resume_unwind(Box::new("expected")),
                );
            }));
            let payload = caught.expect_err("the other task panicked");
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"expected"), "the call panicked");
            pool.install(|| work.check("after a panic"));
        }
    }
}

/// Not inlined: no call has the frames of another's test beneath it.
#[inline(never)]
fn apart(call: impl FnOnce()) {
    call();
}

/// Every kind of call, on a stack of 64 KiB, of which frames of tests have their share.
/// Capped logits have their derivatives beside them.
#[test]
fn a_stack_of_64_kilobytes_is_enough_and_of_72_for_capped_logits() {
    for (rows, classes) in [(37, 3), (40, 70), (40, 100), (11, 1000), (5, 2049), (2, 140_000)] {
        for backend in backends() {
            let batch = Batch::random(rows, classes, 10);
            for ce in losses(classes, backend) {
                let batch = batch.clone();
                let problem = Problem::random(rows, classes, 11);
                let has_cap = ce.softcap().is_some();
                let calls = move || {
                    for in_place in [false, true] {
                        apart(|| drop(Call { in_place, ..Call::default() }.evaluate(&ce, &batch)));
                    }
                    let split = Split::new([0..classes / 2, classes / 2..classes], Order::Forward);
                    apart(|| drop(split.evaluate(&ce, &batch)));
                    apart(|| drop(CurvatureCall::default().evaluate(&ce, &problem)));
                };
                let kilobytes = if has_cap { 72 } else { 64 };
                let thread = std::thread::Builder::new().stack_size(kilobytes << 10).spawn(calls);
                thread.expect("a thread can be started").join().expect("the stack is large enough");
            }
        }
    }
}

/// Second derivatives alone, in the dtype that takes the most memory.
#[test]
fn a_stack_of_64_kilobytes_is_enough_for_second_derivatives_of_capped_doubles() {
    for (rows, classes) in [(37, 3), (11, 1000), (5, 2049), (2, 140_000)] {
        for backend in backends() {
            let [_, _, ce] = losses(classes, backend);
            let Batch { logits, targets, .. } = Batch::random(rows, classes, 10);
            let x: Vec<f64> = logits.into_iter().map(f64::from).collect();
            let calls = move || -> Result<f64, xent::Error> {
                let (mut product, mut diagonal) = (vec![1.0; x.len()], vec![f64::NAN; x.len()]);
                let curvature = ce.curvature(Matrix::new(&x, rows, classes)?, &targets)?;
                let derivative = curvature.jvp(Matrix::new(&product, rows, classes)?)?;
                curvature.hessian_vector_product_in_place(MatrixMut::new(&mut product, rows, classes)?)?;
                curvature.hessian_diagonal(MatrixMut::new(&mut diagonal, rows, classes)?)?;
                Ok(derivative)
            };
            let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(calls);
            let derivative =
                thread.expect("a thread can be started").join().expect("the stack is large enough");
            derivative.expect("the batch is valid");
        }
    }
}

/// The calls alone: the larger stack of the test before is for what compares their results.
#[test]
fn a_stack_of_64_kilobytes_is_enough_for_calls_on_capped_logits() {
    for (rows, classes) in [(37, 3), (40, 70), (40, 100), (11, 1000), (5, 2049), (2, 140_000)] {
        for backend in backends() {
            let [_, _, ce] = losses(classes, backend);
            let Batch { logits: x, targets, .. } = Batch::random(rows, classes, 10);
            let calls = move || -> Result<[f64; 3], xent::Error> {
                let mut grad = vec![f32::NAN; x.len()];
                let mut in_place = x.clone();
                let logits = Matrix::new(&x, rows, classes)?;
                let loss = ce.loss(logits, &targets)?;
                let out = MatrixMut::new(&mut grad, rows, classes)?;
                let loss_out_of_place = ce.loss_and_grad(logits, &targets, out)?;
                let x = MatrixMut::new(&mut in_place, rows, classes)?;
                let loss_in_place = ce.loss_and_grad_in_place(x, &targets)?;
                assert_eq!(in_place, grad);
                Ok([loss, loss_out_of_place, loss_in_place])
            };
            let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(calls);
            let losses = thread.expect("a thread can be started").join().expect("the stack is large enough");
            let [loss, out_of_place, in_place] = losses.expect("the batch is valid");
            assert_eq!([out_of_place, in_place], [loss; 2]);
        }
    }
}
