//! The library of emulated CUDA: the launchers of `csrc` and a plain cuBLASLt, built with
//! `tests/emulator/Makefile`.

use std::path::{Path, PathBuf};
use std::process::Command;

use once_cell::sync::OnceCell;

use crate::root;

/// Programs that the build needs, and their Debian packages.
const PROGRAMS: [(&str, &str); 3] = [("flock", "util-linux"), ("make", "make"), ("g++", "g++")];

/// Returns the path of `libemulated.so`: the value of `HZ_EMULATED_LIBRARY` (for test packs), or
/// the one in cargo's target folder, built if necessary. Concurrent test programs wait for each
/// other. The source folder is only read.
///
/// # Panics
/// If a program that the build needs is not installed, or the build fails.
pub fn library() -> &'static Path {
    static LIBRARY: OnceCell<PathBuf> = OnceCell::new();
    LIBRARY.get_or_init(|| {
        if let Some(built) = std::env::var_os("HZ_EMULATED_LIBRARY") {
            return PathBuf::from(built);
        }
        let missing: Vec<String> = PROGRAMS
            .into_iter()
            .filter(|(program, _)| !is_installed(program))
            .map(|(program, package)| format!("{program} (Debian package {package})"))
            .collect();
        assert!(
            missing.is_empty(),
            "building the emulated CUDA library needs {}, which PATH does not have: install it, or set HZ_NO_EMULATOR=1 to skip \
                         tests on emulated CUDA",
            missing.join(" and ")
        );
        let build = build_folder();
        std::fs::create_dir_all(&build).unwrap_or_else(|e| panic!("cannot create {}: {e}", build.display()));
        // Make does not support spaces in paths. A relative path avoids those above the repository.
        let named = build.strip_prefix(root()).map_or(build.clone(), |inside| Path::new("../..").join(inside));
        assert!(
            !named.to_string_lossy().contains(' '),
            "make cannot build in {}, because the path has a space: set CARGO_TARGET_DIR, or HZ_NO_EMULATOR=1 to skip tests on \
                         emulated CUDA",
            build.display()
        );
        let made = Command::new("flock")
            .current_dir(root().join("tests/emulator"))
            .arg(build.join("library.lock"))
            .args(["make", "--silent", "library", "-j2"])
            .arg(format!("BUILD={}", named.display()))
            .env("CUDA_HOME", env!("HZ_CUDA_TOOLKIT"))
            // Cargo's MAKEFLAGS refer to its own job server.
            .env_remove("MAKEFLAGS")
            .output()
            .expect("flock runs");
        assert!(made.status.success(), "make library: {}", String::from_utf8_lossy(&made.stderr));
        build.join("libemulated.so")
    })
}

/// Returns `<target>/emulator` for the test program `<target>/<profile>/deps/<test>`.
fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    test.ancestors().nth(3).expect("<target>/<profile>/deps/<test>").join("emulator")
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
