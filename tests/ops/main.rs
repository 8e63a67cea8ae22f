//! Ops on every device against plain references, and the device-independent code of the CUDA
//! backend.

mod attention;
mod bias;
mod contracts;
mod cross_entropy;
mod cublaslt;
mod embedding;
mod gemm_table;
mod glu;
mod gradient;
mod linear;
mod qk_norm;
mod rmsnorm;
mod rope;
mod workspace;
