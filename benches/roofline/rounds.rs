//! Taking turns: what is compared runs in the same rounds, on the same buffers.

use std::time::{Duration, Instant};

use crate::buffers::Buffers;
use crate::calls::Call;
use crate::machine::Motion;
use crate::median::median;

/// How long a contestant runs before it is timed, where calls follow each other, and how long it is timed. Threads that
/// were asleep take tenths of a millisecond to wake up, and some more to find a CPU each.
const WARM_UP: Duration = Duration::from_millis(3);
const TURN: Duration = Duration::from_millis(2);

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Memory(Motion, &'static str),
    Exp(&'static str),
    Kernel(Call),
    /// Another crate, by name.
    Peer(&'static str),
}

/// From the logits to the output.
pub type Run<'a> = dyn Fn(&[f32], &mut [f32]) + 'a;

pub struct Contestant<'a> {
    pub work: Work,
    /// Whether it works on the output alone, which then has to hold the logits.
    pub in_place: bool,
    pub run: Box<Run<'a>>,
}

/// Where a call finds its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// In memory: calls use one set of buffers after the other, and all of them exceed the last cache by far.
    Memory,
    /// In the caches, as far as they fit: every call uses the same.
    Cache,
}

/// Seconds of one call, in each round.
pub struct Times {
    pub work: Work,
    pub in_place: bool,
    pub seconds: Vec<f64>,
}

impl Times {
    pub fn median(&self) -> f64 {
        median(self.seconds.iter().copied())
    }

    /// How many times as long as this one the other took.
    pub fn ratio_of(&self, other: &Times) -> f64 {
        median(other.seconds.iter().zip(&self.seconds).map(|(other, own)| other / own))
    }
}

pub fn take_turns(
    contestants: &[Contestant<'_>],
    buffers: &mut Buffers,
    regime: Regime,
    rounds: usize,
) -> Vec<Times> {
    let new_times = |contestant: &Contestant<'_>| Times {
        work: contestant.work,
        in_place: contestant.in_place,
        seconds: Vec::with_capacity(rounds),
    };
    let mut times: Vec<Times> = contestants.iter().map(new_times).collect();
    for _ in 0..rounds {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            if regime == Regime::Cache {
                // It shall find what itself left in the caches, not what another contestant did, and its threads awake.
                run_for(WARM_UP, contestant, buffers);
                times.seconds.push(run_for(TURN, contestant, buffers));
            } else {
                times.seconds.push(run_on_all_sets(contestant, buffers));
            }
        }
    }
    times
}

/// Seconds of a call, when calls are made for so long.
fn run_for(duration: Duration, contestant: &Contestant<'_>, buffers: &mut Buffers) -> f64 {
    let start = Instant::now();
    let (mut seconds, mut turns) = (0.0, 0);
    while start.elapsed() < duration {
        seconds += run_on_all_sets(contestant, buffers);
        turns += 1;
    }
    seconds / f64::from(turns)
}

/// Seconds of a call, when one is made on each set of buffers.
fn run_on_all_sets(contestant: &Contestant<'_>, buffers: &mut Buffers) -> f64 {
    if contestant.in_place {
        buffers.restore();
    }
    let start = Instant::now();
    for set in 0..buffers.sets {
        let (logits, out) = buffers.set(set);
        (contestant.run)(logits, out);
    }
    start.elapsed().as_secs_f64() / buffers.sets as f64
}
