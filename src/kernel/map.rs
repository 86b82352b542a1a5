//! The loop of every pass whose output is a function of one input and a few numbers of its row, and the functions.

use super::groups::exp_of_group;
use super::number::Number;
use super::place::{Between, Columns, InPlace, Place};
use super::{Entry, exp, vector_at};
use crate::simd::{LANES, Simd};

/// Rows of so many columns are written in whole cache lines where a vector is as long as a line: off its boundaries every
/// vector is in two. In fewer columns that saves less than the vectors in part at either end cost.
const LEAST_ALIGNED: usize = 512;

/// A function of 16 neighbouring columns.
pub(super) trait Map<S: Simd>: Copy {
    /// Whether four vectors at a time pay: where the loop costs more than the function, and where the function's steps
    /// wait for each other.
    const TAKES_FOUR: bool;
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32;

    /// Of four neighbouring vectors.
    #[inline(always)]
    fn apply_to_four(self, s: S, mut x: [S::F32; 4], column: usize) -> [S::F32; 4] {
        for i in 0..4 {
            x[i] = self.apply(s, x[i], column + i * LANES);
        }
        x
    }
}

/// (x - max) - ln_sum: log-probabilities.
#[inline(always)]
pub(crate) fn log_probabilities<S: Simd, F: Number, T: Number>(
    s: S,
    columns: Columns<'_, F, T>,
    max: f32,
    ln_sum: f32,
    target: Entry,
) {
    run(s, columns, Difference { max: s.splat(max), ln_sum: s.splat(ln_sum) }, target);
}

#[derive(Clone, Copy)]
pub(super) struct Identity;

#[derive(Clone, Copy)]
pub(super) struct Exp<V> {
    reference: V,
}

#[derive(Clone, Copy)]
struct Difference<V> {
    max: V,
    ln_sum: V,
}

#[derive(Clone, Copy)]
pub(super) struct Scaled<M, V> {
    pub(super) exp: M,
    pub(super) scale: V,
    pub(super) least: V,
}

impl<V> Exp<V> {
    #[inline(always)]
    pub(super) fn new<S: Simd<F32 = V>>(s: S, reference: f32) -> Self {
        Self { reference: s.splat(reference) }
    }
}

impl<S: Simd> Map<S> for Identity {
    const TAKES_FOUR: bool = true;

    #[inline(always)]
    fn apply(self, _: S, x: S::F32, _: usize) -> S::F32 {
        x
    }
}

impl<S: Simd> Map<S> for Exp<S::F32> {
    const TAKES_FOUR: bool = true;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, _: usize) -> S::F32 {
        exp::exp(s, s.sub(x, self.reference))
    }

    #[inline(always)]
    fn apply_to_four(self, s: S, x: [S::F32; 4], _: usize) -> [S::F32; 4] {
        exp_of_group(s, x, self.reference)
    }
}

impl<S: Simd> Map<S> for Difference<S::F32> {
    const TAKES_FOUR: bool = true;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, _: usize) -> S::F32 {
        s.zero_below(s.sub(s.sub(x, self.max), self.ln_sum), s.splat(f32::MIN_POSITIVE))
    }
}

impl<S: Simd, M: Map<S>> Map<S> for Scaled<M, S::F32> {
    const TAKES_FOUR: bool = M::TAKES_FOUR;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        s.mul_at_least(self.exp.apply(s, x, column), self.scale, self.least)
    }

    #[inline(always)]
    fn apply_to_four(self, s: S, x: [S::F32; 4], column: usize) -> [S::F32; 4] {
        let mut e = self.exp.apply_to_four(s, x, column);
        for i in 0..4 {
            e[i] = s.mul_at_least(e[i], self.scale, self.least);
        }
        e
    }
}

