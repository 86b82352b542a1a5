//! Two trainings that differ in the loss's implementation only, and take turns.

use std::time::{Duration, Instant};

/// The largest difference of the losses of a step, or of an epoch, relative where they are above 1.
pub const TOLERANCE: f64 = 1e-5;

/// One of the two trainings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// With the loss of the framework itself.
    Framework,
    /// With `xent`.
    Xent,
}

/// What the two came to, step by step.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    framework: History,
    xent: History,
}

#[derive(Clone, Debug, Default)]
struct History {
    losses: Vec<f64>,
    times: Vec<Duration>,
}

impl History {
    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

impl Comparison {
    /// Times a step, which returns its loss.
    ///
    /// # Errors
    /// Those of the step.
    pub fn step<E>(&mut self, side: Side, step: impl FnOnce() -> Result<f64, E>) -> Result<f64, E> {
        let start = Instant::now();
        let loss = step()?;
        let time = start.elapsed();
        let history = match side {
            Side::Framework => &mut self.framework,
            Side::Xent => &mut self.xent,
        };
        history.losses.push(loss);
        history.times.push(time);
        Ok(loss)
    }

    /// The largest difference of the losses of any step, relative where they are above 1. NaN if one is.
    pub fn difference(&self) -> f64 {
        let pairs = self.framework.losses.iter().zip(&self.xent.losses);
        let differences =
            pairs.map(|(&framework, &xent)| (framework - xent).abs() / framework.abs().max(1.0));
        // Unlike `f64::max`, keeps a NaN.
        differences.fold(
            0.0,
            |largest: f64, difference| {
                if largest.is_nan() || difference <= largest { largest } else { difference }
            },
        )
    }

    /// Prints the time of a step with either loss, and how far the losses differ.
    ///
    /// # Errors
    /// When the losses differ by more than [`TOLERANCE`], or one is NaN.
    pub fn report(&self, framework: &str) -> Result<(), String> {
        let (own, xent) = (self.framework.median(), self.xent.median());
        println!("\na step of training, median of {}, taking turns:", self.xent.times.len());
        println!("  loss of {framework:<8} {:10.1} us", micros(own));
        println!("  xent             {:10.1} us", micros(xent));
        println!("  ratio            {:10.2}", micros(own) / micros(xent));
        let difference = self.difference();
        println!(
            "largest difference of the losses of a step: {difference:.1e} (at most {TOLERANCE:.0e} is allowed)"
        );
        if difference <= TOLERANCE {
            Ok(())
        } else {
            Err(format!("the losses differ by {difference:.1e}, more than {TOLERANCE:.0e}"))
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(framework: f64, xent: f64) -> Comparison {
        let mut comparison = Comparison::default();
        let _ = comparison.step(Side::Framework, || Ok::<_, ()>(framework));
        let _ = comparison.step(Side::Xent, || Ok::<_, ()>(xent));
        comparison
    }

    #[test]
    fn losses_that_differ_are_reported() {
        assert!(compare(11.0, 11.000_1).report("own").is_ok());
        assert!(compare(11.0, 11.000_2).report("own").is_err());
        assert!(compare(0.5, 0.500_02).report("own").is_err());
        let mut with_nan = compare(0.5, f64::NAN);
        assert!(with_nan.report("own").is_err());
        let _ = with_nan.step(Side::Framework, || Ok::<_, ()>(0.5));
        let _ = with_nan.step(Side::Xent, || Ok::<_, ()>(0.5));
        assert!(with_nan.report("own").is_err());
    }
}
