//! Threads survive no `fork`: a child that waited for those of its parent would wait for ever. It gets its own.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Forks between the process that imported this and the present one.
static FORKS: AtomicUsize = AtomicUsize::new(0);

const MOST_FORKS: usize = 64;

/// One pool for each generation; the first has rayon's own.
static POOLS: [OnceLock<ThreadPool>; MOST_FORKS] = [const { OnceLock::new() }; MOST_FORKS];

/// Called in the child after each fork.
#[pyfunction]
pub(crate) fn after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Runs the task without the interpreter's lock, in a pool whose threads are there.
pub(crate) fn run<T: Send>(py: Python<'_>, task: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| install(task)).map_err(PyRuntimeError::new_err)
}

/// Runs the task, on a thread that does not hold the interpreter's lock, in a pool whose threads are there.
pub(crate) fn install<T: Send>(task: impl FnOnce() -> T + Send) -> Result<T, String> {
    let Some(generation) = FORKS.load(Ordering::Relaxed).checked_sub(1) else { return Ok(task()) };
    let pool = POOLS.get(generation);
    let pool = pool.ok_or_else(|| format!("more than {MOST_FORKS} forks, one in another"))?;
    if pool.get().is_none() {
        let built = ThreadPoolBuilder::new().build();
        let built = built.map_err(|error| format!("no threads: {error}"))?;
        // Another thread may have been first.
        let _ = pool.set(built);
    }
    match pool.get() {
        Some(pool) => Ok(pool.install(task)),
        None => Ok(task()),
    }
}
