//! Matrices in memory that is watched.

use core::ops::Range;
use xent::{Matrix, MatrixMut};

/// A NaN that no computation makes: whoever reads it has a NaN, whoever writes over it is seen.
pub const CANARY: u32 = 0x7fc0_ca7a;

/// Elements of a cache line.
const LINE: usize = 16;

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Elements between a cache line's start and the matrix.
    pub offset: usize,
    /// Elements between one row's end and the next row's start.
    pub padding: usize,
}

/// A matrix with canaries before it, behind it and between its rows.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u32>,
    start: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Buffer {
    /// A matrix of canaries.
    pub fn unwritten(rows: usize, cols: usize, layout: Layout) -> Self {
        let stride = cols + layout.padding;
        let len = rows.saturating_sub(1) * stride + if rows == 0 { 0 } else { cols };
        let memory = vec![CANARY; len + 4 * LINE + layout.offset];
        let to_line = memory.as_ptr().addr().wrapping_neg() % (LINE * size_of::<u32>()) / size_of::<u32>();
        // One whole line of canaries before the matrix.
        Self { memory, start: LINE + to_line + layout.offset, rows, cols, stride }
    }

    /// A matrix with these elements.
    pub fn holding(elements: &[f32], rows: usize, cols: usize, layout: Layout) -> Self {
        let mut buffer = Self::unwritten(rows, cols, layout);
        for (row, elements) in elements.chunks(cols.max(1)).enumerate() {
            let columns = buffer.memory_of_row(row);
            buffer.memory[columns].copy_from_slice(bytemuck::cast_slice(elements));
        }
        buffer
    }

    fn len(&self) -> usize {
        self.rows.saturating_sub(1) * self.stride + if self.rows == 0 { 0 } else { self.cols }
    }

    pub fn matrix(&self) -> Matrix<'_> {
        let memory: &[f32] = bytemuck::cast_slice(&self.memory[self.start..][..self.len()]);
        Matrix::with_row_stride(memory, self.rows, self.cols, self.stride)
            .expect("the buffer is large enough")
    }

    pub fn matrix_mut(&mut self) -> MatrixMut<'_> {
        let len = self.len();
        let memory: &mut [f32] = bytemuck::cast_slice_mut(&mut self.memory[self.start..][..len]);
        MatrixMut::with_row_stride(memory, self.rows, self.cols, self.stride)
            .expect("the buffer is large enough")
    }

    /// All memory, the canaries' too.
    pub fn memory_mut(&mut self) -> &mut [u32] {
        &mut self.memory
    }

    /// Where a row lies in it.
    pub fn memory_of_row(&self, row: usize) -> Range<usize> {
        let start = self.start + row * self.stride;
        start..start + self.cols
    }

    /// A single column as a slice.
    pub fn column_mut(&mut self) -> &mut [f32] {
        assert!(self.cols == 1 && self.stride == 1);
        bytemuck::cast_slice_mut(&mut self.memory[self.start..][..self.rows])
    }

    /// The elements without the padding.
    pub fn elements(&self) -> Vec<f32> {
        let mut elements = Vec::with_capacity(self.rows * self.cols);
        for row in 0..self.rows {
            elements.extend_from_slice(bytemuck::cast_slice(&self.memory[self.memory_of_row(row)]));
        }
        elements
    }

    /// Checks every element that is not the matrix's own.
    pub fn assert_canaries_live(&self, name: &str) {
        let mut start = 0;
        for row in 0..=self.rows {
            // Up to the row, and after the last row up to the end.
            let end = if row < self.rows { self.memory_of_row(row).start } else { self.memory.len() };
            if let Some(at) = self.memory[start..end].iter().position(|&bits| bits != CANARY) {
                panic!(
                    "{name}: {:#x} written {at} elements after the end of row {} of {} x {} with stride {}",
                    self.memory[start + at],
                    row as isize - 1,
                    self.rows,
                    self.cols,
                    self.stride
                );
            }
            start = end + self.cols;
        }
    }

    /// Checks that nothing at all has been written.
    pub fn assert_unwritten(&self, name: &str) {
        let written = self.memory.iter().position(|&bits| bits != CANARY);
        assert_eq!(written, None, "{name} was written");
    }
}
