//! Taking turns: what is compared runs in the same rounds, on the same buffers.

use std::time::Instant;

use crate::buffers::Buffers;
use crate::calls::Call;
use crate::machine::Motion;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Memory(Motion, &'static str),
    Exp(&'static str),
    Kernel(Call),
    RtenSoftmax,
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
    seconds: Vec<f64>,
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

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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
            // It shall find what itself left in the caches, not what another contestant did.
            if regime == Regime::Cache {
                run_on_all_sets(contestant, buffers);
            }
            times.seconds.push(run_on_all_sets(contestant, buffers) / buffers.sets as f64);
        }
    }
    times
}

/// Seconds of a call on each set of buffers.
fn run_on_all_sets(contestant: &Contestant<'_>, buffers: &mut Buffers) -> f64 {
    if contestant.in_place {
        buffers.restore();
    }
    let start = Instant::now();
    for set in 0..buffers.sets {
        let (logits, out) = buffers.set(set);
        (contestant.run)(logits, out);
    }
    start.elapsed().as_secs_f64()
}
