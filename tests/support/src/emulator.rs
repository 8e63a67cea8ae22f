//! The library of emulated CUDA: the launchers of `csrc` and a plain cuBLASLt, built by `tests/emulator/Makefile`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::root;

/// Programs that the build runs, and the Debian packages they are in.
const PROGRAMS: [(&str, &str); 3] = [("flock", "util-linux"), ("make", "make"), ("g++", "g++")];

/// Returns the path of `libemulated.so`: the one that `HZ_EMULATED_LIBRARY` names, for programs that lie in a pack, or the one
/// in cargo's target folder, built if necessary. Test programs that run at the same time wait for each other. The source
/// folder is only read.
///
/// # Panics
/// If a program that the build needs is not installed, or the build fails.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
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
            "building the emulated CUDA library needs {}, not found on PATH: install what is missing, or set HZ_NO_EMULATOR=1 to \
             skip tests on emulated CUDA",
            missing.join(" and ")
        );
        let build = build_folder();
        std::fs::create_dir_all(&build).unwrap_or_else(|e| panic!("cannot create {}: {e}", build.display()));
        // Make knows no path with spaces; most are in front of the repository.
        let named = build.strip_prefix(root()).map_or(build.clone(), |inside| Path::new("../..").join(inside));
        assert!(
            !named.to_string_lossy().contains(' '),
            "make cannot build in {}, whose path has a space: set CARGO_TARGET_DIR, or HZ_NO_EMULATOR=1 to skip tests on emulated \
             CUDA",
            build.display()
        );
        let made = Command::new("flock")
            .current_dir(root().join("tests/emulator"))
            .arg(build.join("library.lock"))
            .args(["make", "--silent", "library", "-j2"])
            .arg(format!("BUILD={}", named.display()))
            .env("CUDA_HOME", env!("HZ_CUDA_TOOLKIT"))
            // Cargo's own make jobs are not ours.
            .env_remove("MAKEFLAGS")
            .output()
            .expect("flock runs");
        assert!(made.status.success(), "make library: {}", String::from_utf8_lossy(&made.stderr));
        build.join("libemulated.so")
    })
}

/// `<target>/emulator`, of the test program `<target>/<profile>/deps/<test>`.
fn build_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    test.ancestors().nth(3).expect("<target>/<profile>/deps/<test>").join("emulator")
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
