//! Random batches of logits and targets, whose rows are of many kinds.

/// A seeded generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in `low..high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1_u32 << 24) as f32;
        low + (high - low) * unit
    }

    /// About normal, with deviation 1: the sum of 12 uniform numbers.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.between(-0.5, 0.5)).sum()
    }
}

/// The target of rows that are ignored.
pub const IGNORE_INDEX: i64 = -100;

/// Row-major logits without padding, and a target for each row.
#[derive(Clone, Debug)]
pub struct Batch {
    pub rows: usize,
    pub classes: usize,
    pub logits: Vec<f32>,
    pub targets: Vec<i64>,
}

/// Kinds of rows in a [`Batch::random`].
pub const ROW_KINDS: usize = 10;

impl Batch {
    /// Rows of every kind in turn. All losses are finite, and of magnitudes that leave their mark on a sum.
    pub fn random(rows: usize, classes: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut batch =
            Self { rows, classes, logits: Vec::with_capacity(rows * classes), targets: Vec::new() };
        let first_kind = random.below(ROW_KINDS);
        for row in 0..rows {
            batch.push_row((first_kind + row) % ROW_KINDS, &mut random);
        }
        batch
    }

    fn push_row(&mut self, kind: usize, random: &mut Random) {
        let classes = self.classes;
        let target = random.below(classes);
        let leader = random.below(classes);
        let logits = (0..classes).map(|class| match kind {
            0 => 2.0 * random.normal(),
            // The target leads.
            1 => random.normal() + if class == target { 25.0 } else { 0.0 },
            // Some class leads.
            2 => random.normal() + if class == leader { 25.0 } else { 0.0 },
            // Gaps down to where exponentials are no normal numbers any more, and further.
            3 => random.between(-110.0, 0.0),
            4 => 1000.0 + random.normal(),
            5 => random.between(-0.001, 0.001),
            // Ties.
            6 => random.below(3) as f32,
            // Masked classes.
            7 if class != target && random.below(3) == 0 => f32::NEG_INFINITY,
            7 => 3.0 * random.normal(),
            8 => {
                if class == target {
                    100.0
                } else {
                    random.between(0.0, 12.0)
                }
            }
            _ => f32::NAN,
        });
        self.logits.extend(logits);
        self.targets.push(if kind == ROW_KINDS - 1 { IGNORE_INDEX } else { target as i64 });
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.logits[row * self.classes..][..self.classes]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.logits[row * self.classes..][..self.classes]
    }

    /// Gives the ignored rows targets, and numbers in place of NaN.
    pub fn make_rows_count(&mut self, random: &mut Random) {
        for row in 0..self.rows {
            if self.targets[row] == IGNORE_INDEX {
                self.targets[row] = random.below(self.classes) as i64;
                self.row_mut(row).fill_with(|| random.normal());
            }
        }
    }

    /// Probabilities of every kind in turn, one for each logit: one class alone, some of few, of all, none; and sums
    /// other than 1.
    pub fn distributions(&self, random: &mut Random) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.rows * self.classes);
        for row in 0..self.rows {
            let x = self.row(row);
            let one = random.below(self.classes);
            let largest = (0..self.classes).fold(0, |best, i| if x[i] > x[best] { i } else { best });
            let scale = 1.0 / self.classes as f32;
            all.extend((0..self.classes).map(|class| match row % 6 {
                0 => f32::from(class == one),
                1 => 2.0 * scale * random.between(0.0, 1.0),
                2 if random.below(3) == 0 => random.between(0.0, 3.0),
                // Where the logits have their maximum.
                3 => f32::from(class == largest),
                4 if x[class] == f32::NEG_INFINITY => 0.0,
                4 => scale,
                _ => 0.0,
            }));
        }
        all
    }

    /// A batch of these rows of this one, in this order.
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        let mut selected = Self { rows: 0, classes: self.classes, logits: Vec::new(), targets: Vec::new() };
        for row in rows {
            selected.rows += 1;
            selected.logits.extend_from_slice(self.row(row));
            selected.targets.push(self.targets[row]);
        }
        selected
    }
}
