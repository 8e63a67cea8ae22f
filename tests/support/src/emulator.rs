//! The library of emulated CUDA: the launchers of `csrc` and a plain cuBLASLt, built by `tests/emulator/Makefile`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::root;

/// Returns the path of `tests/emulator/build/libemulated.so`, built if necessary. Test programs that run at the same time
/// wait for each other.
///
/// # Panics
/// If the build fails.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let emulator = root().join("tests/emulator");
        std::fs::create_dir_all(emulator.join("build")).expect("a folder for the emulated device");
        let made = Command::new("flock")
            .current_dir(&emulator)
            .args(["build/library.lock", "make", "--silent", "library", "-j2"])
            .env("CUDA_HOME", env!("HZ_CUDA_TOOLKIT"))
            // Cargo's own make jobs are not ours.
            .env_remove("MAKEFLAGS")
            .output()
            .expect("make");
        assert!(made.status.success(), "make library: {}", String::from_utf8_lossy(&made.stderr));
        emulator.join("build/libemulated.so")
    })
}
