//! The choice of a device's attention kernel: `wgmma` where there is code for it, unless a [`Table`] says otherwise.

use crate::base::{Error, Result, Status};
use crate::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use crate::sys::cuda::{api, compute_capability};

/// Whether there is code for attention by wgmma for a device.
pub fn has_wgmma(device: usize) -> Result<bool> {
    Ok(api()?.wgmma && compute_capability(device)? == (9, 0))
}

/// The head dimensions whose attention is by wgmma on device number `device`, called `name`. Where the table has no choice it
/// is given one.
///
/// Errors: the table chooses wgmma, and there is no code for it (`Unsupported`).
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
            "the table of gemms has attention by wgmma, for which this library has no code here: it is built for \
             sm_90a (HZ_CUDA_ARCH); calibrate anew with it",
        ));
    }
    Ok(heads)
}
