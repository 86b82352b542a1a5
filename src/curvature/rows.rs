//! Rows on their way to the kernel of second derivatives: all checked, and ready to be split between threads.

use crate::batch::Upstream;
use crate::kernel::curvature::lanes::{Lanes, Stored};
use crate::kernel::curvature::{Cap, Column, FocalTarget, Memory, Parts, Point};
use crate::kernel::place::Columns;
use crate::kernel::real::Real;
use crate::loss::curvature::{Curvature, Gradient, RowWeights};
use crate::loss::{Options, Terms, Transform};
use crate::parallel::SplitRows;
use crate::row_inputs::{RowInputs, product};
use crate::rows::Totals;
use crate::simd::{Simd, Task};
use crate::targets::Targets;
use crate::{Element, Matrix, MatrixMut};

/// Rows of logits, and what to write for them. The result is how fast the reduced loss rises, where that was asked for.
pub(crate) struct Rows<'a, T: Element> {
    pub(super) settings: Settings<'a, T::PerRow>,
    pub(super) logits: Matrix<'a, T>,
    pub(super) targets: Targets<'a>,
    pub(super) inputs: RowInputs<'a, T::PerRow>,
    pub(super) output: Output<'a, T>,
}

/// What is the same for all rows of a call.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a, L> {
    pub(super) options: &'a Options,
    pub(super) terms: Terms,
    pub(super) transform: Option<Transform<L>>,
    /// What the gradient of each row's loss is multiplied by, where rows bring no upstream gradients and no weights, and
    /// what that of its z-loss is.
    pub(super) factor: f64,
    pub(super) z_factor: f64,
}

pub(super) enum Output<'a, T: Element> {
    /// The direction, and where the product goes.
    HessianVectorProduct(Upstream<'a, T>),
    /// The direction, and where the derivatives of the rows go.
    Jvp(Matrix<'a, T>, Option<&'a mut [T::PerRow]>),
    Diagonal(Diagonal, MatrixMut<'a, T>),
}

/// Whose diagonal.
#[derive(Clone, Copy)]
pub(super) enum Diagonal {
    Hessian,
    GaussNewton,
}

/// What is known of a row that counts.
#[derive(Clone, Copy)]
struct Target {
    class: usize,
    /// Its class weight.
    own: f64,
    row_weight: f64,
    /// What multiplies its loss, and its z-loss, on the way to the gradient.
    factor: f64,
    z_factor: f64,
}

impl<T: Element> Output<'_, T> {
    fn split_at(self, rows: usize) -> (Self, Self) {
        match self {
            Self::HessianVectorProduct(direction) => {
                let (first, second) = direction.split_at(rows);
                (Self::HessianVectorProduct(first), Self::HessianVectorProduct(second))
            }
            Self::Jvp(direction, out) => {
                let (first, second) = direction.split_at(rows);
                let (out, out_rest) = out.map(|out| out.split_at_mut(rows)).unzip();
                (Self::Jvp(first, out), Self::Jvp(second, out_rest))
            }
            Self::Diagonal(diagonal, out) => {
                let (first, second) = out.split_at(rows);
                (Self::Diagonal(diagonal, first), Self::Diagonal(diagonal, second))
            }
        }
    }
}

impl<T: Element + Stored<T::PerRow>> Output<'_, T>
where
    T::PerRow: Lanes,
{
    /// One value for all of a row. Returns what the row adds to the derivative of the reduced loss.
    fn fill(&mut self, row: usize, value: f32) -> f64 {
        match self {
            Self::HessianVectorProduct(direction) => {
                direction.out().row_mut(row).unwrap_or_default().fill(T::from_real(value.into()));
            }
            Self::Diagonal(_, out) => {
                out.row_mut(row).unwrap_or_default().fill(T::from_real(value.into()));
            }
            Self::Jvp(_, Some(out)) => out[row] = value.into(),
            Self::Jvp(_, None) => {}
        }
        f64::from(value)
    }
}

