//! The models that the CUDA kernels take, and the sizes of the memory they work in. Pure.

use crate::base::{Dims, Error, Result, Shape, Status};

/// Head sizes that the kernels are built for: `with_head_dim` of `csrc/launch.h`.
pub const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// Bytes for products: what NVIDIA recommends for Hopper, and enough for any before it.
pub const GEMM_BYTES: usize = 32 << 20;

/// Bytes: the workspace's own alignment, and that of its parts.
pub const ALIGNMENT: usize = 256;

/// Bytes of workspace for kernels of which none needs more than `scratch` bytes. Nothing else may use it, and what it holds means
/// nothing between two ops.
pub fn bytes(scratch: usize) -> usize {
    GEMM_BYTES + scratch.max(1).next_multiple_of(ALIGNMENT)
}

/// Refuses what the kernels of `csrc/` cannot compute (`Unsupported`), naming field and value.
pub fn supports(dims: &Dims, shape: Shape) -> Result<()> {
    const WIDTH_MAX: usize = 16384;
    let Dims { c, h, d, f, .. } = *dims;
    let refuse =
        |what: String| Err(Error::new(Status::Unsupported, format!("on CUDA {what}; --device cpu takes it")));
    if !HEAD_DIMS.contains(&d) {
        let [sizes @ .., last] = HEAD_DIMS.map(|size| size.to_string());
        return refuse(format!("head_dim must be {} or {last}, not {d}", sizes.join(", ")));
    }
    for (field, size) in [("hidden_size", c), ("intermediate_size", f)] {
        if !size.is_multiple_of(8) {
            return refuse(format!("{field} must be a multiple of 8, not {size}"));
        }
    }
    if c > WIDTH_MAX {
        return refuse(format!("hidden_size must be at most {WIDTH_MAX}, not {c}"));
    }
    let rows_max = i32::MAX as usize / h.max(1) - 255;
    if h > 65535 || shape.n() > rows_max {
        return refuse(format!(
            "{} × {} tokens of {h} heads are too many for one micro-batch; {rows_max} tokens are the most",
            shape.b, shape.t
        ));
    }
    Ok(())
}
