//! The CUDA backend: launches of `csrc/` and cuBLASLt's products.
//!
//! Decisions that need no device are in [`product`], [`table`] and [`workspace`].

pub(super) mod address;
pub mod attention;
pub mod gemm;
mod heads;
mod kernels;
pub mod matmul;
pub mod measure;
pub mod table;
pub mod workspace;

pub use kernels::CudaKernels;

pub(super) use heads::{HeadColumns, both_heads};
pub(super) use kernels::launch;

/// Rows of partial sums that a sum over rows leaves at most: `kPartialRowsMax` of `csrc/column_sum.h`.
pub(super) const PARTIAL_ROWS_MAX: usize = 512;
