//! What some columns of a row of `f64` amount to.

use core::mem::size_of;

use crate::kernel::double::pair::{Lifted, Pair, plus_log1p};
use crate::kernel::double::scalar::normal_or_zero;
use crate::kernel::double::statistics::Summed;
use crate::kernel::statistics::Statistics;
use crate::row_state::TargetColumn;

/// A [`RowState`](crate::RowState) of logits of `f64`: 96 bytes, whatever the number of columns.
///
/// It has what a `RowState` has. But there is nothing wider than `f64` for sums to be kept in: each of them, but for the count
/// of live classes, is two numbers, itself and what rounding took from it. So it merges any number of times within the
/// [bounds](crate::contract) of whole rows.
///
/// ```
/// use xent::{CrossEntropy, Matrix, RowStateF64};
///
/// // A confident row, logit by logit: the gaps of 700 leave 3 exp(-700), and not 0.
/// let ce = CrossEntropy::default();
/// let row = [-700.0_f64, 0.0, -700.0, -700.0];
/// let shards = ce.shards(&[1_u8], row.len());
/// let mut states = [RowStateF64::EMPTY];
/// for (column, x) in row.iter().enumerate() {
///     shards.accumulate(Matrix::new(&[*x], 1, 1)?, column, &mut states)?;
/// }
/// let loss = shards.finish(&states)?.loss;
/// assert!((loss / (3.0 * 9.859_676_543_759_77e-305) - 1.0).abs() < 1e-15);
/// # Ok::<(), xent::Error>(())
/// ```
///
/// # Bits
///
/// As those of a `RowState`: [`merge`](Self::merge) is commutative to the last bit, but for a maximum of NaN, and states that
/// are merged in the same order have the same bits.
///
/// # Memory
///
/// The layout is that of C, without padding: twelve numbers of 8 bytes, all `f64` but for two `u64`. Every pattern of bits
/// is a state.
///
/// | bytes | what they hold |
/// |---|---|
/// | 0 to 15 | the sum of exp(x - max) without the target's and without a largest, times 2^512, and what rounding took |
/// | 16 to 31 | the sum of w (max - x) without the target's, and what rounding took |
/// | 32 to 47 | the sum of w without the target's, and what rounding took |
/// | 48 to 55 | how many logits are above -inf but for the target's |
/// | 56 to 63 | the number of columns, `u64` |
/// | 64 to 71 | the largest logit but the target's; -inf where there is none |
/// | 72 to 79 | the target's logit; -inf where there is none |
/// | 80 to 87 | the largest logit before the target, if it is at least the target's; or less |
/// | 88 to 95 | how often the target's column is among the columns, `u64` |
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct RowStateF64 {
    /// As [`RowState`](crate::RowState)'s.
    rest: Lifted,
    gap: Pair,
    weight: Pair,
    live: f64,
    columns: u64,
    max: f64,
    target_logit: f64,
    earlier_max: f64,
    targets: u64,
}

const _: () = assert!(size_of::<RowStateF64>() == RowStateF64::BYTES);

impl Default for RowStateF64 {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl RowStateF64 {
    /// The state of no columns. Merged with any other, it is that other.
    pub const EMPTY: Self = Self {
        rest: Lifted::ZERO,
        gap: Pair::ZERO,
        weight: Pair::ZERO,
        live: 0.0,
        columns: 0,
        max: f64::NEG_INFINITY,
        target_logit: f64::NEG_INFINITY,
        earlier_max: f64::NEG_INFINITY,
        targets: 0,
    };

    /// The size of a state.
    pub const BYTES: usize = 96;

    /// [`RowState::merge`](crate::RowState::merge).
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        // The second key makes it commutative: of equal maxima it matters which one is the 1.
        let swap = (self.max, self.rest) > (other.max, other.rest);
        let (low, high) = if swap { (other, self) } else { (self, other) };
        let half_drop = Pair::half_difference(high.max, low.max);
        let mut gap = low.gap.add(high.gap);
        if low.max != high.max && low.weight.high != 0.0 {
            gap = gap.add(low.weight.multiply(half_drop).scaled(2.0));
        }
        Self {
            // The higher keeps its 1 apart.
            rest: Lifted::product_with_exp(low.sum(), half_drop).add(high.rest),
            gap,
            weight: low.weight.add(high.weight),
            live: low.live + high.live,
            columns: self.columns.saturating_add(other.columns),
            max: high.max,
            // It may be NaN, which `f64::max` would drop.
            target_logit: if self.targets > 0 { self.target_logit } else { other.target_logit },
            earlier_max: self.earlier_max.max(other.earlier_max),
            targets: self.targets.saturating_add(other.targets),
        }
    }

