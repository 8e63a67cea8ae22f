//! Vectors whose size depends on the model or its batches.

use crate::base::format::Size;
use crate::base::{Error, Result, Status};

/// An empty vector for `len` elements.
///
/// Errors: `OutOfHostMemory`.
pub fn with_capacity<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| {
        let bytes = Size(len.saturating_mul(size_of::<T>()));
        let message =
            format!("the system refused {bytes} of host memory: free memory, or raise the process's limit");
        Error::new(Status::OutOfHostMemory, message)
    })?;
    Ok(values)
}

/// A vector with `len` times `value`.
///
/// Errors: `OutOfHostMemory`.
pub fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>> {
    let mut values = with_capacity(len)?;
    values.resize(len, value);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_there_is_not_is_an_error() {
        assert_eq!(filled(3, 2), Ok(vec![3, 3]));
        for len in [1 << 60, usize::MAX] {
            let error = filled(0_i32, len).unwrap_err();
            assert_eq!(error.status(), Status::OutOfHostMemory);
            assert!(error.message().contains("iB of host memory"), "{error}");
        }
    }
}
