//! The operations on CUDA: launches of `csrc/` and cuBLASLt's products.
//!
//! What is decided without a device stands apart: [`product`], [`table`], [`workspace`].

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
