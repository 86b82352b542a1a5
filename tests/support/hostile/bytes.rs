//! Choices from bytes. Where they end, every further choice is the first: few bytes make plain cases.

/// Reads bytes that say what to choose.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(&'a [u8]);

/// Numbers that computations stumble over: both sides of what exp makes 0, subnormal or infinite, and the ends of the
/// format.
const SPECIAL: [f32; 24] = [
    0.0,
    -0.0,
    f32::NEG_INFINITY,
    f32::INFINITY,
    f32::NAN,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    f32::EPSILON,
    1.0,
    -1.0,
    25.0,
    80.0,
    87.336_54,
    88.722_84,
    -87.336_54,
    -103.972_08,
    65_504.0,
    16_777_216.0,
    -1e30,
    3e38,
];

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> u8 {
        match *self.0 {
            [] => 0,
            [first, ref rest @ ..] => {
                self.0 = rest;
                first
            }
        }
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.byte())
    }

    /// Once in `n` times, where bytes are random; and not where they have ended.
    pub fn one_in(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        let number =
            if n <= 256 { usize::from(self.byte()) } else { usize::from(u16::from_le_bytes(self.array())) };
        number % n
    }

    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    pub fn seed(&mut self) -> u64 {
        u64::from(u32::from_le_bytes(self.array()))
    }

    /// Any `f32`: near 0 most often, special ones often.
    pub fn number(&mut self) -> f32 {
        match self.byte() {
            kind @ 0..=159 => (f32::from(kind) - 80.0) / 8.0,
            kind @ 160..=207 => SPECIAL[usize::from(kind - 160) % SPECIAL.len()],
            208..=223 => f32::from(i16::from_le_bytes(self.array())) / 64.0,
            _ => f32::from_bits(u32::from_le_bytes(self.array())),
        }
    }

    /// Any size: small ones most often, and around every power of two at which arithmetic may overflow.
    pub fn size(&mut self) -> usize {
        let kind = self.byte();
        let offset = usize::from(kind % 8);
        match kind / 8 {
            0..=23 => offset,
            24 => 8 + offset,
            25 => usize::MAX - offset,
            26 => (usize::MAX / 2 - 3).wrapping_add(offset),
            27 => (usize::MAX / 4 - 3).wrapping_add(offset),
            28 => (1_usize << (usize::BITS / 2)).wrapping_add(offset).wrapping_sub(4),
            29 => usize::MAX / offset.max(1),
            30 => 1_usize << (usize::BITS - 1 - offset as u32),
            _ => usize::from_le_bytes(self.array()),
        }
    }

    /// A small size, `other` most often.
    pub fn size_like(&mut self, other: usize) -> usize {
        match self.byte() {
            0..=239 => other,
            byte => usize::from(byte % 16),
        }
    }
}
