//! The tables, and the same numbers as CSV.

use std::error::Error;
use std::path::Path;

use xent::{Backend, Parallelism};

use crate::buffers::last_cache_bytes;
use crate::calls::Call;
use crate::cpu;
use crate::machine::Motion;
use crate::rounds::{Regime, Times, Work};
use crate::rten::VersusRten;

/// One shape: all times, and which of the machine's are the limits.
pub struct Roofline {
    regime: Regime,
    threads: Parallelism,
    shape: (usize, usize),
    times: Vec<Times>,
}

impl Roofline {
    pub fn new(regime: Regime, threads: Parallelism, shape: (usize, usize), times: Vec<Times>) -> Self {
        Self { regime, threads, shape, times }
    }

    fn elements(&self) -> f64 {
        self.shape.0 as f64 * self.shape.1 as f64
    }

    fn fastest(&self, is_meant: impl Fn(Work) -> bool) -> &Times {
        let meant = self.times.iter().filter(|times| is_meant(times.work));
        meant.min_by(|a, b| a.median().total_cmp(&b.median())).expect("every kind of work is timed")
    }

    fn motion(&self, motion: Motion) -> &Times {
        self.fastest(|work| matches!(work, Work::Memory(m, _) if m == motion))
    }

    fn exp(&self) -> &Times {
        self.fastest(|work| matches!(work, Work::Exp(_)))
    }

    fn call(&self, call: Call) -> &Times {
        self.fastest(|work| work == Work::Kernel(call))
    }

    /// What moves the bytes of a call in the least time.
    fn memory_limit(&self, call: Call) -> &Times {
        match call {
            Call::Loss => self.motion(Motion::Sum),
            Call::InPlace => self.motion(Motion::Scale),
            Call::OutOfPlace => {
                self.fastest(|work| matches!(work, Work::Memory(Motion::Copy | Motion::StreamingCopy, _)))
            }
        }
    }

    fn gigabytes_per_second(&self, times: &Times) -> f64 {
        gigabytes_per_second(times, self.elements())
    }

    fn of_memory(&self, call: Call) -> f64 {
        self.call(call).ratio_of(self.memory_limit(call))
    }

    fn of_exp(&self, call: Call) -> f64 {
        self.call(call).ratio_of(self.exp())
    }
}

pub struct Report {
    csv: String,
}

impl Report {
    pub fn begin() -> Self {
        let backends: Vec<String> = Backend::available().map(|backend| backend.to_string()).collect();
        println!("CPU       {}", cpu::name());
        println!("threads   {}", rayon::current_num_threads());
        println!("backends  {}; calls use {}", backends.join(", "), Backend::detect());
        println!("cache     {} MiB, the last level", last_cache_bytes() >> 20);
        println!();
        println!(
            "GB/s      of the bytes that cannot be avoided: 4 per element for read and loss, 8 for the rest"
        );
        println!("G/s       10^9 elements per second; exp: exponentials of numbers in the first-level cache");
        println!(
            "of mem    the share of the memory limit: read for the loss, scale in place, the faster copy out of place"
        );
        println!("of exp    the share of the exp rate, at 1 exp per element");
        let csv = "buffers,threads,rows,classes,work,variant,median_us,gigabytes_per_second,\
                   gigaelements_per_second,share_of_memory,share_of_exp\n";
        Self { csv: csv.to_owned() }
    }

    pub fn section(&self, regime: Regime, threads: Parallelism) {
        let place = match regime {
            Regime::Memory => "buffers in memory",
            Regime::Cache => "the same buffers again and again",
        };
        println!("\nthreads: {}, {place}", thread_count(threads));
        println!(
            "{:>14} | {:>6} {:>6} {:>8} {:>6} {:>6} | {:^31} | {:^31} | {:^31}",
            "",
            "read",
            "copy",
            "streamed",
            "scale",
            "exp",
            "loss",
            "loss and gradient in place",
            "out of place"
        );
        print!(
            "{:>14} | {:>6} {:>6} {:>8} {:>6} {:>6}",
            "rows x classes", "GB/s", "GB/s", "GB/s", "GB/s", "G/s"
        );
        for _ in Call::ALL {
            print!(" | {:>8} {:>5} {:>5} {:>5} {:>5}", "us", "GB/s", "G/s", "mem", "exp");
        }
        println!();
    }

