//! One call, read from XLA's structures into values that are safe to use as long as it lasts.
//!
//! XLA passes arrays by position. The attributes `arguments` and `results` list their names, in this order.

use core::ffi::{c_uint, c_void};
use core::ops::Range;
use std::borrow::Cow;

use super::attributes::{Attribute, attributes};
use super::c_api::{self, data_type, struct_size};
use crate::dtypes::{Dtype, Scalar};
use crate::row_values::Elements;

/// What is wrong with a call.
pub(crate) type Result<T> = core::result::Result<T, String>;

/// Arrays and attributes of one execution.
pub(crate) struct Frame<'a> {
    arguments: Vec<Buffer<'a>>,
    results: Vec<Buffer<'a>>,
    attributes: Vec<(&'a str, Attribute<'a>)>,
}

/// An array: dense, its last dimension innermost.
pub(crate) struct Buffer<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [i64],
    /// Whether it is a result, or an argument whose memory a result has.
    is_written: bool,
    data: *mut c_void,
    len: usize,
}

impl<'a> Frame<'a> {
    /// # Safety
    ///
    /// What the frame points to is as the header says, and stays so for `'a`: lists have their sizes, arrays the memory of
    /// their dimensions. In `'a` nobody else writes to arguments, or reads or writes results.
    pub(crate) unsafe fn new(frame: &'a c_api::CallFrame) -> Result<Self> {
        if frame.stage != c_api::STAGE_EXECUTE {
            return Err(format!("called in stage {} of XLA, which is not that of execution", frame.stage));
        }
        // SAFETY: the caller's promise is what the three functions ask for.
        let (attributes, arguments, results) =
            unsafe { (attributes(&frame.attrs)?, buffers(&frame.args)?, buffers(&frame.rets)?) };
        let mut frame = Self { arguments, results, attributes };
        let (arguments, results) = (frame.text("arguments")?, frame.text("results")?);
        name(&mut frame.arguments, arguments)?;
        name(&mut frame.results, results)?;
        frame.find_written()?;
        Ok(frame)
    }

    pub(crate) fn argument(&self, name: &str) -> Result<&Buffer<'a>> {
        self.optional_argument(name).ok_or_else(|| format!("the argument {name} is missing"))
    }

    pub(crate) fn optional_argument(&self, name: &str) -> Option<&Buffer<'a>> {
        self.arguments.iter().find(|buffer| buffer.name == name)
    }

    /// A result leaves the frame: nobody else can write to it.
    pub(crate) fn take_result(&mut self, name: &str) -> Option<Buffer<'a>> {
        let place = self.results.iter().position(|buffer| buffer.name == name)?;
        Some(self.results.swap_remove(place))
    }

    pub(crate) fn text(&self, name: &str) -> Result<&'a str> {
        match self.attribute(name) {
            Some(&Attribute::Text(text)) => Ok(text),
            _ => Err(format!("the attribute {name} is no string")),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<f64> {
        self.optional_number(name)?.ok_or_else(|| format!("the attribute {name} is missing"))
    }

    pub(crate) fn optional_number(&self, name: &str) -> Result<Option<f64>> {
        match self.attribute(name) {
            Some(&Attribute::Number(number)) => Ok(Some(number)),
            None => Ok(None),
            Some(_) => Err(format!("the attribute {name} is no float64")),
        }
    }

    pub(crate) fn integers(&self, name: &str) -> Result<&[i64]> {
        match self.attribute(name) {
            Some(Attribute::Integers(integers)) => Ok(integers),
            _ => Err(format!("the attribute {name} is no array of int64")),
        }
    }

    /// Checks what the slices rest on: that results overlap with nothing, but where one has all the memory of an argument.
    fn find_written(&mut self) -> Result<()> {
        for place in 0..self.results.len() {
            self.results[place].is_written = true;
            let result = &self.results[place];
            if let Some(other) = self.results[..place].iter().find(|other| other.overlaps(result)) {
                return Err(format!("the results {} and {} overlap", other.name, result.name));
            }
            for argument in self.arguments.iter_mut().filter(|argument| argument.overlaps(result)) {
                if argument.bytes() != result.bytes() {
                    return Err(format!(
                        "the argument {} and the result {} overlap",
                        argument.name, result.name
                    ));
                }
                argument.is_written = true;
            }
        }
        Ok(())
    }

    fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|(other, _)| *other == name).map(|(_, attribute)| attribute)
    }
}

