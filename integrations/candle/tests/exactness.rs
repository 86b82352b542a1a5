//! The bits of a call of xent's: nothing is lost on the way through candle, but that the loss takes the logits' dtype.

use candle_core::{DType, Device, Result, Tensor, Var, WithDType};
use half::{bf16, f16};
use xent::{CrossEntropy, Matrix, MatrixMut, Reduction, Request};
use xent_candle::CrossEntropyLoss;
use xent_training_data::SplitMix64;

const ROWS: usize = 9;
const CLASSES: usize = 50;

fn values<E: WithDType>(len: usize) -> Vec<E> {
    SplitMix64::new(7).uniform(len, 6.0).into_iter().map(|x| E::from_f64(f64::from(x))).collect()
}

fn targets() -> Vec<i64> {
    (0..ROWS as i64).map(|row| if row == 4 { -100 } else { row * 13 % CLASSES as i64 }).collect()
}

/// Loss and gradient of a call of xent's.
fn direct<E: xent::Element + WithDType>(ce: &CrossEntropy, x: &[E], upstream: f64) -> (f64, Vec<E>) {
    let mut grad = vec![E::zero(); ROWS * CLASSES];
    let request =
        Request::new().grad(MatrixMut::new(&mut grad, ROWS, CLASSES).unwrap()).upstream_scalar(upstream);
    let summary = ce.run(Matrix::new(x, ROWS, CLASSES).unwrap(), &targets(), request).unwrap();
    (summary.loss, grad)
}

fn gradient<E: WithDType>(x: &Var, loss: &Tensor) -> Result<Vec<E>> {
    loss.backward()?.get(x).unwrap().flatten_all()?.to_vec1()
}

fn every_option() -> CrossEntropy {
    let weight: Vec<f32> = (0..CLASSES).map(|class| 0.5 + class as f32 / 10.0).collect();
    let builder =
        CrossEntropy::builder().weight(weight).label_smoothing(0.1).z_loss(1e-3).ignore_indices([-100, 13]);
    builder.reduction(Reduction::Sum).build().unwrap()
}

fn check<E: xent::Element + WithDType>() -> Result<()> {
    let data = values::<E>(ROWS * CLASSES);
    let targets = Tensor::new(targets(), &Device::Cpu)?;
    for ce in [CrossEntropy::default(), every_option()] {
        let x = Var::from_slice(&data, (ROWS, CLASSES), &Device::Cpu)?;
        let loss = CrossEntropyLoss::new(ce.clone()).forward(&x, &targets)?;
        let (expected, grad) = direct(&ce, &data, 1.0);
        assert_eq!(loss.dtype(), E::DTYPE);
        assert_eq!(loss.to_scalar::<E>()?, E::from_f64(expected));
        assert_eq!(gradient::<E>(&x, &loss)?, grad);

        // A loss scale is inside the gradient before it is rounded.
        let (_, grad) = direct(&ce, &data, 1024.0);
        assert_eq!(gradient::<E>(&x, &(loss * 1024.0)?)?, grad);
    }
    Ok(())
}

#[test]
fn f32_has_the_bits_of_a_direct_call() -> Result<()> {
    check::<f32>()
}

#[test]
fn f64_has_the_bits_of_a_direct_call() -> Result<()> {
    check::<f64>()
}

#[test]
fn bf16_has_the_bits_of_a_direct_call() -> Result<()> {
    check::<bf16>()
}

#[test]
fn f16_has_the_bits_of_a_direct_call() -> Result<()> {
    check::<f16>()
}

#[test]
fn backward_can_be_called_again_with_the_same_bits() -> Result<()> {
    let x = Var::from_slice(&values::<f32>(ROWS * CLASSES), (ROWS, CLASSES), &Device::Cpu)?;
    let loss = xent_candle::cross_entropy(&x, &Tensor::new(targets(), &Device::Cpu)?)?;
    assert_eq!(gradient::<f32>(&x, &loss)?, gradient::<f32>(&x, &loss)?);
    Ok(())
}

