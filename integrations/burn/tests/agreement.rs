//! burn's own loss and gradient, through the same graphs.

use burn::tensor::{Device, Int, Tensor, TensorData};
use xent_training_data::SplitMix64;

/// What burn's own `f32` loss and gradients may be off by: it subtracts numbers close to each other and sums in `f32`, so
/// that it keeps no bound of xent's contract. Relative to 1, for losses of up to 20 and gradients of a row's own loss.
const OF_BURN: f64 = 2e-5;

fn device() -> Device {
    Device::flex().autodiff()
}

fn matrix(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
    let values = SplitMix64::new(seed).uniform(rows * columns, 5.0);
    Tensor::from_data(TensorData::new(values, [rows, columns]), &device())
}

fn targets(rows: usize, classes: usize) -> Tensor<1, Int> {
    let targets = (0..rows).map(|row| (row * 7919 % classes) as i64).collect();
    Tensor::from_data(TensorData::new::<i64, _>(targets, [rows]), &device())
}

#[track_caller]
fn assert_close<const D: usize>(actual: Tensor<D>, expected: Tensor<D>, factor: f64, tolerance: f64) {
    assert_eq!((actual.dims(), actual.dtype()), (expected.dims(), expected.dtype()));
    let (actual, expected) = (actual.into_data(), expected.into_data());
    for (i, (actual, expected)) in actual.iter::<f64>().zip(expected.iter::<f64>()).enumerate() {
        let difference = (actual - expected).abs() * factor;
        assert!(difference <= tolerance, "element {i} is {actual}, burn's own {expected}");
    }
}

type Options = (Option<Vec<usize>>, Option<Vec<f32>>, Option<f32>, bool);

fn ours((pad_tokens, weights, smoothing, logits): Options) -> xent_burn::CrossEntropyLoss {
    xent_burn::CrossEntropyLossConfig::new()
        .with_pad_tokens(pad_tokens)
        .with_weights(weights)
        .with_smoothing(smoothing)
        .with_logits(logits)
        .init(&device())
}

fn burns_own((pad_tokens, weights, smoothing, logits): Options) -> burn::nn::loss::CrossEntropyLoss {
    burn::nn::loss::CrossEntropyLossConfig::new()
        .with_pad_tokens(pad_tokens)
        .with_weights(weights)
        .with_smoothing(smoothing)
        .with_logits(logits)
        .init(&device())
}

#[test]
fn loss_and_gradient_are_those_of_burn() {
    for (rows, classes) in [(1, 2), (1, 1), (3, 10), (64, 10), (17, 100), (5, 1000), (3, 5000), (2, 70_000)] {
        let options = (None, None, None, true);
        let (x, targets) = (matrix(rows, classes, 1).require_grad(), targets(rows, classes));
        let loss = ours(options.clone()).forward(x.clone(), targets.clone());
        let own = burns_own(options).forward(x.clone(), targets);
        assert_close(loss.clone(), own.clone(), 1.0, OF_BURN);
        let (grad, own) = (x.grad(&loss.backward()).unwrap(), x.grad(&own.backward()).unwrap());
        assert_close(grad, own, rows as f64, OF_BURN);
    }
}

#[test]
fn every_combination_of_options_is_that_of_burn() {
    let (rows, classes) = (14, 12);
    let weights: Vec<f32> = (0..classes).map(|class| 0.25 + class as f32 / 8.0).collect();
    let (x, targets) = (matrix(rows, classes, 2), targets(rows, classes));
    for pad_tokens in [None, Some(vec![]), Some(vec![0]), Some(vec![11, 3])] {
        for weights in [None, Some(weights.clone())] {
            for smoothing in [None, Some(0.0), Some(0.1), Some(1.0)] {
                for logits in [true, false] {
                    let options = (pad_tokens.clone(), weights.clone(), smoothing, logits);
                    let input =
                        if logits { x.clone() } else { burn::tensor::activation::softmax(x.clone(), 1) };
                    let input = input.detach().require_grad();
                    let loss = ours(options.clone()).forward(input.clone(), targets.clone());
                    let own = burns_own(options.clone()).forward(input.clone(), targets.clone());
                    assert_close(loss.clone(), own.clone(), 1.0, OF_BURN);
                    let grads = (input.grad(&loss.backward()), input.grad(&own.backward()));
                    assert_close(grads.0.unwrap(), grads.1.unwrap(), 1.0, OF_BURN);
                }
            }
        }
    }
}

