//! L1: thin wrappers around foreign interfaces (Linux, CUDA, cuBLASLt, our kernels). They make no
//! decisions.

pub mod cuda;
pub mod cuda_status;
pub mod float;
pub mod fork;
pub mod linux;
