//! Conversion of split masters to f32 and back, for import, export and inspection.

use crate::base::master;

/// Joins `weights` (bf16) and `residual` (i16) into f32 `out`.
///
/// # Panics
/// If the lengths differ.
pub fn read_master(weights: &[u16], residual: &[i16], out: &mut [f32]) {
    assert_eq!(
        (weights.len(), residual.len()),
        (out.len(), out.len()),
        "the lengths of split masters differ"
    );
    for ((out, high), low) in out.iter_mut().zip(weights).zip(residual) {
        *out = master::join(*high, *low);
    }
}

/// Splits `values` into `weights` (bf16) and `residual` (i16).
///
/// # Panics
/// If the lengths differ.
pub fn write_master(weights: &mut [u16], residual: &mut [i16], values: &[f32]) {
    assert_eq!(
        (weights.len(), residual.len()),
        (values.len(), values.len()),
        "the lengths of split masters differ"
    );
    for ((high, low), value) in weights.iter_mut().zip(residual).zip(values) {
        (*high, *low) = master::split(*value);
    }
}
