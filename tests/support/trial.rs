//! One call on one batch, on every backend, against the contract.

use super::batch::Batch;
use super::bounds::{Deviation, Expected, Quantity};
use super::evaluation::Call;
use super::variants::{Dtype, Variant};
use xent::{Backend, CrossEntropy, Parallelism};

/// A call, and the batch that it is made on.
#[derive(Clone, Copy)]
pub struct Trial<'a> {
    pub dtype: Dtype,
    pub variant: Variant,
    pub parallelism: Parallelism,
    pub in_place: bool,
    /// Before it is rounded to the dtype.
    pub batch: &'a Batch,
}

impl Trial<'_> {
    /// Makes the call on each of the backends, checks every output, and tells how far the row's results are from the exact
    /// ones.
    ///
    /// # Panics
    /// Where the contract breaks.
    pub fn run(&self, backends: &[Backend], note: &mut dyn FnMut(Backend, usize, Quantity, Deviation)) {
        let build = |backend| {
            let builder = CrossEntropy::builder().backend(backend).parallelism(self.parallelism);
            (self.variant.with)(builder, self.batch.classes).build().expect("the options are valid")
        };
        // The oracle has no backend.
        let (oracle, batch) = (build(Backend::Portable), (self.dtype.rounded)(self.batch));
        let call = Call { in_place: self.in_place, ..Call::default() };
        let expected = Expected::of_call(&oracle, &batch, call).rounded(self.dtype.rounding);
        for &backend in backends {
            let found = (self.dtype.evaluate)(&call, &build(backend), &batch);
            let context = format!("{}, {}, {backend}", self.dtype.name, self.variant.name);
            found.assert_no_subnormal(&context);
            expected.check_and_note(&found, &context, &mut |row, quantity, deviation| {
                note(backend, row, quantity, deviation);
            });
        }
    }
}
