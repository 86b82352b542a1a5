//! Logits, and as much memory again for what is computed from them.

use crate::calls::Random;

/// A cache line, which streaming stores fill as a whole.
const LINE: usize = 64 / size_of::<f32>();

/// Logits, targets and an output of one shape, in several sets to be used in turn.
pub struct Buffers {
    pub rows: usize,
    pub classes: usize,
    pub sets: usize,
    pub targets: Vec<i64>,
    set_len: usize,
    logits: Aligned,
    out: Aligned,
}

impl Buffers {
    /// All sets hold the same logits, and so do the outputs.
    pub fn new(rows: usize, classes: usize, sets: usize) -> Self {
        let set_len = (rows * classes).next_multiple_of(LINE);
        let mut logits = Aligned::new(set_len * sets);
        let mut random = Random::new();
        let (first, others) = logits.as_mut_slice().split_at_mut(set_len);
        random.logits(first);
        for set in others.chunks_exact_mut(set_len) {
            set.copy_from_slice(first);
        }
        let targets = random.targets(rows, classes);
        let out = Aligned::new(set_len * sets);
        let mut buffers = Self { rows, classes, sets, targets, set_len, logits, out };
        buffers.restore();
        buffers
    }

    pub fn elements(&self) -> usize {
        self.rows * self.classes
    }

    /// The logits and the output of one set.
    pub fn set(&mut self, set: usize) -> (&[f32], &mut [f32]) {
        let elements = self.elements();
        let start = set * self.set_len;
        (&self.logits.as_slice()[start..][..elements], &mut self.out.as_mut_slice()[start..][..elements])
    }

    /// Puts the logits in all outputs, for what works in place.
    pub fn restore(&mut self) {
        self.out.as_mut_slice().copy_from_slice(self.logits.as_slice());
    }
}

/// Elements that start with a cache line.
struct Aligned {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let data = vec![0.0_f32; len + LINE];
        let start = data.as_ptr().addr().wrapping_neg() % 64 / size_of::<f32>();
        Self { data, start, len }
    }

    fn as_slice(&self) -> &[f32] {
        &self.data[self.start..][..self.len]
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[self.start..][..self.len]
    }
}

/// As Linux states it; elsewhere more than most have.
pub fn last_cache_bytes() -> usize {
    let kibibytes = (0..8).filter_map(|index| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        std::fs::read_to_string(path).ok()?.trim().strip_suffix('K')?.parse::<usize>().ok()
    });
    kibibytes.max().unwrap_or(256 << 10) << 10
}
