//! Sets the cfg `hz_cuda`, which horizon-lm's build script sets only for its own targets, and
//! `HZ_CUDA_TOOLKIT`, the folder of the CUDA toolkit.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(hz_cuda)");
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(toolkit) = std::env::var("DEP_HORIZON_CUDA_TOOLKIT") {
        println!("cargo::rustc-cfg=hz_cuda");
        println!("cargo::rustc-env=HZ_CUDA_TOOLKIT={toolkit}");
    }
}
