//! Outputs with one number for each row.

use core::ops::Range;

use crate::Error;
use crate::kernel::lanes::RowLanes;
use crate::kernel::real::Real;
use crate::kernel::results::Results;
use crate::request::split;

/// The argmax, and the target's rank, of a row that has none.
pub(crate) const NO_RANK: usize = usize::MAX;

/// Those of a [`Request`](crate::Request), each of them optional.
#[derive(Debug, Default)]
pub(crate) struct RowOutputs<'a, R = f32> {
    pub(crate) losses: Option<&'a mut [R]>,
    pub(crate) target_log_probabilities: Option<&'a mut [R]>,
    pub(crate) argmax_probabilities: Option<&'a mut [R]>,
    pub(crate) lse: Option<&'a mut [R]>,
    pub(crate) entropies: Option<&'a mut [R]>,
    pub(crate) argmax: Option<&'a mut [usize]>,
    pub(crate) target_ranks: Option<&'a mut [usize]>,
}

impl<R: Real> RowOutputs<'_, R> {
    pub(crate) fn check(&self, rows: usize) -> Result<(), Error> {
        let lengths = [
            ("losses", len(&self.losses)),
            ("target_log_probabilities", len(&self.target_log_probabilities)),
            ("argmax_probabilities", len(&self.argmax_probabilities)),
            ("lse", len(&self.lse)),
            ("entropies", len(&self.entropies)),
            ("argmax", len(&self.argmax)),
            ("target_ranks", len(&self.target_ranks)),
        ];
        for (argument, len) in lengths {
            if let Some(actual) = len.filter(|&len| len != rows) {
                return Err(Error::LengthMismatch { argument, expected: rows, actual });
            }
        }
        Ok(())
    }

    /// None of them is about the class of a row's target.
    pub(crate) fn check_without_classes(&self) -> Result<(), Error> {
        let asked = [
            ("target_log_probabilities", self.target_log_probabilities.is_some()),
            ("target_ranks", self.target_ranks.is_some()),
        ];
        match asked.into_iter().find(|&(_, is_asked)| is_asked) {
            Some((argument, _)) => Err(Error::NeedsClasses { argument }),
            None => Ok(()),
        }
    }

    /// Those of the first `rows` rows, and of the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        let (losses, losses_rest) = split(self.losses, |out| out.split_at_mut(rows));
        let (target_log_probabilities, target_log_probabilities_rest) =
            split(self.target_log_probabilities, |out| out.split_at_mut(rows));
        let (argmax_probabilities, argmax_probabilities_rest) =
            split(self.argmax_probabilities, |out| out.split_at_mut(rows));
        let (lse, lse_rest) = split(self.lse, |out| out.split_at_mut(rows));
        let (entropies, entropies_rest) = split(self.entropies, |out| out.split_at_mut(rows));
        let (argmax, argmax_rest) = split(self.argmax, |out| out.split_at_mut(rows));
        let (target_ranks, target_ranks_rest) = split(self.target_ranks, |out| out.split_at_mut(rows));
        (
            Self {
                losses,
                target_log_probabilities,
                argmax_probabilities,
                lse,
                entropies,
                argmax,
                target_ranks,
            },
            Self {
                losses: losses_rest,
                target_log_probabilities: target_log_probabilities_rest,
                argmax_probabilities: argmax_probabilities_rest,
                lse: lse_rest,
                entropies: entropies_rest,
                argmax: argmax_rest,
                target_ranks: target_ranks_rest,
            },
        )
    }

    /// Those of some rows, for a shorter time.
    pub(crate) fn range(&mut self, rows: Range<usize>) -> RowOutputs<'_, R> {
        RowOutputs {
            losses: range(&mut self.losses, &rows),
            target_log_probabilities: range(&mut self.target_log_probabilities, &rows),
            argmax_probabilities: range(&mut self.argmax_probabilities, &rows),
            lse: range(&mut self.lse, &rows),
            entropies: range(&mut self.entropies, &rows),
            argmax: range(&mut self.argmax, &rows),
            target_ranks: range(&mut self.target_ranks, &rows),
        }
    }

    /// Whether some output needs another look at the row than loss and affine outputs do.
    #[inline(always)]
    pub(crate) fn read_logits_again(&self) -> bool {
        self.lse.is_some() || self.entropies.is_some() || self.argmax.is_some() || self.target_ranks.is_some()
    }

    /// What follows from the scalars of a tile's rows.
    pub(crate) fn write(&mut self, tile: Range<usize>, lanes: &RowLanes<R>, results: &Results<R>) {
        if let Some(losses) = &mut self.losses {
            for (loss, &exact) in losses[tile.clone()].iter_mut().zip(&results.loss) {
                *loss = R::round(one_nan(exact));
            }
        }
        if let Some(log_probabilities) = &mut self.target_log_probabilities {
            for (lane, out) in log_probabilities[tile.clone()].iter_mut().enumerate() {
                let nll = results.softmax(lanes, lane).nll();
                *out = if lanes.counts[lane] { R::round(one_nan(-nll)) } else { R::default() };
            }
        }
        if let Some(probabilities) = &mut self.argmax_probabilities {
            for (lane, out) in probabilities[tile].iter_mut().enumerate() {
                let softmax = results.softmax(lanes, lane);
                let probability = softmax.largest_probability();
                *out = if lanes.counts[lane] { R::round(one_nan(probability)) } else { R::default() };
            }
        }
    }

    /// One value in all outputs of a row, `best` for its argmax, and no rank.
    pub(crate) fn fill(&mut self, row: usize, value: f32, best: usize) {
        let numbers = [
            &mut self.losses,
            &mut self.target_log_probabilities,
            &mut self.argmax_probabilities,
            &mut self.lse,
            &mut self.entropies,
        ];
        for out in numbers.into_iter().flatten() {
            out[row] = value.into();
        }
        for (out, class) in [(&mut self.argmax, best), (&mut self.target_ranks, NO_RANK)] {
            if let Some(out) = out {
                out[row] = class;
            }
        }
    }
}

/// One NaN for all: which one a row comes to depends on its logits, and it would be another where a row is filled.
#[inline(always)]
fn one_nan(x: f64) -> f64 {
    if x.is_nan() { f64::NAN } else { x }
}

fn len<T>(output: &Option<&mut [T]>) -> Option<usize> {
    output.as_ref().map(|output| output.len())
}

fn range<'a, T>(output: &'a mut Option<&mut [T]>, rows: &Range<usize>) -> Option<&'a mut [T]> {
    output.as_deref_mut().map(|output| &mut output[rows.clone()])
}
