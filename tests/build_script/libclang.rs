//! The search for libclang (`.ci/libclang`) in folders with fake libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of fake libraries.
struct Folder(tempfile::TempDir);

impl Folder {
    /// Adds a library that parses every header (`headers`), or reports one diagnostic.
    fn with(self, name: &str, headers: bool) -> Self {
        let source = format!(
            "void *clang_createIndex(int a, int b) {{ return (void *)1; }}\n\
             void *clang_parseTranslationUnit(void) {{ return (void *)1; }}\n\
             unsigned clang_getNumDiagnostics(void *unit) {{ return {}; }}\n",
            u8::from(!headers)
        );
        let text = self.0.path().join("stub.c");
        fs::write(&text, source).unwrap();
        let made =
            Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(self.at(name)).arg(&text).status();
        assert!(made.unwrap().success());
        self
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The name of the library that the script finds if `LIBCLANG_PATH` is this path.
    fn found(&self, path: &Path) -> Option<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/libclang");
        let output = Command::new(script).env("LIBCLANG_PATH", path).output().unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.success(), !found.is_empty(), "{found}");
        Some(Path::new(found.trim_end()).file_name()?.to_str().unwrap().to_owned())
    }
}

fn folder() -> Folder {
    Folder(tempfile::tempdir().unwrap())
}

#[test]
fn the_libraries_that_bindgen_loads_are_found() {
    for name in ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.14.0.6", "libclang-9.so.1"]
    {
        let folder = folder().with("libclang-cpp.so.14", true).with(name, true);
        assert_eq!(folder.found(folder.0.path()).as_deref(), Some(name));
    }
}

#[test]
fn libclang_cpp_alone_is_refused() {
    for name in ["libclang-cpp.so.14", "libclang-cpp.so", "libclangTooling.so"] {
        let folder = folder().with(name, true);
        assert_eq!(folder.found(folder.0.path()), None, "{name}");
        assert_eq!(folder.found(&folder.at(name)), None, "{name}");
    }
}

#[test]
fn a_libclang_without_its_headers_is_refused() {
    let folder = folder().with("libclang.so.1", false);
    assert_eq!(folder.found(folder.0.path()), None);
}

#[test]
fn the_highest_version_is_taken_unless_a_file_is_named() {
    let folder =
        folder().with("libclang.so", true).with("libclang-9.so", true).with("libclang-16.so.1", true);
    assert_eq!(folder.found(folder.0.path()).as_deref(), Some("libclang-16.so.1"));
    assert_eq!(folder.found(&folder.at("libclang-9.so")).as_deref(), Some("libclang-9.so"));
    assert_eq!(folder.found(&folder.at("nothing")), None);
}

#[test]
fn files_that_are_no_libraries_are_skipped() {
    let folder = folder().with("libclang-9.so", true);
    fs::write(folder.at("libclang-20.so"), "INPUT(libclang.so.20)").unwrap();
    fs::create_dir(folder.at("libclang-21.so")).unwrap();
    std::os::unix::fs::symlink("gone", folder.at("libclang-22.so")).unwrap();
    assert_eq!(folder.found(folder.0.path()).as_deref(), Some("libclang-9.so"));
}
