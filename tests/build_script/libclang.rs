//! The check for libclang (`.ci/libclang`) in made-up folders.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs the check in a folder with these libraries, beside Clang's headers or without.
fn found(libraries: &[&str], headers: bool) -> Option<String> {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("lib");
    fs::create_dir(&folder).unwrap();
    for name in libraries {
        fs::write(folder.join(name), b"\x7fELF").unwrap();
    }
    if headers {
        fs::create_dir_all(folder.join("clang/14/include")).unwrap();
        fs::write(folder.join("clang/14/include/stddef.h"), "").unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/libclang");
    let output = Command::new(script).arg(&folder).env("PATH", "/usr/bin:/bin").output().unwrap();
    let path = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.success(), !path.is_empty(), "{path}");
    (!path.is_empty()).then(|| Path::new(path.trim()).file_name().unwrap().to_str().unwrap().to_string())
}

#[test]
fn the_libraries_that_bindgen_loads_are_found() {
    for name in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.14.0.6", "libclang-9.so.1"]
    {
        assert_eq!(found(&["libclang-cpp.so.14", name], true).as_deref(), Some(name));
    }
}

#[test]
fn other_libraries_are_not_taken_for_libclang() {
    for libraries in [&["libclang-cpp.so.14"][..], &["libclang-cpp.so", "libclangTooling.so"], &[]] {
        assert_eq!(found(libraries, true), None, "{libraries:?}");
    }
}

#[test]
fn a_libclang_without_its_headers_is_not_enough() {
    // A clang on PATH would know headers of its own.
    if !["/usr/bin/clang", "/bin/clang"].iter().any(|clang| Path::new(clang).exists()) {
        assert_eq!(found(&["libclang.so.1"], false), None);
    }
}
