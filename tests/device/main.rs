//! The device contract, on the CPU device and on the CUDA device.

mod cpu;
mod cuda;
mod hazards;
