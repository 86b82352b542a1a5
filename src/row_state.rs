//! What some columns of a row amount to, for rows that are in no one memory.

use core::mem::size_of;

use crate::kernel::double::scalar::normal_or_zero;
use crate::kernel::scalar::{exp, log1p_and_reciprocal};
use crate::kernel::statistics::Statistics;

/// What some columns of a row of logits amount to: 56 bytes, whatever their number. For logits of `f64` there is
/// [`RowStateF64`](crate::RowStateF64).
///
/// A vocabulary that is split over threads, processes or machines has a part of every row in each of them, and none has a
/// row. Each summarises its own columns in a state ([`Shards::summarise`](crate::Shards::summarise)), the states are
/// [merged](Self::merge) by one all-reduce, and the merged state is all that loss and gradient need of the other shards.
/// The same goes for logits that are made chunk by chunk and are never held all at once.
///
/// With y the row's target, and m the largest logit of the columns but the target's, a state has m and
///
/// ```text
/// sum_{c != y} exp(x_c - m)      sum_{c != y} w_c (m - x_c)      sum_{c != y} w_c      x_y
/// ```
///
/// where two of them merge by rescaling the one with the smaller m: the online softmax of
/// [Milakov and Gimelshein 2018](https://arxiv.org/abs/1805.02867), which is associative. The target stays apart, as in
/// the rest of this crate, so that confident rows keep their loss; only the shard that has its column knows x_y. The sums
/// over w are those of label smoothing, and with [`Smoothing::LiveClasses`](crate::Smoothing::LiveClasses) there is a count
/// of the logits above -inf.
///
/// ```
/// use xent::{CrossEntropy, Matrix, RowState};
///
/// let ce = CrossEntropy::default();
/// let row = [1.0_f32, 2.0, 3.0, 4.0, 5.0];
/// let shards = ce.shards(&[3_u8], row.len());
///
/// let (mut left, mut right) = ([RowState::EMPTY], [RowState::EMPTY]);
/// shards.summarise(Matrix::new(&row[..2], 1, 2)?, 0, &mut left)?;
/// shards.summarise(Matrix::new(&row[2..], 1, 3)?, 2, &mut right)?;
/// let whole = left[0].merge(right[0]);
///
/// assert_eq!(whole.columns(), 5);
/// assert!((whole.lse() - 5.451_914).abs() < 1e-6);
/// assert!((shards.finish(&[whole])?.loss - 1.451_914).abs() < 1e-6);
/// # Ok::<(), xent::Error>(())
/// ```
///
/// # Bits
///
/// [`merge`](Self::merge) is commutative to the last bit, but for a maximum of NaN, and associative within the bounds of
/// [`contract`](crate::contract): states that are merged in the same order have the same bits, on whatever machine and
/// whichever of two comes first. A state depends on the logits, the target and the options.
///
/// # Memory
///
/// The layout is that of C, without padding, and every pattern of bits is a state: processes of one machine may exchange
/// the bytes as they are. Between machines, [`to_le_bytes`](Self::to_le_bytes) and back.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct RowState {
    /// The sum of exp(x - max) without the target's and without one that is 1, that of a largest: next to that 1 the
    /// others might be lost, and with them the lse of a row whose largest logit is near 0.
    rest: f64,
    /// The sum of w (max - x) without the target's, where label smoothing asks for it.
    gap: f64,
    /// The sum of w without the target's, where label smoothing asks for it.
    weight: f64,
    /// How many logits are above -inf but for the target's, where label smoothing asks for it.
    live: f64,
    columns: u64,
    /// The largest logit but the target's; -inf where there is none.
    max: f32,
    /// -inf where there is none.
    target_logit: f32,
    /// The largest logit before the target, if it is at least the target's; or less.
    earlier_max: f32,
    /// How often the target's column is among the columns.
    targets: u32,
}

const _: () = assert!(size_of::<RowState>() == RowState::BYTES);

impl Default for RowState {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl RowState {
    /// The state of no columns. Merged with any other, it is that other.
    pub const EMPTY: Self = Self {
        rest: 0.0,
        gap: 0.0,
        weight: 0.0,
        live: 0.0,
        columns: 0,
        max: f32::NEG_INFINITY,
        target_logit: f32::NEG_INFINITY,
        earlier_max: f32::NEG_INFINITY,
        targets: 0,
    };

    /// The size of a state.
    pub const BYTES: usize = 56;

