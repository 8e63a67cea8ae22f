//! The engine on CUDA: on a GPU if there is one, otherwise, in builds with kernels, with the
//! emulated kernels of `tests/emulator` on fake CUDA. Tests that need a GPU report that they are
//! skipped; `HZ_REQUIRE_GPU=1` makes a skip a failure. `pack` collects everything that `run` needs
//! on a machine with a GPU but no compiler.

mod autotune;
mod equal;
mod faults;
mod golden;
mod pack_rehearsal;
mod programs;
mod rig;
mod text;
