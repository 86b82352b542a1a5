//! What is allocated: no copy of the logits, and one gradient.
#![allow(unsafe_code)]

#[path = "../../data/counting_allocator.rs"]
mod counting_allocator;

use std::sync::Mutex;

use candle_core::{DType, Device, Result, Tensor, Var};

const ROWS: usize = 64;
const CLASSES: usize = 4096;
const BYTES: usize = ROWS * CLASSES * size_of::<f32>();

/// Tests that count take turns.
static TURN: Mutex<()> = Mutex::new(());

/// How many pieces as large as half the logits a call allocates.
fn large_allocations<T>(call: impl FnOnce() -> Result<T>) -> Result<(usize, T)> {
    let (count, value) = counting_allocator::allocations_of(BYTES / 2, call);
    Ok((count, value?))
}

fn batch() -> Result<(Var, Tensor)> {
    let logits = Var::zeros((ROWS, CLASSES), DType::F32, &Device::Cpu)?;
    Ok((logits, Tensor::zeros(ROWS, DType::U32, &Device::Cpu)?))
}

#[test]
fn evaluation_allocates_nothing_as_large_as_the_logits() -> Result<()> {
    let _turn = TURN.lock();
    let (logits, targets) = batch()?;
    let logits = logits.as_detached_tensor();
    let (count, _) = large_allocations(|| xent_candle::cross_entropy(&logits, &targets))?;
    assert_eq!(count, 0);
    Ok(())
}

#[test]
fn training_allocates_one_gradient_and_candle_two() -> Result<()> {
    let _turn = TURN.lock();
    let (logits, targets) = batch()?;
    let (count, loss) = large_allocations(|| xent_candle::cross_entropy(&logits, &targets))?;
    assert_eq!(count, 1, "the gradient");
    let (count, _) = large_allocations(|| loss.backward())?;
    assert_eq!(count, 2, "candle's zeros, and its sum of zeros and the gradient");
    Ok(())
}

#[test]
fn a_factor_on_the_loss_takes_one_gradient_more() -> Result<()> {
    let _turn = TURN.lock();
    let (logits, targets) = batch()?;
    let loss = (xent_candle::cross_entropy(&logits, &targets)? * 0.5)?;
    let (count, _) = large_allocations(|| loss.backward())?;
    assert_eq!(count, 3, "the gradient with the factor inside, and candle's two");
    Ok(())
}

#[test]
fn strided_rows_are_not_copied() -> Result<()> {
    let _turn = TURN.lock();
    let (logits, targets) = batch()?;
    let narrow = logits.as_detached_tensor().narrow(1, 1, CLASSES - 1)?;
    let (count, _) = large_allocations(|| xent_candle::cross_entropy(&narrow, &targets))?;
    assert_eq!(count, 0);
    Ok(())
}
