//! The work of a call: logits of shape (batch, rows, classes), where `jax.vmap` makes the batch.
//!
//! The batch is any number of dimensions, none among them, and each of its items has a loss of its own. An argument that
//! items share has size 1 there (`vmap_method="expand_dims"`), and is not copied.

use core::ops::Range;

use xent::{CrossEntropy, CrossEntropyBuilder, Matrix, MatrixMut, Request};

use super::blocks::Blocks;
use super::frame::{Buffer, Frame, Result, product};
use super::large_pages;
use crate::dtypes::{Logits, Number};
use crate::row_values::truths_of;
use crate::run::Place;
use crate::target::{Classes, with_classes};

/// Items with fewer logits together are computed one after the other: threads would take longer to wake.
const LOGITS_OF_A_TASK: usize = 1 << 16;

/// One call.
pub(crate) struct Batch<'a, L: Logits> {
    inputs: Inputs<'a, L>,
    outputs: Outputs<'a, L>,
}

/// What is read.
struct Inputs<'a, L: Logits> {
    items: usize,
    /// Of an item.
    rows: usize,
    classes: usize,
    /// `reduction="none"`
    per_row: bool,
    loss: Loss<'a>,
    /// `None` where the gradient takes their place.
    logits: Option<(&'a [L], Blocks<'a>)>,
    labels: (Labels<'a, L::PerRow>, Blocks<'a>),
    loss_mask: Option<(Vec<bool>, Blocks<'a>)>,
    row_weights: Option<(&'a [f32], Blocks<'a>)>,
}

/// What is written, for some of the items.
struct Outputs<'a, L: Logits> {
    /// One for each item, or for each row of each item.
    loss: &'a mut [L::PerRow],
    grad: Option<&'a mut [L]>,
}

/// The loss with its options.
enum Loss<'a> {
    OfAll(CrossEntropy),
    /// Items have class weights of their own.
    OfEach(CrossEntropyBuilder, &'a [f32], Blocks<'a>),
}

enum Labels<'a, N> {
    Classes(Classes<'a>),
    Probabilities(&'a [N]),
}

impl<'a, L: Logits> Batch<'a, L> {
    pub(crate) fn new(builder: CrossEntropyBuilder, per_row: bool, frame: &mut Frame<'a>) -> Result<Self> {
        let loss = frame.take_result("loss").ok_or("the result loss is missing")?;
        let grad = frame.take_result("grad");
        let logits = frame.argument("logits")?;
        let Some((_, &[rows, classes])) = logits.shape.split_last_chunk() else {
            return Err(format!("logits have shape {:?}", logits.shape));
        };
        let shape = [rows, classes];
        let batch = loss.leading(if per_row { &shape[..1] } else { &[] })?;
        if let Some(grad) = &grad
            && grad.leading(&shape)? != batch
        {
            return Err(format!("grad has shape {:?} in the batch {batch:?}", grad.shape));
        }
        let is_overwritten = grad.as_ref().is_some_and(|grad| grad.is_same(logits));
        let inputs = Inputs {
            items: product(batch)?,
            rows: product(&[rows])?,
            classes: product(&[classes])?,
            per_row,
            loss: Loss::new(builder, frame.optional_argument("weight"), classes, batch)?,
            logits: match is_overwritten {
                true => None,
                false => Some((logits.slice()?, Blocks::new(logits, &shape, batch)?)),
            },
            labels: Labels::new(frame.argument("labels")?, rows, classes, batch)?,
            loss_mask: of_rows(frame.optional_argument("loss_mask"), rows, batch, truths_of)?,
            row_weights: of_rows(frame.optional_argument("row_weights"), rows, batch, Buffer::slice)?,
        };
        let mut grad = grad.map(Buffer::into_slice_mut).transpose()?;
        if let Some(grad) = &mut grad
            && !is_overwritten
        {
            large_pages::ask_for(grad);
        }
        let outputs = Outputs { loss: loss.into_slice_mut()?, grad };
        Ok(Self { inputs, outputs })
    }

    pub(crate) fn run(self) -> Result<()> {
        self.inputs.run(0..self.inputs.items, self.outputs)
    }
}

impl<L: Logits> Inputs<'_, L> {
    /// Items in parallel, and the rows of each. Of several errors it is that of the first item.
    fn run(&self, items: Range<usize>, outputs: Outputs<'_, L>) -> Result<()> {
        if items.len() == 1 || self.are_one_batch_of_rows() {
            return self.run_rows(items, outputs);
        }
        if items.is_empty() {
            return Ok(());
        }
        let logits = self.rows * self.classes;
        let half = items.len() / 2;
        let middle = items.start + half;
        let (outputs, others) =
            outputs.split_at(half * if self.per_row { self.rows } else { 1 }, half * logits);
        let first = || self.run(items.start..middle, outputs);
        let second = || self.run(middle..items.end, others);
        let (first, second) = match items.len() * logits < LOGITS_OF_A_TASK {
            true => (first(), second()),
            false => rayon::join(first, second),
        };
        first.and(second)
    }

    /// Whether nothing tells where an item ends.
    fn are_one_batch_of_rows(&self) -> bool {
        let logits = self.logits.as_ref().map(|(_, blocks)| blocks);
        let loss_mask = self.loss_mask.as_ref().map(|(_, blocks)| blocks);
        let row_weights = self.row_weights.as_ref().map(|(_, blocks)| blocks);
        let blocks = [logits, Some(&self.labels.1), loss_mask, row_weights];
        self.per_row
            && matches!(self.loss, Loss::OfAll(_))
            && blocks.into_iter().flatten().all(Blocks::is_whole)
    }

    /// The rows of one item, or of several that are one batch.
    fn run_rows(&self, items: Range<usize>, outputs: Outputs<'_, L>) -> Result<()> {
        let (rows, classes) = (items.len() * self.rows, self.classes);
        let own;
        let loss = match &self.loss {
            Loss::OfAll(loss) => loss,
            Loss::OfEach(builder, weight, blocks) => {
                own = build(builder.clone().weight(&weight[blocks.range(&items)]))?;
                &own
            }
        };
        let mut request = Request::<L>::new();
        if let Some((loss_mask, blocks)) = &self.loss_mask {
            request = request.loss_mask(&loss_mask[blocks.range(&items)]);
        }
        if let Some((row_weights, blocks)) = &self.row_weights {
            request = request.row_weights(&row_weights[blocks.range(&items)]);
        }
        let Outputs { loss: losses, grad } = outputs;
        let mut reduced = None;
        match self.per_row {
            true => request = request.losses(losses),
            false => reduced = losses.first_mut(),
        }
        let mut grad = grad.map(|grad| MatrixMut::new(grad, rows, classes).map_err(text)).transpose()?;
        let place = match &self.logits {
            Some((logits, blocks)) => {
                if let Some(grad) = grad.take() {
                    request = request.grad(grad);
                }
                Place::Keep(Matrix::new(&logits[blocks.range(&items)], rows, classes).map_err(text)?)
            }
            None => Place::Overwrite(grad.ok_or("logits that nothing takes the place of")?),
        };
        let (labels, blocks) = &self.labels;
        let range = blocks.range(&items);
        let summary = match labels {
            Labels::Classes(labels) => {
                with_classes!(labels, labels => place.run(loss, &labels[range], request))
            }
            Labels::Probabilities(labels) => {
                let labels = Matrix::new(&labels[range], rows, classes).map_err(text)?;
                place.run_probabilities(loss, labels, request)
            }
        };
        let summary = summary.map_err(|error| match items.len() == self.items {
            true => text(error),
            false => format!("item {} of the batch: {error}", items.start),
        })?;
        if let Some(reduced) = reduced {
            *reduced = L::PerRow::from_f64(summary.loss);
        }
        Ok(())
    }
}

