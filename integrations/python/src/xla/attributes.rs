//! The options of a call, as XLA hands them over.

use core::ffi::{c_uint, c_void};

use super::c_api::{self, attribute_type, data_type, struct_size};
use super::frame::{Result, check_size, list};

/// The value of one.
pub(crate) enum Attribute<'a> {
    Text(&'a str),
    Number(f64),
    Integers(Vec<i64>),
    /// Of a type that no option has.
    Other,
}

/// # Safety
///
/// What the structure points to is as the header says for `'a`.
pub(crate) unsafe fn attributes<'a>(attrs: &c_api::Attrs) -> Result<Vec<(&'a str, Attribute<'a>)>> {
    check_size("XLA_FFI_Attrs", attrs.struct_size, struct_size::ATTRS)?;
    // SAFETY: the three lists have `size` items.
    let (types, names, items) = unsafe {
        (list(attrs.types, attrs.size)?, list(attrs.names, attrs.size)?, list(attrs.attrs, attrs.size)?)
    };
    let mut attributes = Vec::with_capacity(items.len());
    for ((&type_, &name), &item) in types.iter().zip(names).zip(items) {
        if name.is_null() || item.is_null() {
            return Err("an attribute that is nowhere".to_owned());
        }
        // SAFETY: names are spans, and items are of their types.
        attributes.push(unsafe { (text(&*name)?, attribute(type_, item)?) });
    }
    Ok(attributes)
}

/// # Safety
///
/// The item is what an attribute of this type is, for `'a`.
unsafe fn attribute<'a>(type_: c_uint, item: *const c_void) -> Result<Attribute<'a>> {
    Ok(match type_ {
        // SAFETY: an attribute of this type is a span.
        attribute_type::STRING => Attribute::Text(unsafe { text(&*item.cast())? }),
        attribute_type::SCALAR => {
            // SAFETY: an attribute of this type is a scalar.
            let scalar = unsafe { &*item.cast::<c_api::Scalar>() };
            if scalar.dtype != data_type::F64 || scalar.value.is_null() {
                return Ok(Attribute::Other);
            }
            // SAFETY: a scalar of this dtype is an `f64`.
            Attribute::Number(unsafe { scalar.value.cast::<f64>().read_unaligned() })
        }
        attribute_type::ARRAY => {
            // SAFETY: an attribute of this type is an array.
            let array = unsafe { &*item.cast::<c_api::Array>() };
            if array.size == 0 {
                return Ok(Attribute::Integers(Vec::new()));
            }
            if array.dtype != data_type::S64 || array.data.is_null() {
                return Ok(Attribute::Other);
            }
            let first = array.data.cast::<i64>();
            // SAFETY: an array of this dtype has `size` elements of type `i64`.
            let integer = |index| unsafe { first.add(index).read_unaligned() };
            Attribute::Integers((0..array.size).map(integer).collect())
        }
        _ => Attribute::Other,
    })
}

/// # Safety
///
/// The span is one of bytes that live for `'a`.
unsafe fn text<'a>(span: &c_api::ByteSpan) -> Result<&'a str> {
    let len = i64::try_from(span.len).map_err(|_| "a string without end")?;
    // SAFETY: the span has `len` bytes.
    let bytes = unsafe { list(span.ptr.cast::<u8>(), len)? };
    core::str::from_utf8(bytes).map_err(|_| "a string that is not UTF-8".to_owned())
}
