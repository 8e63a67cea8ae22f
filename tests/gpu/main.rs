//! The engine on CUDA: on a GPU where there is one, and on the emulated kernels of `tests/emulator` behind the fake CUDA
//! wherever kernels are built. Without a GPU its part is skipped, aloud; `HZ_REQUIRE_GPU=1` makes that a
//! failure. `run` in this folder does all of it on a machine with a GPU and nothing else; `pack` makes what it needs.

#[cfg(hz_cuda)]
mod equal;
mod fault_injection;
#[cfg(hz_cuda)]
mod faults;
#[cfg(hz_cuda)]
mod golden;
mod pack_rehearsal;
#[cfg(hz_cuda)]
mod programs;
#[cfg(hz_cuda)]
mod rig;
#[cfg(hz_cuda)]
mod text;

#[cfg(not(hz_cuda))]
#[test]
fn this_build_has_kernels() {
    let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!must, "HZ_REQUIRE_GPU=1, but this build has no CUDA kernels");
    println!("skipped on a GPU: this build has no kernels");
}
