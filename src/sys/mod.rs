//! L1, foreign names: thin and raw. Nothing here decides anything.

pub mod cuda;
pub mod cuda_status;
pub mod linux;
