//! Outputs of planes that outgrow the caches are stored past them, which changes no bit.

use crate::support::batch::Random;
use crate::support::planes::{PlanesBuffer, PlanesLayout, Watched};
use crate::support::{backends, most_cache_bytes};
use xent::{CrossEntropy, Element, PlanesRequest, Reduction, Smoothing};

/// None of so many parts outgrows them.
const PARTS: usize = 4;

/// Classes and positions of images of a few classes, and of many, and how they lie: on cache lines, and beside them.
const SHAPES: [(usize, usize, PlanesLayout); 4] = [
    (5, 1024, PlanesLayout { offset: 0, class_padding: 0, image_padding: 0 }),
    (300, 80, PlanesLayout { offset: 0, class_padding: 0, image_padding: 0 }),
    (21, 117, PlanesLayout { offset: 3, class_padding: 5, image_padding: 7 }),
    (200, 37, PlanesLayout { offset: 3, class_padding: 5, image_padding: 7 }),
];

#[test]
fn gradients_of_f32_past_the_caches_are_those_of_their_parts() {
    check::<f32>(|x| x);
}

#[test]
fn gradients_of_f64_past_the_caches_are_those_of_their_parts() {
    check::<f64>(f64::from);
}

#[cfg(feature = "half")]
#[test]
fn gradients_of_16_bits_past_the_caches_are_those_of_their_parts() {
    check::<half::bf16>(half::bf16::from_f32);
    check::<half::f16>(half::f16::from_f32);
}

fn check<T: Element + Watched>(of_f32: fn(f32) -> T) {
    // Logits, gradient and probabilities.
    let elements = most_cache_bytes() / (3 * size_of::<T>());
    let plain = || CrossEntropy::builder().reduction(Reduction::Sum);
    let variants = [plain(), plain().softcap(5.0).label_smoothing(0.1).smoothing(Smoothing::LiveClasses)];
    for (classes, positions, layout) in SHAPES {
        let images_of_part = elements.div_ceil(classes * positions * PARTS) + 1;
        let rows = images_of_part * PARTS * positions;
        let mut random = Random::new(classes as u64);
        let logits: Vec<T> = (0..rows * classes).map(|_| of_f32(random.between(-9.0, 9.0))).collect();
        let targets: Vec<i64> = (0..rows).map(|_| random.below(classes) as i64).collect();
        for (backend, builder) in
            backends().into_iter().flat_map(|it| variants.clone().map(|with| (it, with)))
        {
            let ce = builder.backend(backend).build().expect("the options are valid");
            let outputs = |rows: core::ops::Range<usize>| {
                let sizes = (rows.len() / positions, classes, positions);
                let logits = &logits[rows.start * classes..rows.end * classes];
                let logits = PlanesBuffer::holding(logits, sizes, layout);
                let mut outputs = [(); 2].map(|()| PlanesBuffer::<T>::unwritten(sizes, layout));
                let [grad, probabilities] = &mut outputs;
                let request =
                    PlanesRequest::new().grad(grad.planes_mut()).probabilities(probabilities.planes_mut());
                ce.run_planes(logits.planes(), &targets[rows], request).expect("the batch is valid");
                outputs.map(|output| {
                    output.assert_canaries_live("an output");
                    output.rows()
                })
            };
            let whole = outputs(0..rows);
            for part in 0..PARTS {
                let rows = rows / PARTS * part..rows / PARTS * (part + 1);
                for (whole, part) in whole.iter().zip(outputs(rows.clone())) {
                    let whole = &whole[rows.start * classes..rows.end * classes];
                    let is_same =
                        bytemuck::cast_slice::<T, u8>(whole) == bytemuck::cast_slice::<T, u8>(&part);
                    assert!(is_same, "{backend}, {classes} classes, {positions} positions, rows {rows:?}");
                }
            }
        }
    }
}