    /// The state of the columns of both, which belong to the same row and are not the same columns. The options and the
    /// target are those of both.
    ///
    /// A state with a NaN or +inf among its logits makes every state NaN that it is merged into.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        // The second key makes it commutative: of equal maxima it matters which one is the 1.
        let swap = (self.max, self.rest) > (other.max, other.rest);
        let (low, high) = if swap { (other, self) } else { (self, other) };
        // The higher keeps its 1 apart.
        let merged = low.statistics().merge(Statistics { sum: high.rest, ..high.statistics() });
        Self {
            rest: merged.sum,
            gap: merged.gap,
            weight: merged.weight,
            live: merged.live,
            columns: self.columns.saturating_add(other.columns),
            max: merged.max,
            // It may be NaN, which `f32::max` would drop.
            target_logit: if self.targets > 0 { self.target_logit } else { other.target_logit },
            earlier_max: self.earlier_max.max(other.earlier_max),
            targets: self.targets.saturating_add(other.targets),
        }
    }

    /// ln(sum_c exp(x_c)) over the state's columns, within the contract's bound; NaN where a logit is NaN or +inf, or all
    /// are -inf. 0 columns are NaN as well.
    pub fn lse(&self) -> f64 {
        let target_leads = self.target_logit >= self.max;
        let (low, high) =
            if target_leads { (self.max, self.target_logit) } else { (self.target_logit, self.max) };
        if high.is_infinite() {
            return f64::NAN;
        }
        let e = exp(f64::from(low) - f64::from(high));
        let rest = if target_leads { self.sum() * e } else { self.rest + e };
        normal_or_zero(f64::from(high) + log1p_and_reciprocal(rest).0)
    }

    /// How many columns there are in it: as many as there are classes, when it is complete.
    pub fn columns(&self) -> u64 {
        self.columns
    }

    /// How often the target's column is among them: once, when the state is complete; never, where the row is ignored.
    pub fn targets(&self) -> u32 {
        self.targets
    }

    /// The state as bytes, which are the same on every machine.
    pub fn to_le_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = bytes.as_chunks_mut::<8>().0;
        words[0] = self.rest.to_le_bytes();
        words[1] = self.gap.to_le_bytes();
        words[2] = self.weight.to_le_bytes();
        words[3] = self.live.to_le_bytes();
        words[4] = self.columns.to_le_bytes();
        let halves = bytes.as_chunks_mut::<4>().0;
        halves[10] = self.max.to_le_bytes();
        halves[11] = self.target_logit.to_le_bytes();
        halves[12] = self.earlier_max.to_le_bytes();
        halves[13] = self.targets.to_le_bytes();
        bytes
    }

    /// The state that was made into these bytes.
    pub fn from_le_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (words, halves) = (bytes.as_chunks::<8>().0, bytes.as_chunks::<4>().0);
        Self {
            rest: f64::from_le_bytes(words[0]),
            gap: f64::from_le_bytes(words[1]),
            weight: f64::from_le_bytes(words[2]),
            live: f64::from_le_bytes(words[3]),
            columns: u64::from_le_bytes(words[4]),
            max: f32::from_le_bytes(halves[10]),
            target_logit: f32::from_le_bytes(halves[11]),
            earlier_max: f32::from_le_bytes(halves[12]),
            targets: u32::from_le_bytes(halves[13]),
        }
    }

    /// Of so many columns that are not looked at.
    pub(crate) fn unread(columns: usize) -> Self {
        Self { columns: columns as u64, ..Self::EMPTY }
    }

    /// Of columns with these statistics, where the sum but for one largest is `rest`.
    pub(crate) fn new(columns: usize, statistics: &Statistics, rest: f64, target: TargetColumn) -> Self {
        let (target_logit, earlier_max) = match target {
            TargetColumn::Before => (f32::NEG_INFINITY, f32::NEG_INFINITY),
            TargetColumn::Among(logit) if statistics.has_earlier_equal => (logit, logit),
            TargetColumn::Among(logit) => (logit, f32::NEG_INFINITY),
            TargetColumn::Behind => (f32::NEG_INFINITY, statistics.max),
        };
        // No state has -0, which equals 0 and has other bits.
        Self {
            rest,
            gap: statistics.gap,
            weight: statistics.weight,
            live: statistics.live,
            columns: columns as u64,
            max: statistics.max + 0.0,
            target_logit: target_logit + 0.0,
            earlier_max: earlier_max + 0.0,
            targets: u32::from(matches!(target, TargetColumn::Among(_))),
        }
    }

    /// Of all columns but the target's.
    pub(crate) fn statistics(&self) -> Statistics {
        Statistics {
            max: self.max,
            sum: self.sum(),
            gap: self.gap,
            weight: self.weight,
            live: self.live,
            has_earlier_equal: self.earlier_max >= self.target_logit,
        }
    }

    pub(crate) fn target_logit(&self) -> f32 {
        self.target_logit
    }

    /// The sum of exp(x - max) without the target's.
    fn sum(&self) -> f64 {
        if self.max == f32::NEG_INFINITY { self.rest } else { 1.0 + self.rest }
    }
}

/// Where a row's target is from some columns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TargetColumn<L = f32> {
    Before,
    /// And its logit.
    Among(L),
    Behind,
}
