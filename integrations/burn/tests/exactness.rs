//! The bits of a call of xent's: nothing is lost on the way through burn, whatever memory the gradient takes, but that
//! the loss takes the logits' dtype.

use burn::backend::{BackendTensor, DType, DispatchTensorKind, Element};
use burn::tensor::{Device, Int, Tensor, TensorData};
use half::{bf16, f16};
use xent::{CrossEntropy, Matrix, MatrixMut, Reduction};
use xent_burn::CrossEntropyLoss;
use xent_training_data::SplitMix64;

const ROWS: usize = 9;
const CLASSES: usize = 50;

fn values(len: usize) -> Vec<f32> {
    SplitMix64::new(7).uniform(len, 6.0)
}

fn targets() -> Vec<i64> {
    (0..ROWS as i64).map(|row| if row == 4 { -100 } else { row * 13 % CLASSES as i64 }).collect()
}

fn tensor_of_targets(device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(targets(), [ROWS]), device)
}

fn logits(device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values(ROWS * CLASSES), [ROWS, CLASSES]), device)
}

/// Loss and gradient of a call of xent's.
fn direct<E: xent::Element>(ce: &CrossEntropy, x: &[E]) -> (f64, Vec<E>) {
    let mut grad = vec![E::default(); ROWS * CLASSES];
    let to = MatrixMut::new(&mut grad, ROWS, CLASSES).unwrap();
    let loss = ce.loss_and_grad(Matrix::new(x, ROWS, CLASSES).unwrap(), &targets(), to).unwrap();
    (loss, grad)
}

fn every_option() -> CrossEntropy {
    let weight: Vec<f32> = (0..CLASSES).map(|class| 0.5 + class as f32 / 10.0).collect();
    let builder =
        CrossEntropy::builder().weight(weight).label_smoothing(0.1).z_loss(1e-3).ignore_indices([-100, 13]);
    builder.reduction(Reduction::Sum).build().unwrap()
}

fn check<E: xent::Element + Element + PartialEq>() {
    let device = Device::flex().autodiff();
    for ce in [CrossEntropy::default(), every_option()] {
        let loss_of = CrossEntropyLoss::new(ce.clone());
        let x = logits(&device).cast(E::dtype()).require_grad();
        let data = x.to_data().try_to_vec::<E>().unwrap();
        let (expected, expected_grad) = direct(&ce, &data);

        // Logits that something else has: the gradient in memory of its own.
        let loss = loss_of.forward(x.clone(), tensor_of_targets(&device));
        assert_eq!(loss.dtype(), E::dtype());
        assert!(
            loss.clone().into_scalar::<E>()
                == TensorData::new(vec![expected], [1]).convert::<E>().as_slice::<E>().unwrap()[0]
        );
        let grad = x.grad(&loss.backward()).unwrap().into_data();
        assert!(grad.as_slice::<E>().unwrap() == expected_grad);
        assert!(x.to_data().as_slice::<E>().unwrap() == data, "the logits are as they were");

        // Logits that nothing else has: the gradient in their place.
        let logits = x.clone().mul_scalar(1.0);
        let loss = loss_of.forward(logits, tensor_of_targets(&device));
        let grad = x.grad(&loss.backward()).unwrap().into_data();
        assert!(grad.as_slice::<E>().unwrap() == expected_grad);

        // A loss scale; a power of two, so that it rounds nothing in `f32` and `bf16`.
        let loss = loss_of.forward(x.clone(), tensor_of_targets(&device)) * 2.0;
        let grad = x.grad(&loss.backward()).unwrap().div_scalar(2.0).into_data();
        assert!(grad.as_slice::<E>().unwrap() == expected_grad);
    }
}

#[test]
fn f32_has_the_bits_of_a_direct_call() {
    check::<f32>();
}

#[test]
fn f64_has_the_bits_of_a_direct_call() {
    check::<f64>();
}

#[test]
fn bf16_has_the_bits_of_a_direct_call() {
    check::<bf16>();
}

#[test]
fn f16_has_the_bits_of_a_direct_call() {
    check::<f16>();
}

