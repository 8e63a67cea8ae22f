//! The operations on CUDA: launches of `csrc/` and cuBLASLt's products.
//!
//! What is decided in pure code ([`product`], [`table`], [`workspace`]) is there in every build and tested in every
//! one; what calls the device is there with the kernels (cfg `hz_cuda`).

#[cfg(hz_cuda)]
mod heads;
#[cfg(hz_cuda)]
mod kernels;
#[cfg(hz_cuda)]
pub mod matmul;
#[cfg(hz_cuda)]
pub mod measure;
pub mod product;
pub mod table;
pub mod workspace;

#[cfg(hz_cuda)]
pub use kernels::CudaKernels;
