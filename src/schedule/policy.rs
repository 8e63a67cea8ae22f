//! What a schedule is built from.

use crate::base::{DType, Shape};

/// What the host keeps of a parameter. See DESIGN section 5 for the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Weights, residual, stored gradient, f32 moments: exact f32 master and exact clipping.
    Exact,
    /// As `Exact`, but gradients pass through a ring of host slabs and are used at once: no global clip.
    Streamed,
}

/// The half of the policy that may change bits. A checkpoint stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numeric {
    /// B and T of a micro-batch.
    pub shape: Shape,
    /// Rows of logits that exist at a time.
    pub logits_chunk: usize,
    /// What a gradient is rounded to, once, when it leaves the device.
    pub grad_dtype: DType,
}

/// When a unit's AdamW may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdamWhen {
    /// Once loss and global norm are known, in forward order, under the next forward. A non-finite norm
    /// commits nothing.
    AfterNorm,
    /// As soon as its gradient has landed, under backward. The non-finite guard is per unit.
    UnderBackward,
}

/// The half of the policy that never changes a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Places for a layer's weights on the device; at least 2.
    pub weight_slots: usize,
    /// Places for a rounded gradient on its way out of the device; at least 2.
    pub slabs: usize,
    /// Host slabs that gradients pass through in [`Mode::Streamed`]; at least 2. Unused otherwise.
    pub ring: usize,
    /// When AdamW runs. `UnderBackward` excludes clipping, `Streamed` requires it.
    pub adam: AdamWhen,
}

/// The input of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What the host keeps.
    pub mode: Mode,
    /// What may change bits.
    pub numeric: Numeric,
    /// What may not.
    pub placement: Placement,
}

/// What a list knows of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// L.
    pub layers: usize,
    /// Whether the head reads the embedding's weights, and adds to its gradient.
    pub tied: bool,
    /// Parts of the embedding's gradient; see [`crate::model::Layout::parts`].
    pub embedding_parts: usize,
    /// Parts of the head's gradient.
    pub head_parts: usize,
}