impl<T: Element> Rows<'_, T> {
    pub(crate) fn classes(&self) -> usize {
        self.logits.cols()
    }
}

impl<T: Element> SplitRows for Rows<'_, T> {
    fn rows(&self) -> usize {
        self.logits.rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let settings = self.settings;
        let (logits, logits_rest) = self.logits.split_at(rows);
        let (targets, targets_rest) = self.targets.split_at(rows);
        let (inputs, inputs_rest) = self.inputs.split_at(rows);
        let (output, output_rest) = self.output.split_at(rows);
        (
            Self { settings, logits, targets, inputs, output },
            Self {
                settings,
                logits: logits_rest,
                targets: targets_rest,
                inputs: inputs_rest,
                output: output_rest,
            },
        )
    }
}

impl<T: Element + Stored<T::PerRow>> Task for Rows<'_, T>
where
    T::PerRow: Lanes,
{
    type Output = Totals;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Totals {
        if self.settings.transform.is_some() {
            run_transformed(self, simd)
        } else {
            simd.vectorize(RowsWithMemory { rows: self, memory: &mut [] })
        }
    }
}

/// A function of its own, which alone takes that memory on the stack.
#[inline(never)]
fn run_transformed<S: Simd, T: Element + Stored<T::PerRow>>(rows: Rows<'_, T>, simd: S) -> Totals
where
    T::PerRow: Lanes,
{
    T::PerRow::with_memory(|memory| simd.vectorize(RowsWithMemory { rows, memory }))
}

struct RowsWithMemory<'a, T: Element> {
    rows: Rows<'a, T>,
    memory: &'a mut Memory<T::PerRow>,
}

impl<T: Element + Stored<T::PerRow>> Task for RowsWithMemory<'_, T>
where
    T::PerRow: Lanes,
{
    type Output = Totals;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Totals {
        let mut total = Totals::default();
        for row in 0..self.rows.logits.rows() {
            let derivative = self.rows.row(simd, row, self.memory);
            total = total.add(Totals::of_loss(derivative));
        }
        total
    }
}

