//! The system level: linking and finding CUDA's libraries.

#[cfg(hz_cuda)]
mod cuda;

/// A build without kernels reports the skipped tests.
#[cfg(not(hz_cuda))]
#[test]
fn cuda_build() {
    let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!must, "HZ_REQUIRE_GPU=1, but this build has no CUDA kernels; HZ_CUDA=require reports why");
    println!("skipped: this build has no CUDA kernels");
}
