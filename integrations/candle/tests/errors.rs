//! What is refused, and what the error says.

use candle_core::{Context, DType, Device, Error, Result, Tensor, Var};
use xent::CrossEntropy;
use xent_candle::{CrossEntropyLoss, cross_entropy, xent_error};

fn logits() -> Result<Tensor> {
    Tensor::zeros((3, 4), DType::F32, &Device::Cpu)
}

fn targets() -> Result<Tensor> {
    Tensor::zeros(3, DType::U32, &Device::Cpu)
}

/// The error itself, where RUST_BACKTRACE makes candle wrap it.
fn without_backtrace(error: Error) -> Error {
    match error {
        Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        error => error,
    }
}

#[test]
fn a_target_out_of_range_is_named_with_its_row() -> Result<()> {
    for (target, dtype) in [(4, DType::U8), (4, DType::U32), (-1, DType::I32), (-7, DType::I64)] {
        let targets = Tensor::new(&[0_i64, target, 0], &Device::Cpu)?.to_dtype(dtype)?;
        let error = cross_entropy(&logits()?, &targets).unwrap_err();
        let expected = xent::Error::TargetOutOfRange { row: 1, target: i128::from(target), classes: 4 };
        assert_eq!(xent_error(&error), Some(&expected));
        assert!(error.to_string().contains(&expected.to_string()), "{error}");
    }
    Ok(())
}

#[test]
fn an_error_is_found_behind_the_contexts_that_callers_add() -> Result<()> {
    let refused = || cross_entropy(&logits()?, &Tensor::new(&[0_u32, 9, 0], &Device::Cpu)?);
    let expected = xent::Error::TargetOutOfRange { row: 1, target: 9, classes: 4 };
    let by_trait = Context::context(refused(), "step 3").context("epoch 1").unwrap_err();
    assert_eq!(xent_error(&by_trait), Some(&expected));
    let by_method = refused().unwrap_err().context("step 3");
    assert_eq!(xent_error(&by_method), Some(&expected));
    Ok(())
}

#[test]
fn targets_of_another_number_than_rows_are_refused() -> Result<()> {
    let error = cross_entropy(&logits()?, &targets()?.narrow(0, 0, 2)?).unwrap_err();
    let expected = xent::Error::LengthMismatch { argument: "targets", expected: 3, actual: 2 };
    assert_eq!(xent_error(&error), Some(&expected));
    Ok(())
}

#[test]
fn class_weights_of_another_number_than_classes_are_refused() -> Result<()> {
    let ce = CrossEntropy::builder().weight([1.0, 2.0]).build().unwrap();
    let error = CrossEntropyLoss::new(ce).forward(&logits()?, &targets()?).unwrap_err();
    let expected = xent::Error::LengthMismatch { argument: "weight", expected: 4, actual: 2 };
    assert_eq!(xent_error(&error), Some(&expected));
    Ok(())
}

#[test]
fn other_dtypes_are_refused() -> Result<()> {
    for dtype in [DType::U8, DType::I64] {
        let error = cross_entropy(&logits()?.to_dtype(dtype)?, &targets()?).unwrap_err();
        let error = without_backtrace(error);
        assert!(matches!(error, Error::UnsupportedDTypeForOp(found, _) if found == dtype), "{error}");
    }
    for dtype in [DType::F32, DType::I16] {
        let error = cross_entropy(&logits()?, &targets()?.to_dtype(dtype)?).unwrap_err();
        let error = without_backtrace(error);
        assert!(matches!(error, Error::UnsupportedDTypeForOp(found, _) if found == dtype), "{error}");
    }
    Ok(())
}

#[test]
fn other_ranks_are_refused() -> Result<()> {
    let errors = [
        cross_entropy(&logits()?.flatten_all()?, &targets()?).unwrap_err(),
        cross_entropy(&logits()?.unsqueeze(0)?, &targets()?).unwrap_err(),
        cross_entropy(&logits()?, &targets()?.unsqueeze(1)?).unwrap_err(),
    ];
    for error in errors {
        let error = without_backtrace(error);
        assert!(matches!(error, Error::UnexpectedNumberOfDims { .. }), "{error}");
    }
    Ok(())
}

#[test]
fn layouts_that_are_not_rows_are_refused_and_not_copied() -> Result<()> {
    let square = Tensor::zeros((3, 3), DType::F32, &Device::Cpu)?;
    let one_row = Tensor::zeros((1, 4), DType::F32, &Device::Cpu)?;
    let refused = [
        (square.t()?, "the classes of a row of logits must be neighbours"),
        (one_row.broadcast_as((3, 4))?, "rows of logits must not overlap"),
    ];
    for (logits, reason) in refused {
        let error = cross_entropy(&logits, &targets()?).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains("call contiguous() first"), "{error}");
        cross_entropy(&logits.contiguous()?, &targets()?)?;
    }
    Ok(())
}

#[test]
fn strides_that_are_never_walked_do_not_matter() -> Result<()> {
    // One class, and one row.
    let column = Tensor::zeros((1, 3), DType::F32, &Device::Cpu)?.t()?;
    cross_entropy(&column, &targets()?)?;
    let row = Tensor::zeros((4, 1), DType::F32, &Device::Cpu)?.t()?;
    cross_entropy(&row, &targets()?.narrow(0, 0, 1)?)?;
    Ok(())
}

#[test]
fn a_factor_that_is_not_finite_is_refused_by_backward() -> Result<()> {
    let x = Var::from_tensor(&logits()?)?;
    let loss = (cross_entropy(&x, &targets()?)? * f64::INFINITY)?;
    let error = loss.backward().unwrap_err();
    let expected = xent::Error::InvalidUpstreamScalar { upstream_scalar: f64::INFINITY };
    assert_eq!(xent_error(&error), Some(&expected));
    Ok(())
}