impl<L: Logits> Outputs<'_, L> {
    fn split_at(self, losses: usize, logits: usize) -> (Self, Self) {
        let (loss, other_loss) = self.loss.split_at_mut(losses);
        let (grad, other_grad) = self.grad.map(|grad| grad.split_at_mut(logits)).unzip();
        (Self { loss, grad }, Self { loss: other_loss, grad: other_grad })
    }
}

impl<'a> Loss<'a> {
    fn new(
        builder: CrossEntropyBuilder,
        weight: Option<&Buffer<'a>>,
        classes: i64,
        batch: &'a [i64],
    ) -> Result<Self> {
        let Some(weight) = weight else { return build(builder).map(Self::OfAll) };
        let (weight, blocks) = (weight.slice::<f32>()?, Blocks::new(weight, &[classes], batch)?);
        match blocks.is_shared() {
            true => build(builder.weight(weight)).map(Self::OfAll),
            false => Ok(Self::OfEach(builder, weight, blocks)),
        }
    }
}

impl<'a, N: Number> Labels<'a, N> {
    fn new(labels: &Buffer<'a>, rows: i64, classes: i64, batch: &'a [i64]) -> Result<(Self, Blocks<'a>)> {
        if labels.dtype == N::DTYPE {
            return Ok((Self::Probabilities(labels.slice()?), Blocks::new(labels, &[rows, classes], batch)?));
        }
        let integers = Classes::read(labels)?;
        let integers =
            integers.ok_or_else(|| format!("labels are {}, not integers or {}", labels.dtype, N::DTYPE))?;
        Ok((Self::Classes(integers), Blocks::new(labels, &[rows], batch)?))
    }
}

/// An argument that has one number for each row.
fn of_rows<'b, 'a, D>(
    buffer: Option<&'b Buffer<'a>>,
    rows: i64,
    batch: &'a [i64],
    read: impl Fn(&'b Buffer<'a>) -> Result<D>,
) -> Result<Option<(D, Blocks<'a>)>> {
    let Some(buffer) = buffer else { return Ok(None) };
    Ok(Some((read(buffer)?, Blocks::new(buffer, &[rows], batch)?)))
}

fn build(builder: CrossEntropyBuilder) -> Result<CrossEntropy> {
    builder.build().map_err(text)
}

fn text(error: xent::Error) -> String {
    error.to_string()
}
