//! All numbers, for other programs.

use std::fmt::Write as _;

use crate::measurement::Measurement;
use crate::rounds::Work;

pub fn lines(measurements: &[Measurement]) -> String {
    let mut csv = "rows,classes,contestant,variant,rounds,median_us,times_as_long_as_xent,\
                   gigaelements_per_second\n"
        .to_owned();
    for measurement in measurements {
        let (rows, classes) = measurement.shape;
        for (who, times) in &measurement.times {
            let variant = match times.work {
                Work::Memory(_, variant) | Work::Exp(variant) => variant,
                Work::Kernel(_) | Work::Peer(_) => "",
            };
            let name = who.name().replace(',', "");
            let ratio = measurement.times_as_long(times).unwrap_or(f64::NAN);
            // Writing to a string cannot fail.
            let _ = writeln!(
                csv,
                "{rows},{classes},{name},{variant},{},{:.3},{ratio:.4},{:.5}",
                times.seconds.len(),
                1e6 * times.median(),
                measurement.throughput(times),
            );
        }
    }
    csv
}
