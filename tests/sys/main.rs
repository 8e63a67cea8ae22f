//! The system level: CUDA's libraries, as they are linked and found.

#[cfg(hz_cuda)]
mod cuda;

/// Without kernels there is one thing to test: that this is said.
#[cfg(not(hz_cuda))]
#[test]
fn cuda_build() {
    let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!must, "HZ_REQUIRE_GPU=1, but this build has no CUDA kernels: HZ_CUDA=require says why");
    println!("skipped: this build has no CUDA kernels");
}
