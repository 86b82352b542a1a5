//! The generator SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"). It is small and
//! gives the same numbers everywhere, so that both trainings start with the same weights.

/// A generator of random numbers.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The numbers that belong to a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, 1 excluded.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// `len` numbers from `-bound` to `bound`.
    pub fn uniform(&mut self, len: usize, bound: f32) -> Vec<f32> {
        (0..len).map(|_| bound * (2.0 * self.unit() - 1.0)).collect()
    }

    /// 0 to `len - 1`, shuffled (Fisher and Yates).
    pub fn order(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            order.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        order
    }
}
