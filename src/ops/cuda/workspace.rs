//! The models that the CUDA kernels support, and the size of their workspace. Pure.

use crate::base::{Dims, Error, Name, Result, Shape, Status};
use crate::ops::NormSpan;

/// Head dimensions that the kernels are built for: `with_head_dim` of `csrc/launch.h`.
pub const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// Workspace bytes for GEMMs: NVIDIA's recommendation for Hopper, enough for any earlier GPU.
pub const GEMM_BYTES: usize = 32 << 20;

/// Alignment in bytes of the workspace and of its two parts.
pub const ALIGNMENT: usize = 256;

/// Bytes of workspace for kernels that need at most `scratch` bytes each. Nothing else may use it;
/// its contents are undefined between ops.
pub fn bytes(scratch: usize) -> usize {
    GEMM_BYTES + scratch.max(1).next_multiple_of(ALIGNMENT)
}

/// Refuses models that the kernels of `csrc/` do not support (`Unsupported`), naming field and
/// value. The first `rotating` elements of a head rotate; `span` is that of QK-norm.
pub fn supports(dims: &Dims, rotating: usize, span: Option<NormSpan>, shape: Shape) -> Result<()> {
    const WIDTH_MAX: usize = 16384;
    let Dims { c, h, d, f, .. } = *dims;
    let refuse = |what: String| {
        let cpu = Name::Device.is("cpu");
        Err(Error::new(Status::Unsupported, format!("on CUDA {what}; use the CPU device ({cpu})")))
    };
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
    if !rotating.is_multiple_of(16) {
        return refuse(format!(
            "the elements of a head that rotate must be a multiple of 16, not {rotating}"
        ));
    }
    let width = dims.attention_width();
    if span == Some(NormSpan::AllHeads) && width > WIDTH_MAX {
        return refuse(format!(
            "QK-norm of all heads needs num_attention_heads × head_dim of at most {WIDTH_MAX}, not {width}"
        ));
    }
    let rows_max = i32::MAX as usize / h.max(1) - 255;
    if h > 65535 || shape.n() > rows_max {
        return refuse(format!(
            "a micro-batch of {} × {} tokens with {h} heads is too large: at most {rows_max} tokens are supported",
            shape.b, shape.t
        ));
    }
    Ok(())
}
