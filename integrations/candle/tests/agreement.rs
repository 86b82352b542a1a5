//! candle's own loss and gradient, through the same graphs.

use candle_core::{DType, Device, Result, Tensor, Var};
use xent_training_data::SplitMix64;

/// What candle's own `f32` loss and gradients may be off by: it subtracts numbers close to each other and sums in `f32`, so
/// that it keeps no bound of xent's contract. Relative to 1, for losses of up to 20 and gradients of a row's own loss.
const OF_CANDLE: f64 = 2e-5;
/// The same in `bf16`, which candle rounds to after each of its operations.
const OF_CANDLE_BF16: f64 = 0.15;

fn logits(rows: usize, classes: usize, seed: u64) -> Result<Var> {
    let values = SplitMix64::new(seed).uniform(rows * classes, 5.0);
    Var::from_vec(values, (rows, classes), &Device::Cpu)
}

fn targets(rows: usize, classes: usize) -> Result<Tensor> {
    let classes = (0..rows).map(|row| (row * 7919 % classes) as u32).collect();
    Tensor::from_vec(classes, rows, &Device::Cpu)
}

fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

#[track_caller]
fn assert_close(actual: &Tensor, expected: &Tensor, factor: f64, tolerance: f64) -> Result<()> {
    assert_eq!((actual.dims(), actual.dtype()), (expected.dims(), expected.dtype()));
    for (i, (actual, expected)) in to_f64(actual)?.into_iter().zip(to_f64(expected)?).enumerate() {
        let difference = (actual - expected).abs() * factor;
        assert!(difference <= tolerance, "element {i} is {actual}, candle's own {expected}");
    }
    Ok(())
}

#[test]
fn loss_and_gradient_are_those_of_candle() -> Result<()> {
    for (rows, classes) in [(1, 2), (1, 1), (3, 10), (64, 10), (17, 100), (5, 1000), (3, 5000), (2, 70_000)] {
        let x = logits(rows, classes, 1)?;
        let targets = targets(rows, classes)?;
        let ours = xent_candle::cross_entropy(&x, &targets)?;
        let own = candle_nn::loss::cross_entropy(&x, &targets)?;
        assert_close(&ours, &own, 1.0, OF_CANDLE)?;
        let (ours, own) = (ours.backward()?, own.backward()?);
        assert_close(ours.get(&x).unwrap(), own.get(&x).unwrap(), rows as f64, OF_CANDLE)?;
    }
    Ok(())
}

#[test]
fn the_gradient_flows_through_the_graph_to_weights_and_inputs() -> Result<()> {
    let (rows, width, classes) = (12, 8, 33);
    let x = logits(rows, width, 2)?;
    let weight = logits(classes, width, 3)?;
    let targets = targets(rows, classes)?;
    let graph = || x.as_tensor().affine(0.5, 0.1)?.tanh()?.matmul(&weight.t()?);
    // The loss as a part of a larger one.
    let penalty = || weight.sqr()?.sum_all()?.affine(1e-3, 0.0);
    let ours = (xent_candle::cross_entropy(&graph()?, &targets)? * 2.5)?.add(&penalty()?)?;
    let own = (candle_nn::loss::cross_entropy(&graph()?, &targets)? * 2.5)?.add(&penalty()?)?;
    assert_close(&ours, &own, 1.0, OF_CANDLE)?;
    let (ours, own) = (ours.backward()?, own.backward()?);
    for variable in [&x, &weight] {
        assert_close(ours.get(variable).unwrap(), own.get(variable).unwrap(), 1.0, OF_CANDLE)?;
    }
    Ok(())
}

#[test]
fn logits_that_are_used_twice_get_both_gradients() -> Result<()> {
    let x = logits(6, 20, 4)?;
    let targets = targets(6, 20)?;
    let other = targets.affine(0.0, 3.0)?;
    let ours =
        (xent_candle::cross_entropy(&x, &targets)? + xent_candle::cross_entropy(&x, &other)?)?.backward()?;
    let own = (candle_nn::loss::cross_entropy(&x, &targets)? + candle_nn::loss::cross_entropy(&x, &other)?)?
        .backward()?;
    assert_close(ours.get(&x).unwrap(), own.get(&x).unwrap(), 6.0, OF_CANDLE)
}

#[test]
fn bf16_is_that_of_candle_within_its_roundings() -> Result<()> {
    let x = Var::from_tensor(&logits(4, 30, 5)?.to_dtype(DType::BF16)?)?;
    let targets = targets(4, 30)?;
    let ours = xent_candle::cross_entropy(&x, &targets)?;
    let own = candle_nn::loss::cross_entropy(&x, &targets)?;
    assert_close(&ours, &own, 1.0, OF_CANDLE_BF16)?;
    let (ours, own) = (ours.backward()?, own.backward()?);
    assert_close(ours.get(&x).unwrap(), own.get(&x).unwrap(), 4.0, OF_CANDLE_BF16)
}
