//! The findings as a table: live in a terminal, and printed at the end.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::search::{Findings, QUANTITIES, Search, Worst};

/// One line for each family, and a progress bar below. Nothing is drawn where there is no terminal.
pub struct Live {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
    progress: ProgressBar,
    seconds: f64,
}

impl Live {
    pub fn new(search: &Search, seconds: f64) -> Result<Self, Box<dyn Error>> {
        let bars = MultiProgress::new();
        let line = || -> Result<_, Box<dyn Error>> {
            let line = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{msg}")?);
            Ok(bars.add(line))
        };
        let title = line()?;
        title.set_message(heading(search, "family"));
        let mut lines = vec![title];
        for _ in &search.families {
            lines.push(line()?);
        }
        let style = ProgressStyle::with_template("{bar:40} {percent}%, {msg}")?;
        let progress = bars.add(ProgressBar::new(1000).with_style(style));
        Ok(Self { bars, lines, progress, seconds })
    }

    pub fn show(&self, search: &Search, elapsed: Duration) {
        for (line, findings) in self.lines[1..].iter().zip(&search.families) {
            line.set_message(row(findings));
        }
        let share = elapsed.as_secs_f64() / self.seconds.max(1e-9);
        self.progress.set_position((share.min(1.0) * 1000.0) as u64);
        let left = (self.seconds - elapsed.as_secs_f64()).max(0.0);
        let rows: u64 = search.families.iter().map(|findings| findings.rows).sum();
        self.progress.set_message(format!("{left:.0} s left, {rows} rows"));
    }

    /// Clears what has been drawn.
    pub fn finish(self) {
        for line in &self.lines {
            line.finish_and_clear();
        }
        self.progress.finish_and_clear();
        // Nothing is left to draw: an error would be about a terminal that is gone.
        let _ = self.bars.clear();
    }
}

/// All of it.
pub fn print(search: &Search, elapsed: Duration) {
    let total = |count: fn(&Findings) -> u64| -> u64 { search.families.iter().map(count).sum() };
    println!(
        "{} rows, {} results in {:.0} s",
        total(|findings| findings.rows),
        total(|findings| findings.results),
        elapsed.as_secs_f64()
    );
    println!(
        "errors: the largest, in u = 2^-24; under a backend: the largest share of a bound that was used"
    );
    println!("families and options: of f32 alone, rows of all dtypes\n");
    for (title, all) in
        [("family", &search.families), ("options", &search.variants), ("dtype", &search.dtypes)]
    {
        println!("{}", heading(search, title));
        for findings in all {
            println!("{}", row(findings));
        }
        println!();
    }
    println!("the largest shares of bounds, for tests/suite/families.rs:");
    for at in 0..QUANTITIES.len() {
        for findings in &search.dtypes {
            if let Some(Worst { share, error_in_u, input }) = &findings.worst[at] {
                println!("    // {}: {share:.3} of the bound, {error_in_u:.2} u", QUANTITIES[at].1);
                println!("    {input}");
            }
        }
    }
    for (text, input) in search.breaks() {
        println!("BROKEN: {text}\n    {input}");
    }
}

fn heading(search: &Search, title: &str) -> String {
    let mut line = format!("{title:<34} {:>9}", "rows");
    for (_, name) in QUANTITIES {
        // Writing to a string does not fail.
        let _ = write!(line, " {:>9}", name.replace("target gradient", "at target"));
    }
    for backend in &search.backends {
        let _ = write!(line, " {:>9}", backend.to_string());
    }
    line
}

fn row(findings: &Findings) -> String {
    let mut line = format!("{:<34} {:>9}", findings.name, findings.rows);
    for error in findings.largest_error_in_u {
        let error = error.map_or("-".to_owned(), |error| format!("{error:.2}"));
        let _ = write!(line, " {error:>9}");
    }
    for share in &findings.share_on {
        let _ = write!(line, " {share:>9.3}");
    }
    if findings.broken.is_some() {
        line.push_str("  BROKEN");
    }
    line
}
