//! The bindings: fresh by libclang, or the committed ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolkit::{NO_LIBCLANG, Room, Run, path_with};

const SNAPSHOT: &str = "src/sys/cuda/bindings.rs";

/// A room with a toolkit; runs read its headers and compile nothing.
struct Bindings {
    room: Room,
    home: PathBuf,
}

impl Bindings {
    fn new() -> Self {
        let room = Room::new();
        room.write(
            "crate/csrc/kernels.h",
            "typedef __SIZE_TYPE__ size_t;\nint hzk_one(int rows, float *out);\nsize_t hzk_room(int rows);\nint helper(void);\n",
        );
        let home = room.toolkit("cuda", 120);
        Bindings { room, home }
    }

    fn run(&self, more: &[(&str, &str)]) -> Run {
        let path = path_with(&self.room.at("tools"));
        let own = [("CUDA_HOME", self.home.to_str().unwrap()), ("PATH", &path), ("HZ_CUDA", "check")];
        self.room.run(&[&own, more].concat())
    }

    fn committed(&self) -> String {
        fs::read_to_string(self.room.at("crate").join(SNAPSHOT)).unwrap()
    }

    fn used(&self) -> String {
        fs::read_to_string(self.room.at("out/bindings.rs")).unwrap()
    }
}

/// This machine's libclang, if there is one that parses.
fn libclang() -> Option<String> {
    let found = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/libclang")).output().unwrap();
    if !found.status.success() {
        println!("skipped: there is no libclang here");
        return None;
    }
    Some(String::from_utf8(found.stdout).unwrap().trim_end().to_string())
}

#[test]
fn without_libclang_the_committed_bindings_stand_in_with_one_warning() {
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
fn with_libclang_the_bindings_are_those_of_the_headers() {
    let Some(libclang) = libclang() else { return };
    let bindings = Bindings::new();
    bindings.room.write(
        "cuda/include/cuda.h",
        "enum CUkind { CU_USED = 3, CU_OTHER = 4 }; int cuUsed(enum CUkind kind); int cuOther(void);",
    );
    bindings.room.write("crate/src/ops/cuda/user.rs", "cuUsed(CU_USED) // not cuOther");
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
    // Without rustfmt, which is not among this room's tools, every token stands apart.
    let packed: String = used.split_whitespace().collect();
    for list in [
        "(kernels,$then:ident$($with:tt)*)=>{$then!{$($with)*fnhzk_one(rows:std::ffi::c_int,out:*mutf32)->std::ffi::c_int;}};",
        "(scratch,$then:ident$($with:tt)*)=>{$then!{$($with)*fnhzk_room(rows:std::ffi::c_int)->usize;}};",
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
fn headers_that_do_not_parse_are_named_and_the_committed_bindings_stand_in() {
    let Some(libclang) = libclang() else { return };
    let bindings = Bindings::new();
    fs::remove_file(bindings.home.join("include/cublasLt.h")).unwrap();
    let run = bindings.run(&[("LIBCLANG_PATH", &libclang)]);
    assert!(run.succeeded, "{:?}", run.lines);
    assert!(run.with("cargo::warning=")[0].contains("cublasLt.h"), "{:?}", run.lines);
    assert_eq!(bindings.used(), "// committed");
}
