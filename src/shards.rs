//! The loss of rows that are in no one memory: its calls, and their validation.

use crate::batch::{Batch, Logits, Wide};
use crate::cross_entropy::Census;
use crate::kernel::real::Real;
use crate::row_inputs::RowInputs;
use crate::row_outputs::RowOutputs;
use crate::rows::Totals;
use crate::shard_rows::{Finished, ShardElement, Summarise, Unsummarised};
use crate::targets::Targets;
use crate::{
    CrossEntropy, Error, GradElement, Matrix, MatrixMut, Request, RowState, ShardState, Summary, Target,
};

/// The loss of a batch whose columns are split over shards, or made chunk by chunk: see [`RowState`]. By
/// [`CrossEntropy::shards`].
///
/// `S` is what a row's columns amount to: [`RowState`], or [`RowStateF64`](crate::RowStateF64) for logits of `f64`. It follows
/// from the first call.
///
/// It has the targets of all rows and the number of all classes; its calls get some columns of every row, and say which.
/// Every option of the [`CrossEntropy`] works and means what it means for whole rows: label smoothing spreads over the
/// classes of all shards, class weights are those of all classes, and the mean divides by the weights of all rows.
///
/// ```
/// use xent::{CrossEntropy, Matrix, MatrixMut, RowState};
///
/// let ce = CrossEntropy::builder().label_smoothing(0.1).build()?;
/// let logits = [1.0_f32, 2.0, 3.0, 4.0, 0.5, 0.0, -0.5, -1.0]; // 2 x 4
/// let targets = [3_u8, 0];
///
/// // Each shard summarises its own columns: 0 and 1, or 2 and 3.
/// let shards = ce.shards(&targets, 4);
/// let shard = |first: usize| Matrix::with_row_stride(&logits[first..], 2, 2, 4);
/// let (mut states, mut others) = ([RowState::EMPTY; 2], [RowState::EMPTY; 2]);
/// shards.summarise(shard(0)?, 0, &mut states)?;
/// shards.summarise(shard(2)?, 2, &mut others)?;
///
/// // One all-reduce, and everyone has the loss.
/// for (state, other) in states.iter_mut().zip(others) {
///     *state = state.merge(other);
/// }
/// let loss = shards.finish(&states)?.loss;
/// assert!((loss - ce.loss(Matrix::new(&logits, 2, 4)?, &targets)?).abs() < 1e-6);
///
/// // Each shard has the gradient of its own columns.
/// let mut grad = [0.0; 4];
/// shards.grad(shard(2)?, 2, &states, MatrixMut::new(&mut grad, 2, 2)?)?;
/// assert!((grad[1] + 0.140_5).abs() < 1e-4);
/// # Ok::<(), xent::Error>(())
/// ```
///
/// Calls allocate nothing, and use threads as whole rows do: over rows, and over the columns of long ones. They are made
/// for shards of hundreds of columns and more.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Shards<'a, S: ShardState = RowState> {
    ce: &'a CrossEntropy,
    targets: Targets<'a>,
    classes: usize,
    inputs: RowInputs<'a, S::Real>,
}

impl CrossEntropy {
    /// The loss of rows of `classes` logits that are split over shards, or made chunk by chunk. `targets` has one class
    /// below `classes`, or an ignored index, for each row: the calls check that.
    pub fn shards<'a, T: Target, S: ShardState>(&'a self, targets: &'a [T], classes: usize) -> Shards<'a, S> {
        Shards { ce: self, targets: Targets::new(targets), classes, inputs: RowInputs::default() }
    }
}

/// What rows bring along, the same for all calls. It is checked by them.
impl<'a, S: ShardState> Shards<'a, S> {
    /// [`Request::upstream`].
    pub fn upstream(mut self, upstream: &'a [S::Real]) -> Self {
        self.inputs.upstream = Some(upstream);
        self
    }

    /// [`Request::upstream_scalar`].
    pub fn upstream_scalar(mut self, upstream_scalar: f64) -> Self {
        self.inputs.upstream_scalar = Some(upstream_scalar);
        self
    }

    /// [`Request::row_weights`].
    pub fn row_weights(mut self, row_weights: &'a [f32]) -> Self {
        self.inputs.row_weights = Some(row_weights);
        self
    }

    /// [`Request::loss_mask`].
    pub fn loss_mask(mut self, loss_mask: &'a [bool]) -> Self {
        self.inputs.loss_mask = Some(loss_mask);
        self
    }

    /// [`Request::denominator`].
    pub fn denominator(mut self, denominator: f64) -> Self {
        self.inputs.denominator = Some(denominator);
        self
    }
}

