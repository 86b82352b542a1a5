//! The dtypes of a distillation.

use super::Rows;
use crate::Element;
use crate::parallel::Schedule;

/// The dtypes that logits of a [`Distillation`](crate::Distillation) may have, those that are computed in `f32`: `f32`
/// itself, and with the feature `half` `half::bf16` and `half::f16`.
pub trait DistillationElement: Element<PerRow = f32> + sealed::DistillationElement {}

mod sealed {
    use super::{Rows, Schedule};

    #[allow(private_interfaces)]
    pub trait DistillationElement: crate::Element {
        /// The sum of the rows' losses.
        #[doc(hidden)]
        fn run_distillation(schedule: Schedule, rows: Rows<'_, Self>) -> f64;
    }
}

/// Functions of one type each, so that the kernels are compiled with this crate and not with its users.
macro_rules! distillation_elements {
    ($($element:ty),+) => {
        $(
            impl DistillationElement for $element {}

            #[allow(private_interfaces)]
            impl sealed::DistillationElement for $element {
                fn run_distillation(schedule: Schedule, rows: Rows<'_, Self>) -> f64 {
                    let classes = rows.classes();
                    schedule.run_rows(rows, classes, |first, second| first + second)
                }
            }
        )+
    };
}

distillation_elements!(f32);
#[cfg(feature = "half")]
distillation_elements!(half::bf16, half::f16);
