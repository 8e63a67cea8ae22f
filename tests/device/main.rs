//! The device interface, on the CPU device and on the CUDA device with fake CUDA.

mod cpu;
mod cuda;
mod hazards;
