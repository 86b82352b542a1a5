//! Which batches are compared.

/// Rows and classes.
pub type Shape = (usize, usize);

/// Those of the table: from one image to the vocabularies of language models.
pub const TABLE: [Shape; 9] = [
    (1, 1000),
    (64, 10),
    (4096, 10),
    (32, 1000),
    (1024, 1000),
    (8192, 1000),
    (256, 32_000),
    (128, 128_256),
    (64, 262_144),
];

/// Remainders of every kind.
pub const TEST: [Shape; 4] = [(1, 1000), (5, 10), (33, 1001), (3, 20_001)];

/// Elements of each batch whose number of classes changes.
const ELEMENTS: usize = 1 << 20;

/// More and more classes in as many elements.
pub fn over_classes() -> Vec<Shape> {
    [2].into_iter().chain((1..=9).map(|power| 1 << (2 * power))).map(|c| (ELEMENTS / c, c)).collect()
}

/// More and more rows of 1000 classes.
pub fn over_rows() -> Vec<Shape> {
    [1, 4, 16, 64, 256, 1024, 4096, 8192].map(|rows| (rows, 1000)).to_vec()
}

/// Each once.
pub fn all() -> Vec<Shape> {
    let mut shapes = TABLE.to_vec();
    for shape in over_classes().into_iter().chain(over_rows()) {
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

pub fn name((rows, classes): Shape) -> String {
    format!("{rows}x{classes}")
}
