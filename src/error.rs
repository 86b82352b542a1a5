use core::fmt;

use crate::Backend;

/// What was wrong with a call: which argument, where and with what value.
///
/// Every check is made before the first write; a call that fails has changed no output.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// `rows x row_stride` does not fit in a `usize`.
    SizeOverflow {
        /// The number of rows.
        rows: usize,
        /// Elements from the start of one row to the start of the next.
        row_stride: usize,
    },
    /// The rows of a matrix would overlap.
    StrideTooSmall {
        /// Elements from the start of one row to the start of the next.
        row_stride: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A slice holds less than the matrix that was to be made of it.
    BufferTooShort {
        /// Elements that the matrix reaches over: `(rows - 1) * row_stride + cols`.
        required: usize,
        /// Elements in the slice.
        actual: usize,
    },
    /// The rows of an `ndarray` are not contiguous, one behind the other.
    NotContiguous {
        /// Rows and columns of the array.
        shape: (usize, usize),
        /// Elements from one row to the next, and from one column to the next.
        strides: (isize, isize),
    },
    /// A matrix has another shape than the logits.
    ShapeMismatch {
        /// The argument's name.
        argument: &'static str,
        /// Rows and columns of the logits.
        expected: (usize, usize),
        /// Rows and columns of the argument.
        actual: (usize, usize),
    },
    /// `images x classes x positions`, with their strides, does not fit in a `usize`.
    PlanesOverflow {
        /// The number of images.
        images: usize,
        /// The number of classes: the planes of an image.
        classes: usize,
        /// The number of positions: the elements of a plane.
        positions: usize,
    },
    /// Planes that are written would overlap, or images would.
    PlanesOverlap {
        /// The number of classes: the planes of an image.
        classes: usize,
        /// The number of positions: the elements of a plane.
        positions: usize,
        /// Elements from the start of one image to the start of the next.
        image_stride: usize,
        /// Elements from the start of one plane to the start of the next.
        class_stride: usize,
    },
    /// Planes have another shape than the logits.
    PlanesMismatch {
        /// The argument's name.
        argument: &'static str,
        /// Images, classes and positions of the logits.
        expected: (usize, usize, usize),
        /// Images, classes and positions of the argument.
        actual: (usize, usize, usize),
    },
    /// A slice has another length than the logits have rows, or classes.
    LengthMismatch {
        /// The argument's name.
        argument: &'static str,
        /// The length it should have.
        expected: usize,
        /// The length it has.
        actual: usize,
    },
    /// Rows without a single class have no softmax.
    NoClasses {
        /// The number of rows.
        rows: usize,
    },
    /// A target is neither a class nor the ignored index.
    TargetOutOfRange {
        /// The row.
        row: usize,
        /// Its target.
        target: i128,
        /// The number of classes; valid targets are below it.
        classes: usize,
    },
    /// A class weight is negative, infinite or NaN.
    InvalidWeight {
        /// The class.
        class: usize,
        /// Its weight.
        weight: f32,
    },
    /// The label smoothing is outside 0..=1, or NaN.
    InvalidLabelSmoothing {
        /// The value given.
        label_smoothing: f64,
    },
    /// The coefficient of the z-loss is negative, infinite or NaN.
    InvalidZLoss {
        /// The value given.
        z_loss: f64,
    },
    /// The gamma of the focal loss is negative, infinite or NaN.
    InvalidFocalGamma {
        /// The value given.
        focal_gamma: f64,
    },
    /// The logit scale is not above 0, or no normal number of `f32`.
    InvalidLogitScale {
        /// The value given.
        logit_scale: f64,
    },
    /// The softcap is not above 0, or it or the logit scale divided by it is no normal number of `f32`.
    InvalidSoftcap {
        /// The value given.
        softcap: f64,
    },
    /// A target's probability is negative, above `f32::MAX` or NaN.
    InvalidTargetProbability {
        /// The row.
        row: usize,
        /// The class.
        column: usize,
        /// The probability.
        probability: f64,
    },
    /// An output or an option needs the class of each row, but targets are probabilities.
    NeedsClasses {
        /// Its name.
        argument: &'static str,
    },
    /// A row's weight is negative, infinite or NaN.
    InvalidRowWeight {
        /// The row.
        row: usize,
        /// Its weight.
        weight: f32,
    },
    /// The upstream gradient of the reduced loss is infinite or NaN.
    InvalidUpstreamScalar {
        /// The value given.
        upstream_scalar: f64,
    },
    /// The denominator of a request is not above 0, infinite or NaN.
    InvalidDenominator {
        /// The value given.
        denominator: f64,
    },
    /// A shard reaches past the last class.
    ColumnsOutOfRange {
        /// The class of the shard's first column.
        first_column: usize,
        /// Columns of the shard.
        cols: usize,
        /// The number of classes.
        classes: usize,
    },
    /// The state of a row is not that of all its columns, each of them once.
    IncompleteState {
        /// The row.
        row: usize,
        /// Columns that were merged into the state.
        columns: u64,
        /// How often the target's was among them: once it should be, and never in a row that is ignored.
        targets: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A call in place was given another gradient to write as well.
    GradTwice,
    /// The temperature of a distillation is not a number from 1e-37 to 1e37, which `f32` holds together with its inverse.
    InvalidTemperature {
        /// The value given.
        temperature: f64,
    },
    /// A distillation has no such output.
    NotOfDistillation {
        /// Its name.
        argument: &'static str,
    },
    /// This CPU lacks the instruction set that was asked for.
    BackendUnavailable {
        /// The backend asked for.
        backend: Backend,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SizeOverflow { rows, row_stride } => {
                write!(f, "{rows} rows of stride {row_stride} are more elements than a usize can count")
            }
            Self::StrideTooSmall { row_stride, cols } => {
                write!(f, "row_stride is {row_stride}, less than the {cols} columns")
            }
            Self::BufferTooShort { required, actual } => {
                write!(f, "the matrix needs {required} elements, the slice has {actual}")
            }
            Self::NotContiguous { shape, strides } => write!(
                f,
                "the array is {} x {} with strides {} and {}, but rows are to be contiguous, one behind the other",
                shape.0, shape.1, strides.0, strides.1
            ),
            Self::ShapeMismatch { argument, expected, actual } => write!(
                f,
                "{argument} is {} x {}, but the logits are {} x {}",
                actual.0, actual.1, expected.0, expected.1
            ),
            Self::PlanesOverflow { images, classes, positions } => write!(
                f,
                "{images} images of {classes} planes of {positions} are more elements than a usize can count"
            ),
            Self::PlanesOverlap { classes, positions, image_stride, class_stride } => write!(
                f,
                "{classes} planes of {positions} overlap with class_stride {class_stride} and image_stride {image_stride}"
            ),
            Self::PlanesMismatch { argument, expected, actual } => write!(
                f,
                "{argument} is {} x {} x {}, but the logits are {} x {} x {}",
                actual.0, actual.1, actual.2, expected.0, expected.1, expected.2
            ),
            Self::LengthMismatch { argument, expected, actual } => {
                write!(f, "{argument} has {actual} elements instead of {expected}")
            }
            Self::NoClasses { rows } => write!(f, "the logits have {rows} rows but no classes"),
            Self::TargetOutOfRange { row, target, classes } => {
                write!(f, "the target of row {row} is {target}, but there are {classes} classes")
            }
            Self::InvalidWeight { class, weight } => {
                write!(f, "the weight of class {class} is {weight}; weights are finite and not negative")
            }
            Self::InvalidLabelSmoothing { label_smoothing } => {
                write!(f, "label_smoothing is {label_smoothing}; it lies between 0 and 1")
            }
            Self::InvalidZLoss { z_loss } => {
                write!(f, "z_loss is {z_loss}; it is finite and not negative")
            }
            Self::InvalidFocalGamma { focal_gamma } => {
                write!(f, "focal_gamma is {focal_gamma}; it is finite and not negative")
            }
            Self::InvalidLogitScale { logit_scale } => {
                write!(
                    f,
                    "logit_scale is {logit_scale}; it, or 1 / temperature, is above 0, and a normal number of f32"
                )
            }
            Self::InvalidSoftcap { softcap } => write!(
                f,
                "softcap is {softcap}; it is above 0, and it and logit_scale / softcap are normal numbers of f32"
            ),
            Self::InvalidTargetProbability { row, column, probability } => write!(
                f,
                "the target's probability in row {row}, column {column} is {probability}; \
                 probabilities are not negative, and at most f32::MAX"
            ),
            Self::NeedsClasses { argument } => {
                write!(f, "{argument} needs the class of each row, but targets are probabilities")
            }
            Self::InvalidRowWeight { row, weight } => {
                write!(f, "the weight of row {row} is {weight}; weights are finite and not negative")
            }
            Self::InvalidUpstreamScalar { upstream_scalar } => {
                write!(f, "upstream_scalar is {upstream_scalar}; it is finite")
            }
            Self::InvalidDenominator { denominator } => {
                write!(f, "denominator is {denominator}; it is finite and above 0")
            }
            Self::ColumnsOutOfRange { first_column, cols, classes } => {
                write!(f, "{cols} columns from class {first_column} on reach past the {classes} classes")
            }
            Self::IncompleteState { row, columns, targets, classes } => write!(
                f,
                "the state of row {row} is of {columns} columns, its target {targets} times among them, but there are \
                 {classes} classes"
            ),
            Self::GradTwice => {
                write!(f, "grad is requested of a call in place, whose gradient replaces the logits")
            }
            Self::InvalidTemperature { temperature } => {
                write!(f, "temperature is {temperature}; it lies between 1e-37 and 1e37")
            }
            Self::NotOfDistillation { argument } => {
                write!(f, "{argument} is not an output of distillation, which has grad, losses and lse")
            }
            Self::BackendUnavailable { backend } => {
                write!(f, "this CPU cannot run the {backend} backend")
            }
        }
    }
}

impl core::error::Error for Error {}
