//! What second derivatives of rows of `f64` are computed with: the passes of `kernel::curvature` on lanes of `f64`, and sums
//! that carry along what rounding takes from them.

use super::affine::{Affine, AffineTask, scale_and_least};
use super::exp::{LEAST as LEAST_EXP, exp, exp_of_four};
use super::place::Place;
use super::scalar;
use super::search::FirstEqual;
use super::statistics::{StatisticsTask, live_only, max_of};
use super::sums::Sums;
use super::transform::{LEAST, TransformTask};
use super::{GROUP, Plain, group_without};
use crate::kernel::curvature::lanes::{Lanes, Stored, forward};
use crate::kernel::curvature::{BLOCKS, Function, Memory};
use crate::kernel::gaps::Gaps;
use crate::kernel::place::{Between, Columns, InPlace};
use crate::kernel::statistics::Statistics;
use crate::kernel::{Entry, vector_at};
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// The function of all columns but the largest logit's, which gets its own value.
struct PassTask<'a, G> {
    columns: Columns<'a, f64>,
    function: G,
    largest: Entry<f64>,
}

impl<G: Function<f64>> Task for PassTask<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, function, largest } = self;
        let out = match columns {
            Columns::Between(from, to) => {
                each_vector(s, &mut Between::<false, _, _>(&from[..to.len()], &mut *to), function);
                to
            }
            Columns::InPlace(x) => {
                each_vector(s, &mut InPlace(&mut *x), function);
                x
            }
            // No pass of second derivatives has them.
            Columns::Read(_) | Columns::Streaming(..) | Columns::Adding(..) => return,
        };
        if let Some(out) = out.get_mut(largest.index()) {
            *out = largest.value;
        }
    }
}

#[inline(always)]
fn each_vector<S: Simd, P: Place>(s: S, place: &mut P, function: impl Function<f64>) {
    let len = place.from().len();
    let whole = len / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let y = function.apply(s, s.load_f64(vector_at(place.from(), at)), at);
        P::store(s, y, &mut place.to()[at..at + LANES].as_chunks_mut().0[0]);
    }
    if whole < len {
        let y = function.apply(s, s.load_partial_f64(&place.from()[whole..], 0.0), whole);
        P::store_partial(s, y, &mut place.to()[whole..]);
    }
}

impl Lanes for f64 {
    type Vector<S: Simd> = S::F64;
    const MIN_POSITIVE: Self = Self::MIN_POSITIVE;
    const MIN: Self = Self::MIN;
    const BLOCK: usize = 1024;

    #[inline(always)]
    fn with_memory<R>(run: impl FnOnce(&mut Memory<Self>) -> R) -> R {
        run(&mut [0.0; BLOCKS * Self::BLOCK])
    }

    #[inline(always)]
    fn splat<S: Simd>(s: S, x: Self) -> S::F64 {
        s.splat_f64(x)
    }

    forward! {
        F64:
        add(a, b) to add_f64;
        sub(a, b) to sub_f64;
        mul(a, b) to mul_f64;
        mul_add(a, b, c) to mul_add_f64;
        max(a, b) to max_f64;
        mul_at_least(a, b, least) to mul_at_least_f64;
        zero_below(v, least) to zero_below_f64;
    }

    #[inline(always)]
    fn exp<S: Simd>(s: S, d: S::F64) -> S::F64 {
        exp(s, d)
    }

    #[inline(always)]
    fn product<S: Simd>(s: S, a: S::F64, b: S::F64) -> S::F64 {
        s.zero_below_f64(s.mul_f64(a, b), s.splat_f64(LEAST))
    }

    #[inline(always)]
    fn exp_of_gap(d: f64) -> f64 {
        scalar::exp_of_gap(d)
    }

