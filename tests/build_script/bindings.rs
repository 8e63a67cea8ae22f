//! Bindings generated with libclang, and the committed bindings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolkit::{NO_LIBCLANG, Run, Sandbox, path_with};

const SNAPSHOT: &str = "src/sys/cuda/bindings.rs";

/// A sandbox with a fake toolkit. Runs read its headers and compile nothing.
struct Bindings {
    sandbox: Sandbox,
    home: PathBuf,
}

impl Bindings {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.write(
            "crate/csrc/kernels.h",
            "typedef __SIZE_TYPE__ size_t;\nint hzk_one(int rows, float *out);\nsize_t hzk_scratch(int rows);\nint helper(void);\n",
        );
        let home = sandbox.toolkit("cuda", 120);
        Bindings { sandbox, home }
    }

    fn run(&self, more: &[(&str, &str)]) -> Run {
        let path = path_with(&self.sandbox.at("tools"));
        let own = [("CUDA_HOME", self.home.to_str().unwrap()), ("PATH", &path), ("HZ_CUDA", "check")];
        self.sandbox.run(&[&own, more].concat())
    }

    fn committed(&self) -> String {
        fs::read_to_string(self.sandbox.at("crate").join(SNAPSHOT)).unwrap()
    }

    fn used(&self) -> String {
        fs::read_to_string(self.sandbox.at("out/bindings.rs")).unwrap()
    }
}

/// This machine's libclang, if it can parse headers.
fn libclang() -> Option<String> {
    let found = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/libclang")).output().unwrap();
    if !found.status.success() {
        println!("skipped: this machine has no libclang");
        return None;
    }
    Some(String::from_utf8(found.stdout).unwrap().trim_end().to_string())
}

#[test]
fn without_libclang_the_committed_bindings_are_used_with_one_warning() {
    let bindings = Bindings::new();
    let run = bindings.run(&[]);
    assert!(run.succeeded, "{:?}", run.lines);
    let warnings = run.with("cargo::warning=");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in [SNAPSHOT, NO_LIBCLANG, "libclang-dev", "LIBCLANG_PATH"] {
        assert!(warnings[0].contains(part), "`{part}` is not in: {}", warnings[0]);
    }
    assert_eq!(bindings.used(), "// committed");
    for (word, part) in [("check", "libclang-dev"), ("write", "libclang-dev"), ("read", "check, write")] {
        let run = bindings.run(&[("HZ_CUDA_BINDINGS", word)]);
        assert!(!run.succeeded && run.with("cargo::error=")[0].contains(part), "{:?}", run.lines);
    }
    assert_eq!(bindings.committed(), "// committed");
}

#[test]
fn with_libclang_the_bindings_are_generated_from_the_headers() {
    let Some(libclang) = libclang() else { return };
    let bindings = Bindings::new();
    bindings.sandbox.write(
        "cuda/include/cuda.h",
        "enum CUkind { CU_USED = 3, CU_OTHER = 4 }; int cuUsed(enum CUkind kind); int cuOther(void);",
    );
    bindings.sandbox.write("crate/src/ops/cuda/user.rs", "cuUsed(CU_USED) // not cuOther");
    let run = |more: &[(&str, &str)]| bindings.run(&[&[("LIBCLANG_PATH", libclang.as_str())], more].concat());

    let fresh = run(&[]);
    assert!(fresh.succeeded && fresh.with("cargo::warning=").is_empty(), "{:?}", fresh.lines);
    let used = bindings.used();
    for (name, is_bound) in [
        ("hzk_one", true),
        ("helper", false),
        ("cuUsed", true),
        ("cuOther", false),
        ("CU_USED", true),
        ("CU_OTHER", false),
    ] {
        assert_eq!(used.contains(name), is_bound, "{name}: {used}");
    }
    // The sandbox has no rustfmt, so tokens are separated by spaces.
    let packed: String = used.split_whitespace().collect();
    for list in [
        "(kernels,$then:ident$($with:tt)*)=>{$then!{$($with)*fnhzk_one(rows:std::ffi::c_int,out:*mutf32)->std::ffi::c_int;}};",
        "(scratch,$then:ident$($with:tt)*)=>{$then!{$($with)*fnhzk_scratch(rows:std::ffi::c_int)->usize;}};",
        "(driver,$then:ident$($with:tt)*)=>{$then!{$($with)*fncuUsed(kind:CUkind)->std::ffi::c_int;}};",
    ] {
        assert!(packed.contains(list), "{list} is not in: {used}");
    }
    let watched = fresh.with("cargo::rerun-if-changed=");
    assert!(watched.contains(&"src/sys/cuda") && watched.contains(&"src/ops/cuda"), "{watched:?}");
    assert_eq!(bindings.committed(), "// committed");

    let differs = run(&[("HZ_CUDA_BINDINGS", "check")]);
    assert!(!differs.succeeded);
    let errors = differs.with("cargo::error=");
    for part in [SNAPSHOT, "line 1", "`// committed` is committed", "HZ_CUDA_BINDINGS=write"] {
        assert!(errors[0].contains(part), "`{part}` is not in: {}", errors[0]);
    }
    assert!(run(&[("HZ_CUDA_BINDINGS", "write")]).succeeded);
    assert_eq!(bindings.committed(), used);
    assert!(run(&[("HZ_CUDA_BINDINGS", "check")]).succeeded);
}

#[test]
fn headers_that_do_not_parse_are_named_and_the_committed_bindings_are_used() {
    let Some(libclang) = libclang() else { return };
    let bindings = Bindings::new();
    fs::remove_file(bindings.home.join("include/cublasLt.h")).unwrap();
    let run = bindings.run(&[("LIBCLANG_PATH", &libclang)]);
    assert!(run.succeeded, "{:?}", run.lines);
    assert!(run.with("cargo::warning=")[0].contains("cublasLt.h"), "{:?}", run.lines);
    assert_eq!(bindings.used(), "// committed");
}