    pub fn line(&mut self, roofline: &Roofline) {
        let (rows, classes) = roofline.shape;
        print!("{:>14} |", format!("{rows}x{classes}"));
        let motions = [(Motion::Sum, 6), (Motion::Copy, 6), (Motion::StreamingCopy, 8), (Motion::Scale, 6)];
        for (motion, width) in motions {
            print!(" {:>width$.1}", roofline.gigabytes_per_second(roofline.motion(motion)));
        }
        print!(" {:>6.2}", roofline.elements() / roofline.exp().median() * 1e-9);
        for call in Call::ALL {
            let times = roofline.call(call);
            print!(
                " | {:>8.1} {:>5.1} {:>5.2} {:>4.0}% {:>4.0}%",
                times.median() * 1e6,
                roofline.gigabytes_per_second(times),
                roofline.elements() / times.median() * 1e-9,
                100.0 * roofline.of_memory(call),
                100.0 * roofline.of_exp(call),
            );
        }
        println!();
        for times in &roofline.times {
            let shares = match times.work {
                Work::Kernel(call) => Some((roofline.of_memory(call), roofline.of_exp(call))),
                Work::Memory(..) | Work::Exp(_) | Work::Peer(_) => None,
            };
            self.csv_line(&format!("{:?}", roofline.regime), roofline.threads, roofline.shape, times, shares);
        }
    }

    pub fn rten_section(&self) {
        println!(
            "\nloss and gradient (on all threads, on one) against rten-vecmath's softmax alone (on one)"
        );
        println!("times     us; the same buffers again and again");
        println!(
            "ratio     xent's time / rten's: below 1, loss and gradient take less than the softmax alone"
        );
        println!("{:>14} | {:^46} | {:^46}", "", "out of place", "in place");
        print!("{:>14}", "rows x classes");
        for _ in ["out of place", "in place"] {
            print!(" | {:>9} {:>9} {:>9} {:>8} {:>7}", "all", "one", "rten", "all/rten", "1/rten");
        }
        println!();
    }

    pub fn rten_line(&mut self, versus: &VersusRten) {
        let (rows, classes) = versus.shape;
        print!("{:>14}", format!("{rows}x{classes}"));
        for times in [&versus.out_of_place, &versus.in_place] {
            let [all, one, rten] = times;
            print!(" |");
            for times in times {
                print!(" {:>9.2}", times.median() * 1e6);
            }
            print!(" {:>8.2} {:>7.2}", rten.ratio_of(all), rten.ratio_of(one));
            for (times, threads) in
                times.iter().zip([Parallelism::Rayon, Parallelism::Serial, Parallelism::Serial])
            {
                self.csv_line("BesideRten", threads, versus.shape, times, None);
            }
        }
        println!();
    }

    fn csv_line(
        &mut self,
        buffers: &str,
        threads: Parallelism,
        (rows, classes): (usize, usize),
        times: &Times,
        shares: Option<(f64, f64)>,
    ) {
        let threads = thread_count(threads);
        let (work, variant) = match times.work {
            Work::Memory(motion, variant) => (format!("{motion:?}"), variant),
            Work::Exp(variant) => ("Exp".to_owned(), variant),
            Work::Kernel(call) => (format!("{call:?}"), ""),
            Work::Peer(name) if times.in_place => (name.to_owned(), "in place"),
            Work::Peer(name) => (name.to_owned(), "out of place"),
        };
        let median = times.median();
        let elements = rows as f64 * classes as f64;
        let rate = elements / median * 1e-9;
        let bandwidth = gigabytes_per_second(times, elements);
        let shares = shares.map_or(",".to_owned(), |(memory, exp)| format!("{memory:.4},{exp:.4}"));
        let micros = median * 1e6;
        self.csv += &format!(
            "{buffers},{threads},{rows},{classes},{work},{variant},{micros:.3},{bandwidth:.3},{rate:.4},{shares}\n"
        );
    }

    pub fn end(self) -> Result<(), Box<dyn Error>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("roofline.csv"), self.csv)?;
        println!("\nall variants: target/roofline.csv");
        Ok(())
    }
}

/// Of the bytes that cannot be avoided.
fn gigabytes_per_second(times: &Times, elements: f64) -> f64 {
    let bytes_per_element = match times.work {
        Work::Kernel(call) => call.bytes_per_element() as f64,
        Work::Memory(Motion::Sum, _) => 4.0,
        Work::Memory(..) | Work::Peer(_) => 8.0,
        Work::Exp(_) => 0.0,
    };
    bytes_per_element * elements / times.median() * 1e-9
}

fn thread_count(threads: Parallelism) -> usize {
    match threads {
        Parallelism::Serial => 1,
        Parallelism::Rayon => rayon::current_num_threads(),
    }
}