#[test]
fn logits_without_a_variable_have_the_same_loss_and_no_graph() -> Result<()> {
    let x = Var::from_slice(&values::<f32>(ROWS * CLASSES), (ROWS, CLASSES), &Device::Cpu)?;
    let targets = Tensor::new(targets(), &Device::Cpu)?;
    let detached = xent_candle::cross_entropy(&x.as_detached_tensor(), &targets)?;
    assert!(!detached.track_op());
    let tracked = xent_candle::cross_entropy(&x, &targets)?;
    assert_eq!(detached.to_scalar::<f32>()?, tracked.to_scalar::<f32>()?);
    Ok(())
}

#[test]
fn rows_of_a_wider_tensor_have_the_bits_of_contiguous_ones() -> Result<()> {
    let wide = Tensor::from_vec(values::<f32>(ROWS * 80), (ROWS, 80), &Device::Cpu)?;
    let targets = Tensor::new(targets(), &Device::Cpu)?;
    let narrow = wide.narrow(1, 17, CLASSES)?;
    assert!(!narrow.is_contiguous());
    let copied = Var::from_tensor(&narrow.contiguous()?)?;
    let expected = xent_candle::cross_entropy(&copied, &targets)?.to_scalar::<f32>()?;
    assert_eq!(xent_candle::cross_entropy(&narrow, &targets)?.to_scalar::<f32>()?, expected);

    // A graph whose logits are strided.
    let variable = Var::from_tensor(&wide)?;
    let loss = xent_candle::cross_entropy(&variable.narrow(1, 17, CLASSES)?, &targets)?;
    let grad = loss.backward()?.get(&variable).unwrap().narrow(1, 17, CLASSES)?.flatten_all()?;
    let of_copy = xent_candle::cross_entropy(&copied, &targets)?.backward()?;
    let expected = of_copy.get(&copied).unwrap().flatten_all()?;
    assert_eq!(grad.to_vec1::<f32>()?, expected.to_vec1::<f32>()?);

    // Every second row, from the second on.
    let rows = wide.reshape((ROWS * 2, 40))?;
    let every_second = rows.reshape((ROWS, 2, 40))?.narrow(1, 1, 1)?.squeeze(1)?;
    let few = Tensor::new(vec![3_u8; ROWS], &Device::Cpu)?;
    let expected = xent_candle::cross_entropy(&every_second.contiguous()?, &few)?.to_scalar::<f32>()?;
    assert_eq!(xent_candle::cross_entropy(&every_second, &few)?.to_scalar::<f32>()?, expected);
    Ok(())
}

#[test]
fn targets_of_every_integer_type_and_stride_give_the_same_bits() -> Result<()> {
    let x = Tensor::from_vec(values::<f32>(4 * 20), (4, 20), &Device::Cpu)?;
    let wide = Tensor::new(&[[3_i64, 0], [19, 0], [0, 0], [7, 0]], &Device::Cpu)?;
    let strided = wide.narrow(1, 0, 1)?.squeeze(1)?;
    assert!(!strided.is_contiguous());
    let expected = xent_candle::cross_entropy(&x, &strided)?.to_scalar::<f32>()?;
    for dtype in [DType::U8, DType::U32, DType::I32, DType::I64] {
        let loss = xent_candle::cross_entropy(&x, &strided.contiguous()?.to_dtype(dtype)?)?;
        assert_eq!(loss.to_scalar::<f32>()?, expected, "{dtype:?}");
    }
    // Part of a longer tensor.
    let middle = Tensor::new(&[9_u32, 9, 3, 19, 0, 7, 9], &Device::Cpu)?.narrow(0, 2, 4)?;
    assert_eq!(xent_candle::cross_entropy(&x, &middle)?.to_scalar::<f32>()?, expected);
    Ok(())
}

#[test]
fn no_rows_have_a_mean_of_nan_and_an_empty_gradient() -> Result<()> {
    let x = Var::zeros((0, 5), DType::F32, &Device::Cpu)?;
    let loss = xent_candle::cross_entropy(&x, &Tensor::new(Vec::<u32>::new(), &Device::Cpu)?)?;
    assert!(loss.to_scalar::<f32>()?.is_nan());
    assert!(gradient::<f32>(&x, &loss)?.is_empty());
    Ok(())
}
