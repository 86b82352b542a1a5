//! What is refused, and what the error says.

use burn::tensor::{Device, Int, Tensor};
use xent_burn::{CrossEntropyLossConfig, Error};

fn logits(device: &Device) -> Tensor<2> {
    Tensor::zeros([3, 4], device)
}

#[test]
fn a_target_out_of_range_is_named_with_its_row_and_nothing_is_overwritten() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let loss = CrossEntropyLossConfig::new().init(&device);
        for target in [4, -1, -100] {
            let targets = Tensor::<1, Int>::from_ints([0, target, 0], &device);
            let x = logits(&device);
            let x = if device.is_autodiff() { x.require_grad() } else { x };
            let error = loss.try_forward(x.clone(), targets).unwrap_err();
            let expected = xent::Error::TargetOutOfRange { row: 1, target: i128::from(target), classes: 4 };
            assert_eq!(error, Error::Refused(expected.clone()));
            assert_eq!(error.to_string(), expected.to_string());
            assert_eq!(x.into_data().try_to_vec::<f32>().unwrap(), [0.0; 12]);
        }
    }
}

#[test]
#[should_panic(expected = "the target of row 2 is 9, but there are 4 classes")]
fn forward_panics_with_the_row_and_the_value() {
    let device = Device::flex();
    let targets = Tensor::<1, Int>::from_ints([0, 0, 9], &device);
    CrossEntropyLossConfig::new().init(&device).forward(logits(&device), targets);
}

#[test]
fn targets_of_another_number_than_rows_are_refused() {
    let device = Device::flex().autodiff();
    let targets = Tensor::<1, Int>::from_ints([0, 0], &device);
    let error =
        CrossEntropyLossConfig::new().init(&device).try_forward(logits(&device), targets).unwrap_err();
    assert_eq!(
        error,
        Error::Refused(xent::Error::LengthMismatch { argument: "targets", expected: 3, actual: 2 })
    );
}

#[test]
fn options_are_checked() {
    let device = Device::flex();
    let init = |config: CrossEntropyLossConfig| config.try_init(&device).map(drop).unwrap_err();
    let config = CrossEntropyLossConfig::new();
    assert_eq!(
        init(config.clone().with_weights(Some(vec![1.0, -0.5]))),
        Error::Refused(xent::Error::InvalidWeight { class: 1, weight: -0.5 })
    );
    assert_eq!(
        init(config.clone().with_smoothing(Some(1.5))),
        Error::Refused(xent::Error::InvalidLabelSmoothing { label_smoothing: 1.5 })
    );
    assert_eq!(
        init(config.with_pad_tokens(Some(vec![0, usize::MAX]))),
        Error::PadTokenTooLarge { pad_token: usize::MAX }
    );
}

#[test]
#[should_panic(expected = "label_smoothing is 1.5")]
fn init_panics_where_try_init_has_an_error() {
    CrossEntropyLossConfig::new().with_smoothing(Some(1.5)).init(&Device::flex());
}

#[test]
fn weights_of_another_number_than_classes_are_refused() {
    let device = Device::flex();
    let loss = CrossEntropyLossConfig::new().with_weights(Some(vec![1.0, 2.0])).init(&device);
    let error = loss.try_forward(logits(&device), Tensor::from_ints([0, 0, 0], &device)).unwrap_err();
    assert_eq!(
        error,
        Error::Refused(xent::Error::LengthMismatch { argument: "weight", expected: 4, actual: 2 })
    );
}
