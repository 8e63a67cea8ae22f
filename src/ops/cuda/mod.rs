//! The operations on CUDA: launches of `csrc/` and cuBLASLt's products.
//!
//! Decisions that need no device are in [`product`], [`table`] and [`workspace`].

mod address;
pub mod attention;
mod heads;
mod kernels;
pub mod matmul;
pub mod measure;
pub mod product;
pub mod table;
pub mod workspace;

pub use kernels::CudaKernels;