    /// ln(sum_c exp(x_c)) over the state's columns, within the contract's bound for `f64`; NaN where a logit is NaN or +inf,
    /// or all are -inf. 0 columns are NaN as well.
    pub fn lse(&self) -> f64 {
        let target_leads = self.target_logit >= self.max;
        let (low, high) =
            if target_leads { (self.max, self.target_logit) } else { (self.target_logit, self.max) };
        if high.is_infinite() {
            return f64::NAN;
        }
        let half_gap = Pair::half_difference(high, low);
        let rest = if target_leads {
            Lifted::product_with_exp(self.sum(), half_gap)
        } else {
            self.rest.add(Lifted::product_with_exp(Pair::new(1.0, 0.0), half_gap))
        };
        normal_or_zero(plus_log1p(high, rest.get()))
    }

    /// How many columns there are in it: as many as there are classes, when it is complete.
    pub fn columns(&self) -> u64 {
        self.columns
    }

    /// How often the target's column is among them: once, when the state is complete; never, where the row is ignored.
    pub fn targets(&self) -> u32 {
        self.targets.try_into().unwrap_or(u32::MAX)
    }

    /// The state as bytes, which are the same on every machine.
    pub fn to_le_bytes(self) -> [u8; Self::BYTES] {
        let Self { rest: Lifted(rest), gap, weight, live, .. } = self;
        let sums = [rest.high, rest.low, gap.high, gap.low, weight.high, weight.low, live];
        let logits = [self.max, self.target_logit, self.earlier_max];
        let mut bytes = [0; Self::BYTES];
        let words = bytes.as_chunks_mut::<8>().0;
        for (word, number) in words[..7].iter_mut().zip(sums) {
            *word = number.to_le_bytes();
        }
        words[7] = self.columns.to_le_bytes();
        for (word, number) in words[8..11].iter_mut().zip(logits) {
            *word = number.to_le_bytes();
        }
        words[11] = self.targets.to_le_bytes();
        bytes
    }

    /// The state that was made into these bytes.
    pub fn from_le_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let words = bytes.as_chunks::<8>().0;
        let number = |index: usize| f64::from_le_bytes(words[index]);
        let pair = |index: usize| Pair { high: number(index), low: number(index + 1) };
        Self {
            rest: Lifted(pair(0)),
            gap: pair(2),
            weight: pair(4),
            live: number(6),
            columns: u64::from_le_bytes(words[7]),
            max: number(8),
            target_logit: number(9),
            earlier_max: number(10),
            targets: u64::from_le_bytes(words[11]),
        }
    }

    /// Of so many columns that are not looked at.
    pub(crate) fn unread(columns: usize) -> Self {
        Self { columns: columns as u64, ..Self::EMPTY }
    }

    /// Of columns with these statistics, where the sum but for one largest is `rest`.
    pub(crate) fn new(columns: usize, summed: &Summed, rest: Lifted, target: TargetColumn<f64>) -> Self {
        let Summed { statistics, lost } = summed;
        let (target_logit, earlier_max) = match target {
            TargetColumn::Before => (f64::NEG_INFINITY, f64::NEG_INFINITY),
            TargetColumn::Among(logit) if statistics.has_earlier_equal => (logit, logit),
            TargetColumn::Among(logit) => (logit, f64::NEG_INFINITY),
            TargetColumn::Behind => (f64::NEG_INFINITY, statistics.max),
        };
        // No state has -0, which equals 0 and has other bits.
        Self {
            rest,
            gap: Pair::new(statistics.gap, lost.gap),
            weight: Pair::new(statistics.weight, lost.weight),
            live: statistics.live,
            columns: columns as u64,
            max: statistics.max + 0.0,
            target_logit: target_logit + 0.0,
            earlier_max: earlier_max + 0.0,
            targets: u64::from(matches!(target, TargetColumn::Among(_))),
        }
    }

    /// Of all columns but the target's.
    pub(crate) fn statistics(&self) -> Statistics<f64> {
        Statistics {
            max: self.max,
            sum: self.sum().high,
            gap: self.gap.high,
            weight: self.weight.high,
            live: self.live,
            has_earlier_equal: self.earlier_max >= self.target_logit,
        }
    }

    pub(crate) fn target_logit(&self) -> f64 {
        self.target_logit
    }

    /// The sum of exp(x - max) without the target's.
    pub(crate) fn sum(&self) -> Pair {
        let rest = self.rest.get();
        if self.max == f64::NEG_INFINITY { rest } else { Pair::new(1.0, 0.0).add(rest) }
    }

    /// The sum of exp(x - max) without the target's, relative to a `max` that is no less than any logit.
    pub(crate) fn sum_below(&self, max: f64) -> Lifted {
        Lifted::product_with_exp(self.sum(), Pair::half_difference(max, self.max))
    }
}
