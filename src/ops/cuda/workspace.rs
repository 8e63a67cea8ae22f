//! What the CUDA kernels take of a model, and the memory they work in. Pure.

use crate::base::{Dims, Error, Result, Shape, Status};
use crate::ops::Extras;

/// Head sizes that the kernels are built for: `with_head_dim` of `csrc/launch.h`.
pub const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// Bytes for products: what NVIDIA recommends for Hopper, and enough for any before it.
pub const PRODUCTS_BYTES: usize = 32 << 20;

/// Bytes: the workspace's own alignment, and that of its parts.
pub const ALIGNMENT: usize = 256;

/// Rows of partial sums that a sum over rows leaves at most: `kPartialRowsMax` of `csrc/column_sum.h`.
const PARTIAL_ROWS_MAX: usize = 512;
/// Keys of a tile, and blocks of dK and dV wanted: those of `key_parts` in `csrc/attention.h`.
const KEY_TILE: usize = 128;
const KEY_BLOCKS: usize = 256;
/// Values of a block, and blocks at most, of a sum of squares: those of `csrc/grad.cu`.
const SQUARES: (usize, usize) = (2048, 1024);

/// Bytes of workspace for everything that a model asks of `CudaKernels`, with logits in
/// chunks of `logits_chunk` rows. Nothing else may use it, and what it holds means nothing between two operations.
pub fn workspace_bytes(dims: &Dims, shape: Shape, logits_chunk: usize, extras: Extras) -> usize {
    let n = shape.n();
    // Gradients are squared in pieces of any length.
    let squares = grad_scratch(usize::MAX);
    let log_probabilities = logits_chunk.min(n) * 4;
    let scratch = [
        rmsnorm_backward_scratch(n, dims.c),
        bias_backward_scratch(n, extras.bias_columns),
        if extras.qk_norm { qk_norm_backward_scratch(n, dims.h, dims.d) } else { 0 },
        attention_backward_scratch(n, dims.h, dims.g, dims.d),
        squares,
        log_probabilities,
    ];
    PRODUCTS_BYTES + scratch.into_iter().fold(0, usize::max).next_multiple_of(ALIGNMENT)
}

/// `hzk_rmsnorm_backward_scratch`.
pub fn rmsnorm_backward_scratch(n: usize, c: usize) -> usize {
    n.min(PARTIAL_ROWS_MAX) * c * 4
}

/// `hzk_bias_backward_scratch`.
pub fn bias_backward_scratch(n: usize, c: usize) -> usize {
    n.min(PARTIAL_ROWS_MAX) * c * 4
}

/// At least `hzk_qk_norm_backward_scratch`, whose blocks take several heads each.
pub fn qk_norm_backward_scratch(n: usize, heads: usize, d: usize) -> usize {
    (n * heads).min(PARTIAL_ROWS_MAX) * d * 4
}

/// `hzk_attention_backward_scratch`: row sums, and the sums of the blocks that divide the query heads of a group where dK and dV
/// have few tiles.
pub fn attention_backward_scratch(n: usize, h: usize, g: usize, d: usize) -> usize {
    let (tiles, group) = ((n.div_ceil(KEY_TILE) * g).max(1), (h / g).max(1));
    let heads = group.div_ceil(KEY_BLOCKS.div_ceil(tiles));
    let parts = group.div_ceil(heads);
    let sums = if parts > 1 { parts * 2 * n * g * d } else { 0 };
    (sums + n * h) * 4
}

/// `hzk_grad_scratch`.
pub fn grad_scratch(elements: usize) -> usize {
    let (values, blocks_max) = SQUARES;
    elements.div_ceil(values).min(blocks_max) * 8
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