#[test]
fn a_batch_of_padding_has_the_mean_of_burn_and_no_gradient() {
    let options = (Some(vec![1]), None, None, true);
    let x = matrix(2, 5, 3).require_grad();
    let targets = Tensor::<1, Int>::from_ints([1, 1], &device());
    let loss = ours(options.clone()).forward(x.clone(), targets.clone());
    let own = burns_own(options).forward(x.clone(), targets).into_scalar::<f32>();
    assert!(own.is_nan() && loss.clone().into_scalar::<f32>().is_nan());
    let grad = x.grad(&loss.backward()).unwrap().into_data();
    assert_eq!(grad.try_to_vec::<f32>().unwrap(), [0.0; 10]);
}

#[test]
fn the_gradient_flows_through_the_graph_to_weights_and_inputs() {
    let (rows, width, classes) = (12, 8, 33);
    let (x, weight) = (matrix(rows, width, 4).require_grad(), matrix(width, classes, 5).require_grad());
    let targets = targets(rows, classes);
    let graph = || x.clone().mul_scalar(0.5).tanh().matmul(weight.clone());
    // The loss as a part of a larger one.
    let penalty = || weight.clone().powi_scalar(2).sum().mul_scalar(1e-3);
    let options = (Some(vec![7]), None, Some(0.2), true);
    let loss = ours(options.clone()).forward(graph(), targets.clone()) * 2.5 + penalty();
    let own = burns_own(options).forward(graph(), targets) * 2.5 + penalty();
    assert_close(loss.clone(), own.clone(), 1.0, OF_BURN);
    let (grads, own) = (loss.backward(), own.backward());
    for variable in [&x, &weight] {
        assert_close(variable.grad(&grads).unwrap(), variable.grad(&own).unwrap(), 1.0, OF_BURN);
    }
}

#[test]
fn logits_that_other_operations_use_keep_their_values_and_get_all_gradients() {
    let (x, targets) = (matrix(6, 20, 6).require_grad(), targets(6, 20));
    // Each of these is in a graph that also has another use of the logits, before and after the loss.
    let with = |loss: &dyn Fn(Tensor<2>) -> Tensor<1>| {
        let logits = x.clone().mul_scalar(1.5);
        let exponentials = logits.clone().mul_scalar(0.1).exp();
        let loss = loss(logits.clone());
        loss + exponentials.sum() + logits.tanh().sum()
    };
    let options = (None, None, None, true);
    let (ours, own) = (ours(options.clone()), burns_own(options));
    let loss = with(&|logits| ours.forward(logits, targets.clone()));
    let own = with(&|logits| own.forward(logits, targets.clone()));
    assert_close(loss.clone() / 200.0, own.clone() / 200.0, 1.0, OF_BURN);
    assert_close(x.grad(&loss.backward()).unwrap(), x.grad(&own.backward()).unwrap(), 1.0, OF_BURN);
}

/// An operation that keeps its output for its own gradient: the loss must not overwrite it.
#[test]
fn logits_that_an_operation_keeps_for_its_gradient_are_not_overwritten() {
    let (x, targets) = (matrix(6, 20, 7).require_grad(), targets(6, 20));
    let options = (None, None, None, true);
    type Operation = fn(Tensor<2>) -> Tensor<2>;
    let operations: [Operation; 5] =
        [Tensor::tanh, |x| x.mul_scalar(0.3).exp(), burn::tensor::activation::relu, Tensor::abs, |x| x + 1.0];
    for operation in operations {
        let loss = ours(options.clone()).forward(operation(x.clone()), targets.clone());
        let own = burns_own(options.clone()).forward(operation(x.clone()), targets.clone());
        assert_close(loss.clone(), own.clone(), 1.0, OF_BURN);
        assert_close(x.grad(&loss.backward()).unwrap(), x.grad(&own.backward()).unwrap(), 6.0, OF_BURN);
    }
}
