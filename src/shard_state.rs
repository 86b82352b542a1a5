//! What the states of rows in shards have in common, whatever the rows are computed in.

use core::fmt::Debug;

use crate::kernel::real::Real;
use crate::kernel::statistics::Statistics;
use crate::{RowState, RowStateF64, ShardElement};

/// What some columns of a row amount to: [`RowState`], or [`RowStateF64`] for logits of `f64`. For code that is generic over both.
pub trait ShardState: sealed::ShardState<Self::Real> + Copy + Debug + Default + PartialEq + Send {
    /// What outputs and inputs have that are one number for each row: `f32`, or `f64`.
    type Real: Real + ShardElement<State = Self>;

    /// The state of no columns. Merged with any other, it is that other.
    const EMPTY: Self;

    /// The state of the columns of both: [`RowState::merge`].
    #[must_use]
    fn merge(self, other: Self) -> Self;

    /// ln(sum_c exp(x_c)) over the state's columns: [`RowState::lse`].
    fn lse(&self) -> f64;

    /// How many columns there are in it.
    fn columns(&self) -> u64;

    /// How often the target's column is among them.
    fn targets(&self) -> u32;
}

pub(crate) mod sealed {
    use crate::kernel::statistics::Statistics;

    #[allow(private_interfaces)]
    pub trait ShardState<L>: Sync + 'static {
        /// Of so many columns that are not looked at.
        #[doc(hidden)]
        fn unread(columns: usize) -> Self;

        /// Of all columns but the target's.
        #[doc(hidden)]
        fn statistics(&self) -> Statistics<L>;

        #[doc(hidden)]
        fn target_logit(&self) -> L;
    }
}

/// By the functions that a state has itself.
macro_rules! shard_states {
    ($($state:ident: $real:ty),+) => {
        $(
            impl ShardState for $state {
                type Real = $real;

                const EMPTY: Self = $state::EMPTY;

                fn merge(self, other: Self) -> Self {
                    $state::merge(self, other)
                }

                fn lse(&self) -> f64 {
                    $state::lse(self)
                }

                fn columns(&self) -> u64 {
                    $state::columns(self)
                }

                fn targets(&self) -> u32 {
                    $state::targets(self)
                }
            }

            #[allow(private_interfaces)]
            impl sealed::ShardState<$real> for $state {
                fn unread(columns: usize) -> Self {
                    $state::unread(columns)
                }

                fn statistics(&self) -> Statistics<$real> {
                    $state::statistics(self)
                }

                fn target_logit(&self) -> $real {
                    $state::target_logit(self)
                }
            }
        )+
    };
}

shard_states!(RowState: f32, RowStateF64: f64);
