//! Who is compared.

mod burn;
mod candle;
mod machine;
mod ndarray;
mod reference;
mod xent;

use std::error::Error;

use crate::buffers::Buffers;
use crate::machine::Motion;
use crate::rounds::{Contestant, Work};
use crate::rten_softmax;
use crate::{calls, check};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Xent,
    XentInPlace,
    XentOneThread,
    /// No gradient.
    XentLoss,
    Candle,
    Burn,
    Ndarray,
    Reference,
    /// The softmax alone, on one thread.
    RtenSoftmax,
    Machine(Motion),
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Self::Xent => "xent",
            Self::XentInPlace => "xent in place",
            Self::XentOneThread => "xent, 1 thread",
            Self::XentLoss => "xent, loss only",
            Self::Candle => "candle",
            Self::Burn => "burn",
            Self::Ndarray => "ndarray",
            Self::Reference => "scalar reference",
            Self::RtenSoftmax => "rten softmax only, 1 thread",
            Self::Machine(Motion::Sum) => "machine: read",
            Self::Machine(Motion::Copy) => "machine: copy",
            Self::Machine(Motion::StreamingCopy) => "machine: streaming copy",
            Self::Machine(Motion::Scale) => "machine: scale",
        }
    }
}

/// What a peer computes, copied out of its own types to be checked.
pub struct Outcome {
    pub loss: f64,
    /// rows x classes
    pub grad: Vec<f32>,
}

/// Another way to the same loss and gradient. It has its own copy of the logits, in its own type: making that is not
/// timed, for it would be made by the layers before.
trait Peer {
    /// What is timed. The results are left wherever the peer leaves them, and freed.
    fn step(&self) -> Result<(), Box<dyn Error>>;

    fn outcome(&self) -> Result<Outcome, Box<dyn Error>>;
}

/// Everyone for one batch, after a check of all results.
pub fn all<'a>(
    buffers: &mut Buffers,
    targets: &'a [i64],
) -> Result<Vec<(Who, Contestant<'a>)>, Box<dyn Error>> {
    let classes = buffers.classes;
    let mut contestants = xent::contestants(targets)?;
    rten_softmax::check(buffers)?;
    contestants.push((Who::RtenSoftmax, rten_softmax::contestant(classes, false)));
    contestants.extend(machine::contestants());

    let (x, out) = buffers.set(0);
    let ce = ::xent::CrossEntropy::default();
    calls::check(&ce, x, out, targets)?;
    let loss = calls::Call::Loss.run(&ce, x, out, targets)?;

    let mut peers: Vec<(Who, Box<dyn Peer>)> = vec![
        (Who::Candle, Box::new(candle::Candle::new(x, targets)?)),
        (Who::Burn, Box::new(burn::Burn::new(x, targets))),
        (Who::Ndarray, Box::new(ndarray::Ndarray::new(x, targets)?)),
    ];
    if x.len() <= reference::MOST_ELEMENTS {
        peers.push((Who::Reference, Box::new(reference::Reference::new(x, targets))));
    }
    for (who, peer) in peers {
        check::check(&peer.outcome()?, loss, x, targets, classes)
            .map_err(|error| format!("{}, {}x{classes}: {error}", who.name(), targets.len()))?;
        let run = move |_: &[f32], _: &mut [f32]| peer.step().expect("the same step was checked before");
        contestants
            .push((who, Contestant { work: Work::Peer(who.name()), in_place: false, run: Box::new(run) }));
    }
    Ok(contestants)
}
