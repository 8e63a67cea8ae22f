//! Split masters as f32 and back: for import, export and inspection.

use crate::base::master;

/// `out[i] = ` the f32 whose halves are the `i`-th of `weights` (bf16) and `residual` (i16).
///
/// # Panics
/// If the lengths differ.
pub fn read_master(weights: &[u16], residual: &[i16], out: &mut [f32]) {
    assert_eq!((weights.len(), residual.len()), (out.len(), out.len()), "halves of as many masters");
    for ((out, high), low) in out.iter_mut().zip(weights).zip(residual) {
        *out = master::join(*high, *low);
    }
}

/// Splits `values` into `weights` (bf16) and `residual` (i16).
///
/// # Panics
/// If the lengths differ.
pub fn write_master(weights: &mut [u16], residual: &mut [i16], values: &[f32]) {
    assert_eq!((weights.len(), residual.len()), (values.len(), values.len()), "halves of as many masters");
    for ((high, low), value) in weights.iter_mut().zip(residual).zip(values) {
        (*high, *low) = master::split(*value);
    }
}
