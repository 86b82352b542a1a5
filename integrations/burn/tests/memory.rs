//! What is allocated: no copy of the logits, and one gradient.
#![allow(unsafe_code)]

#[path = "../../data/counting_allocator.rs"]
mod counting_allocator;

use std::sync::Mutex;

use burn::tensor::{Device, Int, Tensor};
use xent_burn::CrossEntropyLossConfig;

const ROWS: usize = 64;
const CLASSES: usize = 4096;
const BYTES: usize = ROWS * CLASSES * size_of::<f32>();

/// Tests that count take turns.
static TURN: Mutex<()> = Mutex::new(());

/// How many pieces as large as half the logits a call allocates.
fn large_allocations<T>(call: impl FnOnce() -> T) -> (usize, T) {
    counting_allocator::allocations_of(BYTES / 2, call)
}

#[test]
fn evaluation_allocates_nothing_as_large_as_the_logits() {
    let _turn = TURN.lock();
    for device in [Device::flex(), Device::flex().autodiff()] {
        let loss = CrossEntropyLossConfig::new().init(&device);
        let (logits, targets) =
            (Tensor::<2>::zeros([ROWS, CLASSES], &device), Tensor::<1, Int>::zeros([ROWS], &device));
        let (count, _) = large_allocations(|| loss.forward(logits, targets).into_scalar::<f32>());
        assert_eq!(count, 0);
    }
}

#[test]
fn training_allocates_one_gradient_where_the_logits_are_needed() {
    let _turn = TURN.lock();
    let device = Device::flex().autodiff();
    let loss = CrossEntropyLossConfig::new().init(&device);
    let logits = Tensor::<2>::zeros([ROWS, CLASSES], &device).require_grad();
    let targets = Tensor::<1, Int>::zeros([ROWS], &device);
    let (count, grads) = large_allocations(|| loss.forward(logits.clone(), targets).backward());
    assert_eq!(count, 1);
    assert!(logits.grad(&grads).is_some());
}

#[test]
fn training_allocates_nothing_where_the_gradient_takes_the_place_of_the_logits() {
    let _turn = TURN.lock();
    let device = Device::flex().autodiff();
    let loss = CrossEntropyLossConfig::new().init(&device);
    let x = Tensor::<2>::zeros([ROWS, 8], &device).require_grad();
    let weight = Tensor::<2>::ones([8, CLASSES], &device);
    let logits = x.clone().matmul(weight);
    let targets = Tensor::<1, Int>::zeros([ROWS], &device);
    let (count, loss) = large_allocations(|| loss.forward(logits, targets));
    assert_eq!(count, 0);
    let (count, grads) = large_allocations(|| loss.backward());
    assert_eq!(count, 0);
    assert!(x.grad(&grads).is_some());
}
