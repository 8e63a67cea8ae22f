//! The CUDA backend: launches of the kernels in `csrc/`, and GEMMs by cuBLASLt.
//!
//! [`gemm`], [`table`] and [`workspace`] need no device.

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

/// Maximum rows of partial sums in a column sum: `kPartialRowsMax` of `csrc/column_sum.h`.
pub(super) const PARTIAL_ROWS_MAX: usize = 512;