/// The calls. Their arguments are checked before the first write. Besides the errors that each names, all return those of
/// [`CrossEntropy::loss`] for targets, classes and class weights, and those of [`CrossEntropy::run`] for what rows bring
/// along.
impl<S: ShardState> Shards<'_, S> {
    /// The state of each row's columns `first_column..first_column + logits.cols()`, which `logits` has.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] (states, and targets as compared with the rows of `logits`) and
    /// [`Error::ColumnsOutOfRange`].
    pub fn summarise<E: ShardElement<State = S>>(
        &self,
        logits: Matrix<'_, E>,
        first_column: usize,
        states: &mut [S],
    ) -> Result<(), Error> {
        self.check(logits, first_column, states)?;
        states.fill(S::EMPTY);
        self.accumulate(logits, first_column, states)
    }

    /// The same, merged into what `states` are already: logits that are made chunk by chunk are accumulated one chunk
    /// after the other.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix, RowState};
    ///
    /// // Logits are made 1000 at a time, in one buffer.
    /// let (classes, targets, ce) = (50_000, [7_u8], CrossEntropy::default());
    /// let shards = ce.shards(&targets, classes);
    /// let (mut chunk, mut states) = ([0.0_f32; 1000], [RowState::EMPTY]);
    /// for first in (0..classes).step_by(chunk.len()) {
    ///     for (i, x) in chunk.iter_mut().enumerate() {
    ///         *x = ((first + i) as f32).sin();
    ///     }
    ///     shards.accumulate(Matrix::new(&chunk, 1, chunk.len())?, first, &mut states)?;
    /// }
    /// assert!((shards.finish(&states)?.loss - 10.398_7).abs() < 1e-3);
    /// # Ok::<(), xent::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Shards::summarise`].
    pub fn accumulate<E: ShardElement<State = S>>(
        &self,
        logits: Matrix<'_, E>,
        first_column: usize,
        states: &mut [S],
    ) -> Result<(), Error> {
        self.check(logits, first_column, states)?;
        let Self { ce, targets, .. } = *self;
        let logits = Logits::Keep(logits);
        let request = self.request();
        let batch = Batch { logits, targets: Some(targets), target_probabilities: None, request };
        let summarise = Summarise { schedule: ce.schedule, options: &ce.options, first_column };
        E::summarise(summarise, Unsummarised { batch, states });
        Ok(())
    }

    /// The reduced loss, and the rest of the [`Summary`], of complete states: those of all columns of each row.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] (states) and [`Error::IncompleteState`].
    pub fn finish(&self, states: &[S]) -> Result<Summary, Error> {
        self.finish_rows(states, RowOutputs::default())
    }

    /// The same, and the loss of each row before the reduction, as [`Request::losses`].
    ///
    /// # Errors
    /// Those of [`Shards::finish`], and [`Error::LengthMismatch`] (losses).
    pub fn losses(&self, states: &[S], losses: &mut [S::Real]) -> Result<Summary, Error> {
        self.finish_rows(states, RowOutputs { losses: Some(losses), ..RowOutputs::default() })
    }

    /// The logarithm of each row's probability of its target, as [`Request::target_log_probabilities`].
    ///
    /// # Errors
    /// Those of [`Shards::finish`], and [`Error::LengthMismatch`] (target_log_probabilities).
    pub fn target_log_probabilities(
        &self,
        states: &[S],
        target_log_probabilities: &mut [S::Real],
    ) -> Result<(), Error> {
        let target_log_probabilities = Some(target_log_probabilities);
        self.finish_rows(states, RowOutputs { target_log_probabilities, ..RowOutputs::default() }).map(drop)
    }

    /// The logarithm of the sum of exponentials of each row, as [`Request::lse`].
    ///
    /// # Errors
    /// Those of [`Shards::finish`], and [`Error::LengthMismatch`] (lse).
    pub fn lse(&self, states: &[S], lse: &mut [S::Real]) -> Result<(), Error> {
        self.check_finished(states)?;
        let (expected, actual) = (self.rows(), lse.len());
        if actual != expected {
            return Err(Error::LengthMismatch { argument: "lse", expected, actual });
        }
        for (row, (lse, state)) in lse.iter_mut().zip(states).enumerate() {
            *lse = if self.counts(row) { Real::round(state.lse()) } else { Real::round(0.0) };
        }
        Ok(())
    }

    /// In `grad`, the gradient of the reduced loss with respect to `logits`, the columns
    /// `first_column..first_column + logits.cols()` of each row. `states` are complete: those of all columns.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] (states, and targets as compared with the rows of `logits`), [`Error::ShapeMismatch`],
    /// [`Error::ColumnsOutOfRange`] and [`Error::IncompleteState`].
    pub fn grad<E: ShardElement<State = S>>(
        &self,
        logits: Matrix<'_, E>,
        first_column: usize,
        states: &[S],
        grad: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.grad_of(Logits::Keep(logits), first_column, states, self.request().grad(grad))
    }

    /// The same; the gradient is added to what `grad` holds, as [`Request::accumulate`].
    ///
    /// # Errors
    /// Those of [`Shards::grad`].
    pub fn accumulate_grad<E: ShardElement<State = S>>(
        &self,
        logits: Matrix<'_, E>,
        first_column: usize,
        states: &[S],
        grad: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.grad_of(Logits::Keep(logits), first_column, states, self.request().accumulate(grad))
    }

    /// The same as [`Shards::grad`], in another dtype than the logits, as [`Request::grad_as`].
    ///
    /// # Errors
    /// Those of [`Shards::grad`].
    pub fn grad_as<E: ShardElement<State = S>, G: GradElement>(
        &self,
        logits: Matrix<'_, E>,
        first_column: usize,
        states: &[S],
        grad: MatrixMut<'_, G>,
    ) -> Result<(), Error> {
        self.grad_of(Logits::Keep(logits), first_column, states, self.request().grad_as(grad))
    }

    /// The same, added to what `grad` holds, as [`Request::accumulate_as`].
    ///
    /// # Errors
    /// Those of [`Shards::grad`].
    pub fn accumulate_grad_as<E: ShardElement<State = S>, G: GradElement>(
        &self,
        logits: Matrix<'_, E>,
        first_column: usize,
        states: &[S],
        grad: MatrixMut<'_, G>,
    ) -> Result<(), Error> {
        self.grad_of(Logits::Keep(logits), first_column, states, self.request().accumulate_as(grad))
    }

    /// The same as [`Shards::grad`]; the gradient replaces the logits.
    ///
    /// # Errors
    /// Those of [`Shards::grad`].
    pub fn grad_in_place<E: ShardElement<State = S>>(
        &self,
        logits: MatrixMut<'_, E>,
        first_column: usize,
        states: &[S],
    ) -> Result<(), Error> {
        self.grad_of(Logits::Overwrite(logits, Wide::Gradient), first_column, states, self.request())
    }

    fn rows(&self) -> usize {
        self.targets.len()
    }

    fn counts(&self, row: usize) -> bool {
        self.inputs.may_count(row) && self.targets.class(row, &self.ce.options.ignore_indices).is_some()
    }

    fn request<'b, E: ShardElement<State = S>>(&self) -> Request<'b, E>
    where
        Self: 'b,
    {
        Request { inputs: self.inputs, ..Request::new() }
    }

    fn finish_rows(&self, states: &[S], row_outputs: RowOutputs<'_, S::Real>) -> Result<Summary, Error> {
        let census = self.check_finished(states)?;
        row_outputs.check(self.rows())?;
        // None of the columns: their states say it all.
        let logits = Logits::Keep(Matrix::<S::Real>::new(&[], self.rows(), 0)?);
        let request = Request { row_outputs, ..self.request() };
        let totals = self.run(&census, logits, 0, states, request);
        Ok(self.ce.summary(totals, &census, &self.inputs))
    }

    fn grad_of<E: ShardElement<State = S>>(
        &self,
        logits: Logits<'_, E>,
        first_column: usize,
        states: &[S],
        request: Request<'_, E>,
    ) -> Result<(), Error> {
        let matrix = logits.as_matrix();
        self.check(matrix, first_column, states)?;
        let census = self.check_finished(states)?;
        request.check(self.rows(), matrix.cols())?;
        self.run(&census, logits, first_column, states, request);
        Ok(())
    }

    fn run<E: ShardElement<State = S>>(
        &self,
        census: &Census,
        logits: Logits<'_, E>,
        first_column: usize,
        states: &[S],
        mut request: Request<'_, E>,
    ) -> Totals {
        let Self { ce, targets, classes, .. } = *self;
        request.inputs.multiply_upstream(ce.options.logit_scale);
        let batch = Batch { logits, targets: Some(targets), target_probabilities: None, request };
        let job =
            ce.job(ce.options.terms(classes), census, &batch.request.inputs, ce.schedule.streams(&batch));
        E::finish(&job, first_column, Finished { batch, states })
    }

    /// Checks all but what only complete states can be, and outputs.
    fn check<E>(&self, logits: Matrix<'_, E>, first_column: usize, states: &[S]) -> Result<Census, Error> {
        let Self { ce, targets, classes, ref inputs } = *self;
        let cols = logits.cols();
        if targets.len() != logits.rows() {
            let (expected, actual) = (logits.rows(), targets.len());
            return Err(Error::LengthMismatch { argument: "targets", expected, actual });
        }
        if first_column > classes || cols > classes - first_column {
            return Err(Error::ColumnsOutOfRange { first_column, cols, classes });
        }
        self.check_states(states)?;
        ce.check(self.rows(), classes, targets, inputs)
    }

    fn check_states(&self, states: &[S]) -> Result<(), Error> {
        let (expected, actual) = (self.rows(), states.len());
        if actual == expected {
            Ok(())
        } else {
            Err(Error::LengthMismatch { argument: "states", expected, actual })
        }
    }

    /// Checks that every row's state has all columns.
    fn check_finished(&self, states: &[S]) -> Result<Census, Error> {
        let Self { ce, targets, classes, ref inputs } = *self;
        self.check_states(states)?;
        let census = ce.check(self.rows(), classes, targets, inputs)?;
        for (row, state) in states.iter().enumerate() {
            let (columns, targets) = (state.columns(), state.targets());
            if columns != classes as u64 || targets != u32::from(self.counts(row)) {
                return Err(Error::IncompleteState { row, columns, targets, classes });
            }
        }
        Ok(census)
    }
}
