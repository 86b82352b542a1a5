//! Calls that take turns, so that what else the machine does slows all of them alike.

use std::time::{Duration, Instant};

/// How long each of several calls takes.
#[derive(Default)]
pub struct Turns<'a> {
    calls: Vec<Call<'a>>,
}

struct Call<'a> {
    name: &'static str,
    call: Box<dyn FnMut() + 'a>,
    times: Vec<Duration>,
}

impl<'a> Turns<'a> {
    /// One more call. The first one is what the others are compared with.
    pub fn call(mut self, name: &'static str, call: impl FnMut() + 'a) -> Self {
        self.calls.push(Call { name, call: Box::new(call), times: Vec::new() });
        self
    }

    /// Makes the calls for this long, one after the other, after one round to warm up; then prints the median of each, and
    /// how many times as fast as the first it is.
    pub fn run(mut self, duration: Duration) {
        for Call { call, .. } in &mut self.calls {
            call();
        }
        let start = Instant::now();
        while start.elapsed() < duration {
            for Call { call, times, .. } in &mut self.calls {
                let start = Instant::now();
                call();
                times.push(start.elapsed());
            }
        }
        let mut of_first = None;
        for Call { name, mut times, .. } in self.calls {
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e6;
            let of_first = *of_first.get_or_insert(median);
            println!("  {name:<44} {median:12.1} us {:8.2} x", of_first / median);
        }
    }
}