    #[inline(always)]
    fn gradient<S: Simd>(
        s: S,
        x: &[Self],
        out: &mut [Self],
        max: Self,
        scale: f64,
        shift: Self,
        gaps: Gaps<'_, Self>,
        but: Entry<Self>,
    ) {
        let (scale, least) = scale_and_least(scale);
        s.vectorize(AffineTask {
            columns: Columns::Between(x, out),
            transform: None,
            is_gradient: false,
            affine: Affine { max: Some(max), scale, least, shift, weights: gaps },
            target: Entry { value: 0.0, ..but },
        });
    }
}

impl Stored<f64> for f64 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F64 {
        s.load_f64(x)
    }

    #[inline(always)]
    fn load_partial<S: Simd>(s: S, x: &[Self], fill: f64) -> S::F64 {
        s.load_partial_f64(x, fill)
    }

    #[inline(always)]
    fn to_real(self) -> f64 {
        self
    }

    #[inline(always)]
    fn largest<S: Simd>(s: S, x: &[Self]) -> Option<usize> {
        let value = max_of(s, x, Plain, Entry::NONE);
        s.vectorize(FirstEqual { x, transform: None, value })
    }

    #[inline(always)]
    fn statistics<S: Simd>(
        s: S,
        x: &[Self],
        transform: Option<Transform<f64>>,
        pivot: Entry<f64>,
        gaps: Gaps<'_, f64>,
    ) -> Statistics<f64> {
        s.vectorize(StatisticsTask { columns: Columns::Read(x), transform, pivot, gaps })
    }

    #[inline(always)]
    fn transform<S: Simd>(s: S, transform: Transform<f64>, x: &[Self], to: &mut [f64], slopes: &mut [f64]) {
        s.vectorize(TransformTask { transform, from: x, to, slopes });
    }

    #[inline(always)]
    fn sum_of_products<S: Simd>(s: S, x: &[Self], v: &[Self], pivot: Entry<f64>, reference: f64) -> f64 {
        let (reference, v) = (s.splat_f64(reference), &v[..x.len()]);
        let mut sums = Sums::zero(s);
        for at in (0..x.len()).step_by(GROUP) {
            let mut e = group_without(s, x, at, Plain, pivot);
            for i in 0..4 {
                e[i] = s.sub_f64(e[i], reference);
            }
            e = exp_of_four(s, e);
            for i in 0..4 {
                let e = s.zero_below_f64(e[i], s.splat_f64(LEAST_EXP));
                let v = s.load_partial_f64(&v[v.len().min(at + i * LANES)..], 0.0);
                // One by one: of both signs, they may be larger than what they add up to.
                sums = sums.add(s, Self::product(s, e, v));
            }
        }
        sums.total(s)
    }

    #[inline(always)]
    fn weighted_sum<S: Simd>(s: S, x: &[Self], v: &[Self], gaps: Gaps<'_, f64>, but: [Entry<f64>; 2]) -> f64 {
        let mut sums = Sums::zero(s);
        for start in (0..v.len()).step_by(LANES) {
            let mut weights = gaps.load_f64(s, start);
            for but in but {
                weights = s.with_lane_f64(weights, but.from(start).lane(), 0.0);
            }
            if gaps.is_live() {
                weights = live_only(s, s.load_partial_f64(&x[start..], 0.0), weights);
            }
            let v = s.load_partial_f64(&v[start..], 0.0);
            sums = sums.add(s, Self::product(s, weights, v));
        }
        sums.total(s)
    }

    #[inline(always)]
    fn pass<S: Simd>(s: S, columns: Columns<'_, Self>, function: impl Function<f64>, largest: Entry<f64>) {
        s.vectorize(PassTask { columns, function, largest });
    }

    #[inline(always)]
    fn pass_to<S: Simd>(s: S, columns: Columns<'_, Self>, function: impl Function<f64>, largest: Entry<f64>) {
        s.vectorize(PassTask { columns, function, largest });
    }

    #[inline(always)]
    fn pass_from<S: Simd>(
        s: S,
        columns: Columns<'_, Self>,
        function: impl Function<f64>,
        largest: Entry<f64>,
    ) {
        s.vectorize(PassTask { columns, function, largest });
    }
}
