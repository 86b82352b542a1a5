//! All times of one shape.

use std::error::Error;

use crate::buffers::Buffers;
use crate::contestants::{self, Who};
use crate::machine::Motion;
use crate::rounds::{Contestant, Regime, Times, take_turns};
use crate::shapes::Shape;

/// Everyone takes part in so many rounds.
pub const FEWEST_ROUNDS: usize = 3;

/// Seconds per call: who takes longer sits out the other rounds.
pub const SLOW: f64 = 0.02;

pub struct Measurement {
    pub shape: Shape,
    pub times: Vec<(Who, Times)>,
}

/// Checks all results, then times everyone on the same buffers, which stay in the caches as far as they fit.
pub fn measure(shape: Shape, rounds: usize) -> Result<Measurement, Box<dyn Error>> {
    let mut buffers = Buffers::new(shape.0, shape.1, 1);
    let targets = buffers.targets.clone();
    let (mut who, mut contestants): (Vec<Who>, Vec<Contestant<'_>>) =
        contestants::all(&mut buffers, &targets)?.into_iter().unzip();

    let first_rounds = rounds.min(FEWEST_ROUNDS);
    let mut times = take_turns(&contestants, &mut buffers, Regime::Cache, first_rounds);

    let mut is_fast = times.iter().map(|times| times.median() <= SLOW).collect::<Vec<_>>().into_iter();
    contestants.retain(|_| is_fast.next().unwrap_or_default());
    let mut later = take_turns(&contestants, &mut buffers, Regime::Cache, rounds - first_rounds).into_iter();
    for times in times.iter_mut().filter(|times| times.median() <= SLOW) {
        times.seconds.extend(later.next().into_iter().flat_map(|later| later.seconds));
    }
    Ok(Measurement { shape, times: who.drain(..).zip(times).collect() })
}

impl Measurement {
    pub fn elements(&self) -> f64 {
        self.shape.0 as f64 * self.shape.1 as f64
    }

    /// The times of a contestant, if it took part; of the machine's loops, those of the fastest variant.
    pub fn of(&self, who: Who) -> Option<&Times> {
        self.fastest(&[who])
    }

    /// What moves the bytes of a loss and its gradient in the least time, whatever the way.
    pub fn limit(&self) -> Option<&Times> {
        self.fastest(&[Motion::Scale, Motion::Copy, Motion::StreamingCopy].map(Who::Machine))
    }

    /// The fastest copy, past the caches or not.
    pub fn copy_limit(&self) -> Option<&Times> {
        self.fastest(&[Motion::Copy, Motion::StreamingCopy].map(Who::Machine))
    }

    /// How many times as long as `xent`, out of place, the other took.
    pub fn times_as_long(&self, other: &Times) -> Option<f64> {
        self.of(Who::Xent).map(|xent| xent.ratio_of(other))
    }

    /// 10^9 elements per second.
    pub fn throughput(&self, times: &Times) -> f64 {
        self.elements() / times.median() * 1e-9
    }

    fn fastest(&self, among: &[Who]) -> Option<&Times> {
        let meant = self.times.iter().filter(|(who, _)| among.contains(who)).map(|(_, times)| times);
        meant.min_by(|a, b| a.median().total_cmp(&b.median()))
    }
}