/// All columns but the target's, which gets its own value. Where stores go past the caches it gets it on the way,
/// because storing it afterwards would read its cache line back from memory; elsewhere afterwards, because loops that
/// end at another place in each row cost more than they do.
#[inline(always)]
pub(super) fn run<S: Simd, F: Number, T: Number, M: Map<S>>(
    s: S,
    columns: Columns<'_, F, T>,
    map: M,
    target: Entry,
) {
    match columns {
        // What is added is a task of its own.
        Columns::Read(_) | Columns::Adding(..) => {}
        Columns::Between(from, to) => {
            let from = &from[..to.len()];
            each_vector(s, &mut Between::<false, _, _>(from, to), 0, map, Entry::NONE);
            if let Some(out) = to.get_mut(target.index()) {
                *out = T::from_f32(target.value);
            }
        }
        Columns::Streaming(from, to) => {
            // Whole cache lines from the first line boundary on.
            let ahead = ahead_of_line(to);
            let (from_head, from_rest) = from[..to.len()].split_at(ahead);
            let (to_head, to_rest) = to.split_at_mut(ahead);
            // A loop, so that the code is there once: stores off a line's boundary are plain ones.
            for (start, from, to) in [(0, from_head, to_head), (ahead, from_rest, to_rest)] {
                each_vector(s, &mut Between::<true, _, _>(from, to), start, map, target);
            }
        }
        Columns::InPlace(x) => {
            if S::IS_ONE_REGISTER && x.len() >= LEAST_ALIGNED {
                let (head, rest) = x.split_at_mut(ahead_of_line(x));
                let ahead = head.len();
                for (start, x) in [(0, head), (ahead, rest)] {
                    each_vector(s, &mut InPlace(x), start, map, Entry::NONE);
                }
            } else {
                each_vector(s, &mut InPlace(x), 0, map, Entry::NONE);
            }
            if let Some(out) = x.get_mut(target.index()) {
                *out = F::from_f32(target.value);
            }
        }
    }
}

/// How many columns there are ahead of the first whole cache line.
#[inline(always)]
fn ahead_of_line<T>(to: &[T]) -> usize {
    let ahead = to.as_ptr().addr().wrapping_neg() % 64 / size_of::<T>();
    ahead.min(to.len())
}

#[inline(always)]
pub(super) fn each_vector<S: Simd, M: Map<S>, P: Place>(
    s: S,
    place: &mut P,
    start: usize,
    map: M,
    target: Entry,
) {
    let target = target.from(start);
    let len = place.from().len();
    let whole = len / LANES * LANES;
    let with_target = (target.index() / LANES * LANES).min(whole);
    let mut at = 0;
    for end in [with_target, whole] {
        while M::TAKES_FOUR && at + 4 * LANES <= end {
            // One check of the bounds for four vectors.
            let x = place.from()[at..at + 4 * LANES].as_chunks::<LANES>().0;
            let x = [
                P::From::load(s, &x[0]),
                P::From::load(s, &x[1]),
                P::From::load(s, &x[2]),
                P::From::load(s, &x[3]),
            ];
            let y = map.apply_to_four(s, x, start + at);
            let out = place.to()[at..at + 4 * LANES].as_chunks_mut::<LANES>().0;
            for i in 0..4 {
                P::store(s, y[i], &mut out[i]);
            }
            at += 4 * LANES;
        }
        while at < end {
            let y = map.apply(s, P::From::load(s, vector_at(place.from(), at)), start + at);
            P::store(s, y, &mut place.to()[at..at + LANES].as_chunks_mut().0[0]);
            at += LANES;
        }
        if at < whole {
            let y = map.apply(s, P::From::load(s, vector_at(place.from(), at)), start + at);
            let y = s.with_lane(y, target.from(at).lane(), target.value);
            P::store(s, y, &mut place.to()[at..at + LANES].as_chunks_mut().0[0]);
            at += LANES;
        }
    }
    if at < len {
        let y = map.apply(s, P::From::load_partial(s, &place.from()[at..], 0.0), start + at);
        let y = s.with_lane(y, target.from(at).lane(), target.value);
        P::store_partial(s, y, &mut place.to()[at..]);
    }
}
