//! What is allocated: no copy of the logits, and one gradient.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Result, Tensor, Var};

const ROWS: usize = 64;
const CLASSES: usize = 4096;
const BYTES: usize = ROWS * CLASSES * size_of::<f32>();

/// The system's allocator, and a count of large pieces.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static LARGE: AtomicUsize = AtomicUsize::new(0);

/// Tests that count take turns.
static TURN: Mutex<()> = Mutex::new(());

fn count(layout: Layout) {
    if layout.size() >= BYTES / 2 {
        LARGE.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every method passes its arguments on to the system's allocator, which keeps the trait's promises; counting
// neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; all memory comes from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// How many pieces as large as half the logits a call allocates.
fn large_allocations<T>(call: impl FnOnce() -> Result<T>) -> Result<(usize, T)> {
    let before = LARGE.load(Ordering::SeqCst);
    let value = call()?;
    Ok((LARGE.load(Ordering::SeqCst) - before, value))
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
