//! The crate itself.

use xent::{Error, Parallelism};

use super::Who;
use crate::calls::Call;
use crate::kernel;
use crate::rounds::Contestant;

pub fn contestants(targets: &[i64]) -> Result<Vec<(Who, Contestant<'_>)>, Error> {
    Ok(vec![
        (Who::Xent, kernel::contestant(Call::OutOfPlace, targets, Parallelism::Rayon)?),
        (Who::XentInPlace, kernel::contestant(Call::InPlace, targets, Parallelism::Rayon)?),
        (Who::XentOneThread, kernel::contestant(Call::OutOfPlace, targets, Parallelism::Serial)?),
        (Who::XentLoss, kernel::contestant(Call::Loss, targets, Parallelism::Rayon)?),
    ])
}
