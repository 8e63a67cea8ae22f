//! Selects the attention kernel of a device: `wgmma` where available, unless a [`Table`] selects
//! otherwise.

use crate::base::{Error, Result, Status};
use crate::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use crate::sys::cuda::{api, compute_capability};

/// Returns true if wgmma attention is available: a build for `sm_90a` and a device of compute
/// capability 9.0.
pub fn has_wgmma(device: usize) -> Result<bool> {
    Ok(api()?.wgmma && compute_capability(device)? == (9, 0))
}

/// Returns the head dimensions that use wgmma attention on device number `device`, called `name`.
/// Choices missing from the table are added to it.
///
/// Errors: the table selects wgmma where it is not available (`Unsupported`).
pub fn wgmma_heads(table: &mut Table, name: &str, device: usize) -> Result<Vec<usize>> {
    let has_wgmma = has_wgmma(device)?;
    if has_wgmma {
        table.prefer_wgmma(name);
    }
    let is_wgmma = |d: &usize| table.attention(name, *d) == Attention::Wgmma;
    let heads: Vec<usize> = WGMMA_HEADS.into_iter().filter(is_wgmma).collect();
    if !heads.is_empty() && !has_wgmma {
        return Err(Error::new(
            Status::Unsupported,
            "the GEMM autotune table selects wgmma attention, which needs a GPU of compute capability 9.0 and a library \
                         built with HZ_CUDA_ARCH=sm_90a; run `horizon calibrate` again here",
        ));
    }
    Ok(heads)
}
