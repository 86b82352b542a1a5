//! Handwritten digits: see `examples/data` of the main crate for their origin.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;

use crate::SplitMix64;

/// Pixels of an image, 8 x 8.
pub const PIXELS: usize = 64;
/// What an image may show.
pub const CLASSES: usize = 10;
const LARGEST_PIXEL: f32 = 16.0;

/// Images and the digits they show.
#[derive(Clone, Debug, Default)]
pub struct Digits {
    /// images x [`PIXELS`], from 0 to 1
    pub pixels: Vec<f32>,
    /// One for each image, below [`CLASSES`].
    pub labels: Vec<u32>,
}

impl Digits {
    /// All 1,797 of them.
    ///
    /// # Errors
    /// When the file is not there, or not what it should be.
    pub fn read() -> Result<Self, Box<dyn Error>> {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/digits.csv.gz"));
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut digits = Self::default();
        for line in BufReader::new(GzDecoder::new(file)).lines() {
            let line = line?;
            let values = line.split(',').map(str::parse).collect::<Result<Vec<u8>, _>>()?;
            let [pixels @ .., label] = &values[..] else { return Err("an image without a label".into()) };
            if pixels.len() != PIXELS {
                return Err(format!("an image of {} pixels instead of {PIXELS}", pixels.len()).into());
            }
            digits.pixels.extend(pixels.iter().map(|&pixel| f32::from(pixel) / LARGEST_PIXEL));
            digits.labels.push(u32::from(*label));
        }
        Ok(digits)
    }

    /// Four fifths of the images to train on and the others to test with, at random.
    pub fn split(&self, random: &mut SplitMix64) -> (Self, Self) {
        let order = random.order(self.labels.len());
        let (training, held_out) = order.split_at(order.len() * 4 / 5);
        (self.select(training), self.select(held_out))
    }

    /// Some of the images.
    pub fn select(&self, images: &[usize]) -> Self {
        let mut selected = Self::default();
        for &image in images {
            selected.pixels.extend_from_slice(&self.pixels[image * PIXELS..][..PIXELS]);
            selected.labels.push(self.labels[image]);
        }
        selected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_digits_are_there() -> Result<(), Box<dyn Error>> {
        let digits = Digits::read()?;
        assert_eq!((digits.labels.len(), digits.pixels.len()), (1797, 1797 * PIXELS));
        assert_eq!(digits.labels[..4], [0, 1, 2, 3]);
        Ok(())
    }
}
