//! Logits whose classes lie in planes, (N, C, d1, d2, ...): their views, what is asked of them, and how a call goes
//! through them.
//!
//! ```text
//! view.rs       the public views
//! request.rs    the outputs
//! calls.rs      the calls; all validation
//! batch.rs      images on their way to threads
//! tiles.rs      few classes: exponentials are kept
//! bands.rs      many classes: exponentials are computed again
//! dtype.rs      which way each dtype goes
//! doubles.rs    f64
//! group.rs      what 16 positions need besides their logits
//! ```
//!
//! The kernels are in `kernel/planes.rs`, `kernel/bands.rs` and `kernel/double/planes.rs`.

mod bands;
mod batch;
mod calls;
mod doubles;
mod dtype;
mod group;
mod request;
mod tiles;
mod view;

pub(crate) use batch::Batch;
pub(crate) use dtype::InPlanes;
pub use request::PlanesRequest;
pub use view::{Planes, PlanesMut};
