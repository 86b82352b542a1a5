//! Covering arrays: few cases in which every two values of any two axes meet.

use super::batch::Random;

/// Cases that choose a value of each axis, which has so many, such that every pair of values of two axes is in one of
/// them. The same cases every time.
pub fn pairwise(axes: &[usize]) -> Vec<Vec<usize>> {
    /// Cases to choose the best from.
    const CANDIDATES: usize = 20;
    let mut random = Random::new(1);
    let mut missing = Pairs::all(axes);
    let mut cases = Vec::new();
    while let Some(pair) = missing.first() {
        // Each has a pair that is missing: one case more, one pair less.
        let candidates = (0..CANDIDATES).map(|_| missing.complete(axes, pair, &mut random));
        let best = candidates.max_by_key(|case| missing.count(case)).expect("there are candidates");
        missing.remove(&best);
        cases.push(best);
    }
    cases
}

/// An axis and its value, and another's.
type Pair = [(usize, usize); 2];

struct Pairs {
    /// By axes, then by values.
    is_missing: Vec<Vec<Vec<bool>>>,
    axes: Vec<usize>,
}

impl Pairs {
    fn all(axes: &[usize]) -> Self {
        let of_axes = |first: usize, second: usize| {
            if first < second { vec![true; axes[first] * axes[second]] } else { Vec::new() }
        };
        let with = |first| (0..axes.len()).map(|second| of_axes(first, second)).collect();
        Self { is_missing: (0..axes.len()).map(with).collect(), axes: axes.to_vec() }
    }

    fn is_missing(&self, a: (usize, usize), b: (usize, usize)) -> bool {
        let (first, second) = if a.0 < b.0 { (a, b) } else { (b, a) };
        self.is_missing[first.0][second.0][first.1 * self.axes[second.0] + second.1]
    }

    fn first(&self) -> Option<Pair> {
        for first in 0..self.axes.len() {
            for second in first + 1..self.axes.len() {
                if let Some(at) = self.is_missing[first][second].iter().position(|&missing| missing) {
                    return Some([(first, at / self.axes[second]), (second, at % self.axes[second])]);
                }
            }
        }
        None
    }

    /// A case with this pair: axis by axis in some order, each with the value that has the most missing pairs.
    fn complete(&self, axes: &[usize], pair: Pair, random: &mut Random) -> Vec<usize> {
        let mut chosen = pair.to_vec();
        let mut order: Vec<usize> =
            (0..axes.len()).filter(|axis| pair.iter().all(|p| p.0 != *axis)).collect();
        for i in 0..order.len() {
            let j = i + random.below(order.len() - i);
            order.swap(i, j);
        }
        for axis in order {
            let start = random.below(axes[axis]);
            let values = (0..axes[axis]).map(|value| (axis, (start + value) % axes[axis]));
            let gain =
                |value: &(usize, usize)| chosen.iter().filter(|c| self.is_missing(**c, *value)).count();
            let best = values.max_by_key(gain).expect("an axis has values");
            chosen.push(best);
        }
        chosen.sort_unstable();
        chosen.into_iter().map(|(_, value)| value).collect()
    }

    fn count(&self, case: &[usize]) -> usize {
        let mut count = 0;
        for first in 0..case.len() {
            for second in first + 1..case.len() {
                count += usize::from(self.is_missing((first, case[first]), (second, case[second])));
            }
        }
        count
    }

    fn remove(&mut self, case: &[usize]) {
        for first in 0..case.len() {
            for second in first + 1..case.len() {
                let at = case[first] * self.axes[second] + case[second];
                self.is_missing[first][second][at] = false;
            }
        }
    }
}
