//! Which part of an argument belongs to which item of the batch.

use core::ops::Range;

use super::frame::{Buffer, Result, product};

/// The place of an argument's parts, one behind the other.
pub(crate) struct Blocks<'a> {
    batch: &'a [i64],
    /// The sizes of the batch, or 1 where its items share a part.
    leading: &'a [i64],
    /// Elements of a part.
    len: usize,
}

impl<'a> Blocks<'a> {
    /// Those of an array whose shape is that of the batch, or 1s for it, followed by this one.
    pub(crate) fn new(buffer: &Buffer<'a>, part: &[i64], batch: &'a [i64]) -> Result<Self> {
        let leading = buffer.leading(part)?;
        let fits = |(&size, &of_batch): (&i64, &i64)| size == of_batch || size == 1;
        if leading.len() != batch.len() || !leading.iter().zip(batch).all(fits) {
            return Err(format!("{} has shape {:?} in the batch {batch:?}", buffer.name, buffer.shape));
        }
        Ok(Self { batch, leading, len: product(part)? })
    }

    /// Whether each item has a part of its own.
    pub(crate) fn is_whole(&self) -> bool {
        self.leading == self.batch
    }

    /// Whether all items share one part.
    pub(crate) fn is_shared(&self) -> bool {
        self.leading.iter().all(|&size| size == 1)
    }

    /// The elements of one item; or of several, where each has a part of its own.
    pub(crate) fn range(&self, items: &Range<usize>) -> Range<usize> {
        if self.is_whole() {
            return items.start * self.len..items.end * self.len;
        }
        let (mut index, mut stride, mut block) = (items.start, 1, 0);
        // Sizes have been multiplied without overflow.
        for (&size, &of_batch) in self.leading.iter().zip(self.batch).rev() {
            if size > 1 {
                block += index % of_batch as usize * stride;
            }
            index /= of_batch as usize;
            stride *= size as usize;
        }
        block * self.len..(block + 1) * self.len
    }
}
