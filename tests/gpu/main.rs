//! The engine on CUDA: on a GPU where there is one, and else by the emulated kernels of `tests/emulator` on fake devices,
//! wherever kernels are built. Without a GPU its part is skipped, aloud; `HZ_REQUIRE_GPU=1` makes that a
//! failure. `run` in this folder does all of it on a machine with a GPU and nothing else; `pack` makes what it needs.

mod autotune;
mod equal;
mod faults;
mod golden;
mod pack_rehearsal;
mod programs;
mod rig;
mod text;