impl<T: Element + Stored<T::PerRow>> Rows<'_, T>
where
    T::PerRow: Lanes,
{
    #[inline(always)]
    fn row<S: Simd>(&mut self, s: S, row: usize, memory: &mut Memory<T::PerRow>) -> f64 {
        let Some(target) = self.target(row) else { return self.output.fill(row, 0.0) };
        let x = self.logits.row(row).unwrap_or_default();
        let Settings { options, terms, transform, .. } = self.settings;
        let gaps = options.gaps();
        let Some(point) = Point::new(s, x, transform, gaps) else { return self.output.fill(row, f32::NAN) };
        let Target { class, own, row_weight, factor, z_factor } = target;
        let (lse, scale) = (point.softmax.lse(), options.logit_scale);
        let target = point.column(s, class);
        let focal = terms.has_focal().then(|| FocalTarget { column: target, softmax: point.class(target) });
        let largest = point.largest().class;
        let weights = RowWeights {
            own,
            others: options.weight_of_others(class, x.len()),
            largest: options.weight_of(largest),
            others_of_largest: options.weight_of_others(largest, x.len()),
            target_is_largest: largest == class,
        };
        let of_focal = focal.map(|target| target.softmax);
        let is_left_out = terms.leaves_target_out();
        let terms = terms.of_point(&point.softmax, of_focal, &weights);
        // What the derivatives of the transform have in common comes with each of two derivatives.
        let factors = (product(factor, scale), product(z_factor, scale));
        let squares = (product(factors.0, scale), product(factors.1, scale));
        let cap = options.cap(terms.gradient(lse, squares.0, squares.1));
        let parts_of = |curvature: Curvature, cap| Parts {
            curvature,
            focal: focal.filter(|_| curvature.bend != 0.0),
            cap,
        };
        let of_cap = |parts: &Parts<'_, T::PerRow>, column: Column<T::PerRow>| {
            let is_target = column.class == class;
            let weight = if is_target && is_left_out { 0.0 } else { options.weight_of(column.class) };
            parts.cap.as_ref().map_or(0.0, |cap| point.of_cap(column, cap, weight, is_target))
        };
        // There entries have other terms, which the largest logit has by itself.
        let has_own = |parts: &Parts<'_, T::PerRow>| {
            (parts.focal.is_some() || parts.cap.is_some()) && class != point.largest().class
        };
        match &mut self.output {
            Output::HessianVectorProduct(direction) => {
                let columns = match direction {
                    Upstream::Keep(v, out) => {
                        let out = out.row_mut(row).unwrap_or_default();
                        Columns::Between(v.row(row).unwrap_or_default(), out)
                    }
                    Upstream::Overwrite(v) => Columns::InPlace(v.row_mut(row).unwrap_or_default()),
                };
                let Some(along) = point.along(s, columns.from(), memory) else {
                    return self.output.fill(row, f32::NAN);
                };
                let parts = parts_of(terms.hessian(lse, squares.0, squares.1), cap);
                let at = |column: Column<T::PerRow>| {
                    point.product_at(column, columns.from(), along, &parts, of_cap(&parts, column))
                };
                let (at_target, at_largest) = (has_own(&parts).then(|| at(target)), at(point.largest()));
                point.product(s, columns, along, parts, at_largest, memory);
                if let Some(at_target) = at_target {
                    direction.out().row_mut(row).unwrap_or_default()[class] = T::from_real(at_target);
                }
                0.0
            }
            Output::Jvp(direction, out) => {
                let v = direction.row(row).unwrap_or_default();
                let Some(along) = point.along(s, v, memory) else {
                    return self.output.fill(row, f32::NAN);
                };
                let slope = point.slope(s, v, along, (target, is_left_out), gaps, memory);
                let (of_loss, of_z_loss) = (terms.derivative(&slope), terms.z_derivative(&slope, lse));
                if let Some(out) = out {
                    out[row] = Real::round(row_weight * scale * (of_loss + of_z_loss));
                }
                factors.0 * of_loss + factors.1 * of_z_loss
            }
            Output::Diagonal(diagonal, out) => {
                let parts = match diagonal {
                    Diagonal::Hessian => parts_of(terms.hessian(lse, squares.0, squares.1), cap),
                    Diagonal::GaussNewton => parts_of(terms.gauss_newton(squares.0, squares.1), None),
                };
                let out = out.row_mut(row).unwrap_or_default();
                let at =
                    |column: Column<T::PerRow>| point.diagonal_at(column, &parts, of_cap(&parts, column));
                let (at_target, at_largest) = (has_own(&parts).then(|| at(target)), at(point.largest()));
                point.diagonal(s, out, parts, at_largest, memory);
                if let Some(at_target) = at_target {
                    out[class] = T::from_real(at_target);
                }
                0.0
            }
        }
    }

    /// `None` where the row does not count.
    fn target(&self, row: usize) -> Option<Target> {
        let Self { settings: Settings { options, factor, z_factor, .. }, inputs, .. } = *self;
        let class = self.targets.class(row, &options.ignore_indices).filter(|_| inputs.may_count(row))?;
        let (own, row_weight) = (options.weight_of(class), inputs.row_weight(row));
        let (factor, z_factor) = (inputs.factor(row, factor), inputs.factor(row, z_factor));
        Some(Target { class, own, row_weight, factor, z_factor })
    }
}

impl Options {
    /// What a softcap adds, where there is one.
    #[inline(always)]
    fn cap<L: Lanes>(&self, gradient: Gradient) -> Option<Cap<'_, L>> {
        let inverse = 1.0 / self.softcap?;
        let shift = -2.0 * inverse * gradient.of_weight();
        Some(Cap { gradient, shift: Real::round_to_finite(shift), gaps: self.gaps(), inverse })
    }
}
