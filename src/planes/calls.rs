//! The calls on planes.

use core::array;

use super::bands::{BandScalars, Bands};
use super::batch::{Batch, Logits};
use super::{Planes, PlanesMut, PlanesRequest, tiles};
use crate::kernel::bands::Scalars;
use crate::kernel::planes::MOST;
use crate::parallel::PIECE;
use crate::passes::Kernels;
use crate::rows::{Job, Totals};
use crate::targets::Targets;
use crate::{CrossEntropy, Element, Error, Summary, Target};

/// Logits of shape (N, C, d1, d2, ...), whose classes are not last: see [`Planes`].
///
/// Each position of each image is a row of C logits, and all is as if these were the rows of a
/// [`Matrix`](crate::Matrix): the same options, the same formulas, the same bounds.
/// Nothing is copied or transposed: 16 neighbouring positions are one vector in each plane. `targets` are N x d1 x d2 x
/// ..., one class for each position, in the order of a plane's elements; rows in an [`Error`] are counted like this.
///
/// Every [`Element`] may be the dtype of the logits, with every option. Results in 16 bits are those of `f32` on the same
/// numbers, rounded once. Planes of `f64` keep the bounds of rows of `f64`, and not their bits: sums go along lanes of
/// another kind. Threads share their images, and not the positions of one.
///
/// Vectors go along positions, so images of less than 16 positions leave a part of them empty. Logits of shape (N, C) are
/// better taken as a [`Matrix`](crate::Matrix).
impl CrossEntropy {
    /// The reduced loss of logits whose classes are not last.
    ///
    /// ```
    /// use xent::{CrossEntropy, Planes};
    ///
    /// // One image of 2 x 2 pixels and two classes; the last pixel is ignored.
    /// let logits = [0.5_f32, 1.0, -1.0, 0.0, 0.5, 2.0, 3.0, 0.0];
    /// let targets = [0_i64, 1, 1, -100];
    /// let loss = CrossEntropy::default().loss_planes(Planes::new(&logits, 1, 2, 4)?, &targets)?;
    /// assert!((loss - 0.3415).abs() < 1e-4);
    /// # Ok::<(), xent::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoClasses`], [`Error::LengthMismatch`] (targets, class weights), and [`Error::TargetOutOfRange`].
    pub fn loss_planes<E: Element, T: Target>(
        &self,
        logits: Planes<'_, E>,
        targets: &[T],
    ) -> Result<f64, Error> {
        self.run_planes(logits, targets, PlanesRequest::new()).map(|summary| summary.loss)
    }

    /// The reduced loss, and in `grad`, of the logits' shape, its derivative with respect to them.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss_planes`], and [`Error::PlanesMismatch`].
    pub fn loss_and_grad_planes<E: Element, T: Target>(
        &self,
        logits: Planes<'_, E>,
        targets: &[T],
        grad: PlanesMut<'_, E>,
    ) -> Result<f64, Error> {
        self.run_planes(logits, targets, PlanesRequest::new().grad(grad)).map(|summary| summary.loss)
    }

    /// The reduced loss; its gradient replaces the logits. This moves the fewest bytes.
    ///
    /// ```
    /// use xent::{CrossEntropy, PlanesMut};
    ///
    /// // Two images of one position, three classes.
    /// let mut x = [0.0_f32; 6];
    /// CrossEntropy::default().loss_and_grad_planes_in_place(PlanesMut::new(&mut x, 2, 3, 1)?, &[0_u8, 2])?;
    /// assert_eq!(x, [-1.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0, -1.0 / 3.0]);
    /// # Ok::<(), xent::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss_planes`].
    pub fn loss_and_grad_planes_in_place<E: Element, T: Target>(
        &self,
        logits: PlanesMut<'_, E>,
        targets: &[T],
    ) -> Result<f64, Error> {
        self.run_planes_in_place(logits, targets, PlanesRequest::new()).map(|summary| summary.loss)
    }

    /// Any set of outputs in one call. Nothing is allocated.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss_planes`]; [`Error::PlanesMismatch`] and [`Error::LengthMismatch`] for an output that
    /// does not fit the logits; [`Error::InvalidRowWeight`], [`Error::InvalidUpstreamScalar`] and
    /// [`Error::InvalidDenominator`]. No output has then been written.
    pub fn run_planes<E: Element, T: Target>(
        &self,
        logits: Planes<'_, E>,
        targets: &[T],
        request: PlanesRequest<'_, E>,
    ) -> Result<Summary, Error> {
        self.run_on_planes(Logits::Keep(logits), Targets::new(targets), request)
    }

    /// Any set of outputs in one call; the gradient replaces the logits.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::run_planes`], and [`Error::GradTwice`] if the request names a gradient of its own.
    pub fn run_planes_in_place<E: Element, T: Target>(
        &self,
        logits: PlanesMut<'_, E>,
        targets: &[T],
        request: PlanesRequest<'_, E>,
    ) -> Result<Summary, Error> {
        if request.grad.is_some() {
            return Err(Error::GradTwice);
        }
        self.run_on_planes(Logits::Overwrite(logits), Targets::new(targets), request)
    }

    fn run_on_planes<E: Element>(
        &self,
        logits: Logits<'_, E>,
        targets: Targets<'_>,
        request: PlanesRequest<'_, E>,
    ) -> Result<Summary, Error> {
        let mut batch = Batch { logits, targets, request };
        let (images, classes, positions) = batch.sizes();
        // The views have been checked: this does not overflow.
        let rows = images * positions;
        let census = self.check(rows, classes, targets, &batch.request.inputs)?;
        batch.request.check((images, classes, positions), rows)?;

        batch.request.inputs.multiply_upstream(self.options.logit_scale);
        let inputs = batch.request.inputs;
        let streaming = batch.bytes_out_of_place() > self.schedule.cache_bytes;
        let job = self.job(self.options.terms(classes), &census, &inputs, streaming);
        let totals = if rows == 0 { Totals::default() } else { E::run_planes(&job, batch) };
        Ok(self.summary(totals, &census, &inputs))
    }
}

/// All images, whose numbers are computed in `f32`.
pub(super) fn run<T: Kernels>(job: &Job<'_>, batch: Batch<'_, T>) -> Totals {
    let (_, classes, positions) = batch.sizes();
    let images_per_piece = (PIECE / classes.saturating_mul(positions)).max(1);
    let piece = |batch: Batch<'_, T>| if classes <= MOST { few(job, batch) } else { many(job, batch) };
    job.schedule.by_rows(batch, images_per_piece, images_per_piece, &piece, Totals::add)
}

/// Images of few classes. Not inlined, as [`many`] is not: their stack is not that of every cut above.
#[inline(never)]
fn few<T: Kernels>(job: &Job<'_>, mut batch: Batch<'_, T>) -> Totals {
    let (images, classes, _) = batch.sizes();
    let each = |image| tiles::run(job, &mut batch.strip(image), classes);
    (0..images).map(each).fold(Totals::default(), Totals::add)
}

/// Images of many classes.
#[inline(never)]
fn many<T: Kernels>(job: &Job<'_>, mut batch: Batch<'_, T>) -> Totals {
    let (images, classes, _) = batch.sizes();
    let mut first: BandScalars = array::from_fn(|_| Scalars::default());
    let mut second: BandScalars = array::from_fn(|_| Scalars::default());
    let mut bands = Bands { scalars: [&mut first, &mut second] };
    let each = |image| bands.run(job, batch.image(image), classes);
    (0..images).map(each).fold(Totals::default(), Totals::add)
}
