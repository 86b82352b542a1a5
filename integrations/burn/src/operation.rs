//! The loss as an operation of burn's graph.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{Int, Tensor};
use xent::CrossEntropy;

use crate::Error;
use crate::rows::{loss_alone, loss_and_grad};

pub(crate) fn forward(
    cross_entropy: &CrossEntropy,
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Result<Tensor<1>, Error> {
    let DispatchTensorKind::Flex(BackendTensor::Int(targets)) = targets.into_dispatch().kind else {
        return Err(Error::NotOnFlex { argument: "targets" });
    };
    let not_on_flex = Error::NotOnFlex { argument: "logits" };
    let DispatchTensor { kind, autodiff } = logits.into_dispatch();
    let kind = match kind {
        DispatchTensorKind::Flex(BackendTensor::Float(logits)) => {
            let loss = loss_alone(cross_entropy, logits, targets)?;
            DispatchTensorKind::Flex(BackendTensor::Float(loss))
        }
        DispatchTensorKind::Autodiff(inner) => {
            let DispatchTensorKind::Flex(BackendTensor::Autodiff(logits)) = *inner else {
                return Err(not_on_flex);
            };
            let (logits, node) = logits.into_parts();
            // Nothing is to be computed again in the backward pass, so that any strategy of checkpoints is this one.
            let loss = match Differentiated.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
                OpsKind::Tracked(preparation) => {
                    let (loss, grad) = loss_and_grad(cross_entropy, logits, targets)?;
                    preparation.finish(grad, loss)
                }
                OpsKind::UnTracked(preparation) => {
                    preparation.finish(loss_alone(cross_entropy, logits, targets)?)
                }
            };
            DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::Flex(BackendTensor::Autodiff(loss))))
        }
        _ => return Err(not_on_flex),
    };
    debug_assert_eq!(
        matches!(kind, DispatchTensorKind::Autodiff(_)),
        autodiff != DispatchAutodiffContext::Disabled
    );
    Ok(Tensor::from_dispatch(DispatchTensor { kind, autodiff }))
}

/// The loss, whose gradient the forward pass has computed.
#[derive(Clone, Copy, Debug)]
struct Differentiated;

impl Backward<Flex, 1> for Differentiated {
    /// The gradient for an upstream gradient of 1.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<Flex>(&ops.node);
        let [Some(logits)] = ops.parents else { return };
        // It has one element, as the loss has.
        let upstream = upstream.into_data().iter::<f64>().next().unwrap_or(f64::NAN);
        let grad = match upstream {
            1.0 => ops.state,
            _ => Flex::float_mul_scalar(ops.state, upstream.into()),
        };
        grads.register::<Flex>(logits.id, grad);
    }
}