#[test]
fn checkpointing_changes_no_bit() {
    let plain = Device::flex().autodiff();
    let checkpointing = Device::flex().autodiff().gradient_checkpointing();
    let grads = [plain, checkpointing].map(|device| {
        let x = logits(&device).require_grad();
        // Operations that are computed again in the backward pass.
        let graph = x.clone().mul_scalar(0.7).add_scalar(0.1).tanh().mul_scalar(3.0);
        let loss = CrossEntropyLoss::new(CrossEntropy::default()).forward(graph, tensor_of_targets(&device));
        x.grad(&loss.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap()
    });
    assert_eq!(grads[0], grads[1]);
    assert!(grads[0].iter().any(|&grad| grad != 0.0));
}

#[test]
fn a_device_without_autodiff_and_logits_without_gradient_have_the_same_loss() {
    let expected = direct(&CrossEntropy::default(), &values(ROWS * CLASSES)).0 as f32;
    for device in [Device::flex(), Device::flex().autodiff()] {
        let x = logits(&device);
        let loss = CrossEntropyLoss::new(CrossEntropy::default()).forward(x, tensor_of_targets(&device));
        assert_eq!(loss.device().is_autodiff(), device.is_autodiff());
        assert_eq!(loss.into_scalar::<f32>(), expected);
    }
}

#[test]
fn logits_of_every_layout_have_the_bits_of_contiguous_ones() {
    let device = Device::flex().autodiff();
    let loss_of = CrossEntropyLoss::new(CrossEntropy::default());
    let wide = Tensor::<2>::from_data(TensorData::new(values(ROWS * 80), [ROWS, 80]), &device);
    // Rows further apart than they are long, classes and rows backwards, classes in columns, and one row for all.
    let views: [(View, [isize; 2]); 5] = [
        (|wide| wide.narrow(1, 17, CLASSES), [80, 1]),
        (|wide| wide.narrow(1, 17, CLASSES).flip([1]), [80, -1]),
        (|wide| wide.narrow(1, 17, CLASSES).flip([0]), [-80, 1]),
        (|wide| wide.reshape([80, ROWS]).narrow(0, 17, CLASSES).transpose(), [1, 9]),
        (|wide| wide.narrow(0, 0, 1).narrow(1, 17, CLASSES).expand([ROWS, CLASSES]), [0, 1]),
    ];
    for (view, strides) in views {
        let view = view(wide.clone());
        assert_eq!(strides_of(&view), strides);
        let copy = Tensor::from_data(view.clone().into_data(), &device);
        let [of_view, of_copy] = [view, copy].map(|logits| {
            let logits = logits.require_grad();
            let loss = loss_of.forward(logits.clone(), tensor_of_targets(&device));
            let grad = logits.grad(&loss.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap();
            (loss.into_scalar::<f32>(), grad)
        });
        assert_eq!(of_view, of_copy, "strides {strides:?}");
    }
}

type View = fn(Tensor<2>) -> Tensor<2>;

/// How the tensor lies in flex's memory.
fn strides_of(tensor: &Tensor<2>) -> [isize; 2] {
    let DispatchTensorKind::Autodiff(inner) = tensor.clone().into_dispatch().kind else {
        panic!("no autodiff")
    };
    let DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) = *inner else { panic!("not on flex") };
    tensor.into_parts().0.layout().strides().try_into().unwrap()
}

#[test]
fn targets_of_every_integer_type_and_stride_give_the_same_bits() {
    let device = Device::flex();
    let x = Tensor::<2>::from_data(TensorData::new(values(4 * 20), [4, 20]), &device);
    let loss_of = CrossEntropyLoss::new(CrossEntropy::default());
    let of = |targets| loss_of.forward(x.clone(), targets).into_scalar::<f32>();
    let targets = Tensor::<1, Int>::from_ints([3, 19, 0, 7], &device);
    let expected = of(targets.clone());
    let dtypes =
        [DType::I64, DType::I32, DType::I16, DType::I8, DType::U64, DType::U32, DType::U16, DType::U8];
    for dtype in dtypes {
        let cast = targets.clone().cast(dtype);
        assert_eq!(cast.dtype(), dtype);
        assert_eq!(of(cast), expected, "{dtype:?}");
    }
    let wide = Tensor::<2, Int>::from_ints([[3, 0], [19, 0], [0, 0], [7, 0]], &device);
    assert_eq!(of(wide.narrow(1, 0, 1).squeeze_dim::<1>(1)), expected);
    let longer = Tensor::<1, Int>::from_ints([9, 3, 19, 0, 7, 9], &device);
    assert_eq!(of(longer.narrow(0, 1, 4)), expected);
}

#[test]
fn no_rows_have_a_mean_of_nan_and_an_empty_gradient() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let x = Tensor::<2>::zeros([0, 5], &device);
        let targets = Tensor::<1, Int>::zeros([0], &device);
        let loss = CrossEntropyLoss::new(CrossEntropy::default());
        assert!(loss.forward(x.clone(), targets.clone()).into_scalar::<f32>().is_nan());
        if device.is_autodiff() {
            let x = x.require_grad();
            for logits in [x.clone(), x.clone().mul_scalar(1.0)] {
                let grads = loss.forward(logits, targets.clone()).backward();
                assert_eq!(x.grad(&grads).unwrap().dims(), [0, 5]);
            }
        }
    }
}