impl<'a> Buffer<'a> {
    /// An argument's elements.
    pub(crate) fn slice<T: Scalar>(&self) -> Result<&'a [T]> {
        self.check::<T>()?;
        if self.is_written {
            return Err(format!("{} is written, and not to be read", self.name));
        }
        if self.len == 0 {
            return Ok(&[]);
        }
        // SAFETY: `check` saw type and alignment; the promise that `Frame::new` asks for gives the memory and keeps others from
        // writing; and it is no result's, or `find_written` would have said so.
        Ok(unsafe { core::slice::from_raw_parts(self.data.cast(), self.len) })
    }

    /// A result's elements, whatever is in them yet.
    pub(crate) fn into_slice_mut<T: Scalar>(self) -> Result<&'a mut [T]> {
        self.check::<T>()?;
        if self.len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: `check` saw type and alignment; the promise that `Frame::new` asks for gives the memory and keeps others away;
        // only results can be had by value, this one is used up here, and `find_written` keeps `slice` from its memory. Any
        // bytes are numbers.
        Ok(unsafe { core::slice::from_raw_parts_mut(self.data.cast(), self.len) })
    }

    /// The sizes in front of these ones.
    pub(crate) fn leading(&self, last: &[i64]) -> Result<&'a [i64]> {
        self.shape.strip_suffix(last).ok_or_else(|| {
            format!("{} has shape {:?}, which does not end with {last:?}", self.name, self.shape)
        })
    }

    /// Whether it is the other's memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.len > 0 && self.bytes() == other.bytes()
    }

    fn bytes(&self) -> Range<usize> {
        let start = self.data as usize;
        start..start.saturating_add(self.len.saturating_mul(self.dtype.bytes()))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (bytes, others) = (self.bytes(), other.bytes());
        bytes.start.max(others.start) < bytes.end.min(others.end)
    }

    fn check<T: Scalar>(&self) -> Result<()> {
        if self.dtype != T::DTYPE {
            return Err(format!("{} is {}, not {}", self.name, self.dtype, T::DTYPE));
        }
        if self.len > 0 && (self.data.is_null() || !self.data.cast::<T>().is_aligned()) {
            return Err(format!("{} is not aligned", self.name));
        }
        Ok(())
    }
}

impl<'a> Elements<'a> for &Buffer<'a> {
    type Error = String;

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn elements<T: Scalar>(&self) -> Result<Cow<'a, [T]>> {
        self.slice().map(Cow::Borrowed)
    }
}

/// The product of the sizes, if it is a number of elements that memory can hold.
pub(crate) fn product(sizes: &[i64]) -> Result<usize> {
    let mut factors = sizes.iter().map(|&size| usize::try_from(size).ok());
    let product = factors.try_fold(1_usize, |product, size| product.checked_mul(size?));
    product.ok_or_else(|| format!("an array of shape {sizes:?}"))
}

/// That XLA's structure has all the fields that are relied on.
pub(crate) fn check_size(structure: &str, actual: usize, least: usize) -> Result<()> {
    if actual >= least {
        return Ok(());
    }
    Err(format!("{structure} has {actual} bytes, not {least}: jaxlib is too old"))
}

fn name<'a>(buffers: &mut [Buffer<'a>], names: &'a str) -> Result<()> {
    let mut names = names.split_whitespace();
    for buffer in &mut *buffers {
        buffer.name = names.next().ok_or("an array without a name")?;
    }
    names.next().map_or(Ok(()), |name| Err(format!("{name} is missing")))
}

/// # Safety
///
/// What the structure points to is as the header says for `'a`.
unsafe fn buffers<'a>(buffers: &c_api::Buffers) -> Result<Vec<Buffer<'a>>> {
    check_size("XLA_FFI_Args", buffers.struct_size, struct_size::BUFFERS)?;
    // SAFETY: both lists have `size` items.
    let (types, items) = unsafe { (list(buffers.types, buffers.size)?, list(buffers.items, buffers.size)?) };
    let buffer = |(&type_, &item): (&c_uint, &*mut c_void)| {
        if type_ != c_api::TYPE_BUFFER || item.is_null() {
            return Err("an argument that is no array".to_owned());
        }
        // SAFETY: an item of this type is a buffer.
        unsafe { buffer(&*item.cast::<c_api::Buffer>()) }
    };
    types.iter().zip(items).map(buffer).collect()
}

/// # Safety
///
/// What the structure points to is as the header says for `'a`.
unsafe fn buffer<'a>(buffer: &c_api::Buffer) -> Result<Buffer<'a>> {
    check_size("XLA_FFI_Buffer", buffer.struct_size, struct_size::BUFFER)?;
    // SAFETY: there are `rank` dimensions.
    let shape = unsafe { list(buffer.dims, buffer.rank)? };
    let (dtype, len) = (dtype(buffer.dtype), product(shape)?);
    Ok(Buffer { name: "", dtype, shape, is_written: false, data: buffer.data, len })
}

/// # Safety
///
/// `size` items begin at `first`, unless there are none, and live for `'a`.
pub(crate) unsafe fn list<'a, T>(first: *const T, size: i64) -> Result<&'a [T]> {
    match usize::try_from(size) {
        Ok(0) => Ok(&[]),
        // SAFETY: that is what this function asks for.
        Ok(size) if !first.is_null() => Ok(unsafe { core::slice::from_raw_parts(first, size) }),
        _ => Err(format!("a list of {size} items at {first:p}")),
    }
}

fn dtype(dtype: c_uint) -> Dtype {
    match dtype {
        data_type::PRED => Dtype::Bool,
        data_type::U8 => Dtype::U8,
        data_type::U16 => Dtype::U16,
        data_type::U32 => Dtype::U32,
        data_type::U64 => Dtype::U64,
        data_type::S8 => Dtype::I8,
        data_type::S16 => Dtype::I16,
        data_type::S32 => Dtype::I32,
        data_type::S64 => Dtype::I64,
        data_type::F16 => Dtype::F16,
        data_type::BF16 => Dtype::Bf16,
        data_type::F32 => Dtype::F32,
        data_type::F64 => Dtype::F64,
        _ => Dtype::Other,
    }
}
