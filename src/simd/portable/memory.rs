//! How 16 lanes of `f32` come to vectors of `wide`, and back into memory.

use wide::f32x16;

use super::Portable;
use crate::simd::{LANES, Memory};

impl Memory for Portable {
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> f32x16 {
        f32x16::new(*x)
    }

    #[inline(never)]
    fn load_partial(self, x: &[f32], fill: f32) -> f32x16 {
        let mut lanes = [fill; LANES];
        let count = x.len().min(LANES);
        lanes[..count].copy_from_slice(&x[..count]);
        f32x16::new(lanes)
    }

    #[inline(always)]
    fn store(self, v: f32x16, out: &mut [f32; LANES]) {
        *out = v.to_array();
    }

    #[inline(never)]
    fn store_partial(self, v: f32x16, out: &mut [f32]) {
        let count = out.len().min(LANES);
        out[..count].copy_from_slice(&v.to_array()[..count]);
    }

    #[inline(always)]
    fn stream(self, v: f32x16, out: &mut [f32; LANES]) {
        self.store(v, out);
    }

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}

    #[inline(always)]
    fn prefetch_to_second_level<T>(self, _: *const T) {}

    #[inline(always)]
    fn fence(self) {}

    #[inline(never)]
    fn load_columns(self, rows: &[f32], row_stride: usize, column: usize) -> [f32x16; 4] {
        let mut columns = [[0.0; LANES]; 4];
        for row in 0..LANES {
            let quad = &rows[row * row_stride + column..][..4];
            for i in 0..4 {
                columns[i][row] = quad[i];
            }
        }
        columns.map(f32x16::new)
    }

    #[inline(never)]
    fn store_columns(self, columns: [f32x16; 4], rows: &mut [f32], row_stride: usize, column: usize) {
        let columns = columns.map(f32x16::to_array);
        for row in 0..LANES {
            let quad = &mut rows[row * row_stride + column..][..4];
            for i in 0..4 {
                quad[i] = columns[i][row];
            }
        }
    }
}
