//! What is refused, and what the error says.

use burn::tensor::quantization::QuantScheme;
use burn::tensor::{Device, Int, Tensor};
use xent_burn::{CrossEntropyLossConfig, Error};

fn logits(device: &Device) -> Tensor<2> {
    Tensor::zeros([3, 4], device)
}

#[test]
fn a_target_out_of_range_is_named_with_its_row() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let loss = CrossEntropyLossConfig::new().init(&device);
        for target in [4, -1, -100] {
            let targets = Tensor::<1, Int>::from_ints([0, target, 0], &device);
            let x = logits(&device);
            let x = if device.is_autodiff() { x.require_grad() } else { x };
            let error = loss.try_forward(x, targets).unwrap_err();
            let expected = xent::Error::TargetOutOfRange { row: 1, target: i128::from(target), classes: 4 };
            assert_eq!(error, Error::Refused(expected.clone()));
            assert_eq!(error.to_string(), expected.to_string());
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
fn a_loss_of_probabilities_refuses_what_burn_would_panic_about() {
    let device = Device::flex();
    let config = CrossEntropyLossConfig::new().with_logits(false);
    let weights = |weights: &[f32]| config.clone().with_weights(Some(weights.to_vec()));
    let error = weights(&[1.0, 0.0, 1.0, 1.0]).try_init(&device).map(drop).unwrap_err();
    assert_eq!(error, Error::WeightOfZero { class: 1 });

    let probabilities = Tensor::<2>::full([3, 4], 0.25, &device);
    let refused = |config: &CrossEntropyLossConfig, targets: &[i32]| {
        let targets = Tensor::<1, Int>::from_ints(targets, &device);
        config.init(&device).try_forward(probabilities.clone(), targets).map(drop)
    };
    assert_eq!(refused(&config, &[0, 3, 1]), Ok(()));
    for target in [4, -1] {
        let expected = xent::Error::TargetOutOfRange { row: 1, target: i128::from(target), classes: 4 };
        assert_eq!(refused(&config, &[0, target, 1]), Err(Error::Refused(expected)));
    }
    let of = |argument, expected, actual| {
        Err(Error::Refused(xent::Error::LengthMismatch { argument, expected, actual }))
    };
    assert_eq!(refused(&config, &[0, 3]), of("targets", 3, 2));
    assert_eq!(refused(&weights(&[1.0, 2.0]), &[0, 1, 1]), of("weight", 4, 2));
}

#[test]
fn a_quantized_tensor_is_refused() {
    let device = Device::flex();
    let scheme = QuantScheme::default();
    let quantized = Tensor::<2>::from_floats([[0.5, -1.0, 2.0, 0.25]; 3], &device).quantize_dynamic(&scheme);
    let targets = Tensor::<1, Int>::from_ints([0, 1, 2], &device);
    let error = CrossEntropyLossConfig::new().init(&device).try_forward(quantized, targets).unwrap_err();
    assert_eq!(error, Error::NotOnFlex { argument: "logits" });
}

#[test]
fn a_module_shows_how_many_weights_it_has_and_not_which() {
    let config = CrossEntropyLossConfig::new().with_weights(Some(vec![0.125; 1000]));
    let shown = config.init(&Device::flex()).to_string();
    assert!(shown.contains("weights: Vec<0..1000>"), "{shown}");
    assert!(shown.len() < 200, "{shown}");
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
