//! The build script in fake environments, with a fake toolkit whose compiler only records its
//! arguments.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A temporary folder with a crate, fake toolkits and the recorded arguments of their compilers.
pub struct Sandbox {
    root: tempfile::TempDir,
}

pub struct Run {
    pub succeeded: bool,
    pub lines: Vec<String>,
    /// The arguments of each compilation by nvcc.
    compiled: Vec<String>,
}

pub const NO_LIBCLANG: &str = "libclang was not found";

impl Run {
    pub fn with(&self, begin: &str) -> Vec<&str> {
        self.lines.iter().filter_map(|line| line.strip_prefix(begin)).collect()
    }

    /// The warnings, except that of a missing libclang.
    fn warnings(&self) -> Vec<&str> {
        let mut warnings = self.with("cargo::warning=");
        warnings.retain(|warning| !warning.contains(NO_LIBCLANG));
        warnings
    }

    fn has_kernels(&self) -> bool {
        self.lines.iter().any(|line| line == "cargo::rustc-cfg=hz_cuda")
    }
}

impl Sandbox {
    pub fn new() -> Self {
        let sandbox = Sandbox { root: tempfile::tempdir().unwrap() };
        for (path, text) in [
            ("crate/build.rs", ""),
            ("crate/csrc/build/part.rs", ""),
            ("crate/csrc/a.cu", "// a"),
            ("crate/csrc/long.cu", "// a longer one"),
            ("crate/csrc/k.h", "// k"),
            ("crate/src/sys/cuda/bindings.rs", "// committed"),
            ("tools/g++", ""),
            ("empty/nothing", ""),
        ] {
            sandbox.write(path, text);
        }
        sandbox
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    /// Creates a fake toolkit. Its nvcc supports architectures up to `newest`, records its
    /// arguments, and fails on sources that contain `wrong`.
    pub fn toolkit(&self, path: &str, newest: u32) -> PathBuf {
        let log = self.at("compiled");
        let known = [80, 86, 89, 90, 100, 120].into_iter().filter(|number| *number <= newest);
        let known: Vec<String> = known.map(|number| format!("compute_{number}")).collect();
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --list-gpu-arch ] && {{ echo '{}'; exit; }}\n\
             case \" $* \" in *\" -c \"*) ;; *) exit ;; esac\necho \"$@\" >>'{}'\n\
             for word; do case $word in *.cu) ! grep wrong $word || {{ echo 'no such instruction' >&2; exit 2; }} ;; esac; out=$word; done\n\
             echo object >\"$out\"\n",
            known.join("\n"),
            log.display()
        );
        self.write(&format!("{path}/bin/nvcc"), &script);
        for header in ["cuda.h", "cuda_runtime.h", "cuda_runtime_api.h", "cublasLt.h"] {
            self.write(&format!("{path}/include/{header}"), "");
        }
        self.write(&format!("{path}/lib64/libcudart_static.a"), "");
        let nvcc = self.at(path).join("bin/nvcc");
        fs::set_permissions(&nvcc, fs::Permissions::from_mode(0o755)).unwrap();
        self.at(path)
    }

    /// Runs the build script as cargo does, by default without libclang.
    pub fn run(&self, variables: &[(&str, &str)]) -> Run {
        let out = self.at("out");
        fs::create_dir_all(&out).unwrap();
        let _ = fs::remove_file(self.at("compiled"));
        let output = Command::new(env!("HZ_BUILD_SCRIPT"))
            .env_clear()
            .env("PATH", self.at("tools"))
            .env("AR", program("ar"))
            .env("LIBCLANG_PATH", self.at("empty"))
            .env("OUT_DIR", out)
            .envs([("NUM_JOBS", "2"), ("OPT_LEVEL", "3")])
            .envs([("HOST", "x86_64-unknown-linux-gnu"), ("TARGET", "x86_64-unknown-linux-gnu")])
            .envs(variables.iter().copied())
            .current_dir(self.at("crate"))
            .output()
            .unwrap();
        assert!(output.status.success(), "the script reports errors by lines, not by its status: {output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        // The crate cc prints the same lines with a single colon.
        let line = |line: &str| match line.strip_prefix("cargo:") {
            Some(rest) => format!("cargo::{}", rest.trim_start_matches(':')),
            None => line.to_string(),
        };
        let lines: Vec<String> = lines.lines().map(line).collect();
        let compiled = fs::read_to_string(self.at("compiled")).unwrap_or_default();
        let mut compiled: Vec<String> = compiled.lines().map(str::to_string).collect();
        compiled.sort_unstable();
        // Cargo fails the build on these lines.
        let succeeded = !lines.iter().any(|line| line.starts_with("cargo::error="));
        Run { succeeded, lines, compiled }
    }
}

/// The path of a program of this machine.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file()).unwrap()
}

/// A `PATH` of this folder and the folder of the system's programs, which the fake nvcc uses.
pub fn path_with(folder: &Path) -> String {
    format!("{}:{}", folder.display(), program("grep").parent().unwrap().display())
}

#[test]
fn without_a_toolkit_auto_warns_once_and_require_fails() {
    if Path::new("/usr/local/cuda/bin/nvcc").exists() {
        return println!("skipped: this machine has a toolkit in /usr/local/cuda");
    }
    let sandbox = Sandbox::new();
    for variables in [&[][..], &[("HZ_CUDA", "auto")], &[("HZ_CUDA", ""), ("CUDA_PATH", "/nowhere")]] {
        let run = sandbox.run(variables);
        assert!(run.succeeded && !run.has_kernels(), "{:?}", run.lines);
        let warnings = run.with("cargo::warning=");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in [
            "CUDA_HOME",
            "CUDA_PATH",
            "nvcc on PATH",
            "/usr/local/cuda",
            "VIRTUAL_ENV",
            "python3",
            "HZ_CUDA=off",
        ] {
            assert!(warnings[0].contains(part), "`{part}` is not in: {}", warnings[0]);
        }
        assert_eq!(warnings[0].contains("/nowhere"), variables.len() == 2);
    }
    let run = sandbox.run(&[("HZ_CUDA", "require")]);
    assert!(!run.succeeded);
    let errors = run.with("cargo::error=");
    assert!(errors[0].starts_with("HZ_CUDA=require, but no CUDA toolkit"), "{errors:?}");
    assert!(run.with("cargo::warning=").is_empty());

    let run = sandbox.run(&[("TARGET", "aarch64-apple-darwin")]);
    assert!(run.succeeded && run.with("cargo::warning=")[0].contains("aarch64-apple-darwin"));
}

#[test]
fn the_library_has_a_soname_and_a_link_of_that_name() {
    let sandbox = Sandbox::new();
    let out = sandbox.at("release/build/horizon-lm/out");
    for folder in [&out, &sandbox.at("release/deps")] {
        fs::create_dir_all(folder).unwrap();
    }
    let (minor, _) = env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap();
    let soname = format!("libhorizon.so.{minor}");
    for _ in 0..2 {
        let run = sandbox.run(&[("HZ_CUDA", "off"), ("OUT_DIR", out.to_str().unwrap())]);
        assert_eq!(
            run.with("cargo::rustc-cdylib-link-arg=-Wl,"),
            [&format!("-soname,{soname}"), "-z,nodelete"]
        );
        for folder in ["release", "release/deps"] {
            let target = fs::read_link(sandbox.at(folder).join(&soname)).unwrap();
            assert_eq!(target, Path::new("libhorizon.so"), "{folder}");
        }
    }
    // In folders of another layout no link is made.
    assert!(sandbox.run(&[("HZ_CUDA", "off")]).succeeded);
    assert_eq!(fs::read_dir(sandbox.at("out")).unwrap().count(), 0);
}

#[test]
fn a_toolkit_without_a_cpp_compiler_is_named() {
    let sandbox = Sandbox::new();
    let (home, empty) = (sandbox.toolkit("cuda", 120), sandbox.at("empty"));
    let home = home.to_str().unwrap();
    let run = |more: &[(&str, &str)]| {
        sandbox.run(&[&[("CUDA_HOME", home), ("PATH", empty.to_str().unwrap())], more].concat())
    };
    let auto = run(&[]);
    assert!(auto.succeeded && !auto.has_kernels(), "{:?}", auto.lines);
    let required = run(&[("HZ_CUDA", "require")]);
    assert!(!required.succeeded && required.compiled.is_empty());
    for messages in [auto.with("cargo::warning="), required.with("cargo::error=")] {
        assert_eq!(messages.len(), 1, "{messages:?}");
        for part in [home, "no g++ on PATH", "package g++", "NVCC_CCBIN"] {
            assert!(messages[0].contains(part), "`{part}` is not in: {}", messages[0]);
        }
    }
    for named in [("NVCC_CCBIN", "/usr/bin/clang++"), ("NVCC_APPEND_FLAGS", "-ccbin=/usr/bin/clang++")] {
        assert!(run(&[("HZ_CUDA", "check"), named]).has_kernels(), "{named:?}");
    }
}

#[test]
fn check_compiles_no_kernel() {
    let sandbox = Sandbox::new();
    let home = sandbox.toolkit("cuda", 120);
    let run = sandbox.run(&[("CUDA_HOME", home.to_str().unwrap()), ("HZ_CUDA", "check")]);
    assert!(run.succeeded && run.has_kernels() && run.compiled.is_empty(), "{:?}", run.lines);
    assert!(run.with("cargo::rustc-link-").is_empty(), "{:?}", run.lines);
    assert_eq!(fs::read_to_string(sandbox.at("out/bindings.rs")).unwrap(), "// committed");
    let refused = sandbox.run(&[("HZ_CUDA", "check"), ("CUDA_HOME", "/nowhere")]);
    if !Path::new("/usr/local/cuda/bin/nvcc").exists() {
        assert!(refused.with("cargo::error=")[0].starts_with("HZ_CUDA=check, but no CUDA toolkit"));
    }
}

#[test]
fn off_is_silent_and_unknown_values_are_refused() {
    let sandbox = Sandbox::new();
    let toolkit = sandbox.toolkit("cuda", 120);
    let run = sandbox.run(&[("HZ_CUDA", "off"), ("CUDA_HOME", toolkit.to_str().unwrap())]);
    assert!(run.succeeded && !run.has_kernels() && run.compiled.is_empty());
    assert!(run.with("cargo::warning=").is_empty());
    let run = sandbox.run(&[("HZ_CUDA", "yes")]);
    assert!(!run.succeeded);
    assert_eq!(run.with("cargo::error="), ["HZ_CUDA is `yes`; it is one of auto, require, check, off"]);
}

#[test]
fn a_toolkit_is_found_in_every_search_place() {
    let sandbox = Sandbox::new();
    let named = sandbox.toolkit("named", 120);
    let path = path_with(&sandbox.at("tools"));
    let linked = sandbox.toolkit("versions/13", 120);
    fs::create_dir_all(sandbox.at("bin")).unwrap();
    symlink(linked.join("bin/nvcc"), sandbox.at("bin/nvcc")).unwrap();
    symlink(sandbox.at("tools/g++"), sandbox.at("bin/g++")).unwrap();
    let on_path = path_with(&sandbox.at("bin"));
    let packaged = sandbox.toolkit("venv/lib/python3.11/site-packages/nvidia/cu13", 120);
    let (venv, named_by) = (sandbox.at("venv"), named.to_str().unwrap());
    let mut cases = vec![
        (vec![("CUDA_HOME", named_by), ("PATH", &on_path)], &named),
        (vec![("CUDA_PATH", named_by), ("PATH", &on_path)], &named),
        (vec![("CUDA_HOME", "/nowhere"), ("PATH", &on_path)], &linked),
    ];
    if !Path::new("/usr/local/cuda/bin/nvcc").exists() {
        cases.push((vec![("VIRTUAL_ENV", venv.to_str().unwrap()), ("PATH", &path)], &packaged));
    }
    for (variables, home) in cases {
        let run = sandbox.run(&variables);
        assert!(run.succeeded && run.has_kernels(), "{variables:?}: {:?}", run.lines);
        assert!(run.warnings().is_empty(), "{:?}", run.lines);
        let search = run.with("cargo::rustc-link-search=native=");
        assert!(
            search.contains(&fs::canonicalize(home).unwrap().join("lib64").to_str().unwrap()),
            "{search:?}"
        );
        assert_eq!(run.with("cargo::rustc-link-lib=static="), ["horizon_kernels", "cudart_static"]);
        let watched = run.with("cargo::rerun-if-changed=");
        assert!(["csrc", "build.rs"].iter().all(|path| watched.contains(path)), "{watched:?}");
        assert!(watched.contains(&home.join("bin/nvcc").to_str().unwrap()), "{watched:?}");
        assert!(
            watched.iter().all(|path| sandbox.at("crate").join(path).exists()),
            "always stale: {watched:?}"
        );
        assert_eq!(fs::read_to_string(sandbox.at("out/bindings.rs")).unwrap(), "// committed");
    }
}

#[test]
fn only_changed_sources_are_compiled_again() {
    let sandbox = Sandbox::new();
    let (home, path) = (sandbox.toolkit("cuda", 120), path_with(&sandbox.at("tools")));
    let home = [("CUDA_HOME", home.to_str().unwrap()), ("PATH", path.as_str())];
    let compiled = |more: &[(&str, &str)]| {
        let run = sandbox.run(&[&home, more].concat());
        assert!(run.succeeded && run.has_kernels(), "{:?}", run.lines);
        let name = |line: &String| line.split(' ').find(|word| word.ends_with(".cu")).unwrap().to_string();
        let mut names: Vec<String> = run.compiled.iter().map(name).collect();
        names.sort_unstable();
        names
    };
    let both = ["csrc/a.cu", "csrc/long.cu"];
    assert_eq!(compiled(&[]), both);
    assert_eq!(compiled(&[]), [""; 0]);
    sandbox.write("crate/csrc/a.cu", "// another");
    assert_eq!(compiled(&[]), both[..1]);
    sandbox.write("crate/csrc/k.h", "// another");
    assert_eq!(compiled(&[]), both);
    assert_eq!(compiled(&[("HZ_CUDA_ARCH", "sm_90a")]), both);
    let flags = [("HZ_CUDA_ARCH", "sm_90a"), ("NVCC_APPEND_FLAGS", "-g")];
    assert_eq!(compiled(&flags), both);
    let (other, objects) = (sandbox.at("other"), sandbox.at("out"));
    fs::create_dir(&other).unwrap();
    let other = [("OUT_DIR", other.to_str().unwrap()), ("HZ_CUDA_OBJECTS", objects.to_str().unwrap())];
    assert_eq!(compiled(&[flags, other].concat()), [""; 0]);
    let objects = fs::read_dir(sandbox.at("out")).unwrap().flatten();
    let objects = objects.filter(|entry| entry.path().extension().is_some_and(|e| e == "o")).count();
    assert_eq!(objects, 2, "objects of earlier builds were not removed");
    let archive = sandbox.at("out/libhorizon_kernels.a");
    let members = Command::new(program("ar")).arg("t").arg(archive).output().unwrap().stdout;
    let members = String::from_utf8(members).unwrap();
    assert!(members.lines().count() == 2 && members.lines().is_sorted(), "{members}");
}

#[test]
fn the_host_compiler_is_chosen_by_nvcc() {
    let sandbox = Sandbox::new();
    let home = sandbox.toolkit("cuda", 120);
    symlink(program("grep"), sandbox.at("empty/grep")).unwrap();
    let (home, path) = (home.to_str().unwrap(), sandbox.at("empty"));
    let run = sandbox.run(&[
        ("CUDA_HOME", home),
        ("PATH", path.to_str().unwrap()),
        ("NVCC_CCBIN", "/usr/bin/clang++"),
    ]);
    assert!(run.succeeded && run.has_kernels() && run.warnings().is_empty(), "{:?}", run.lines);
    assert!(run.compiled.len() == 2 && !run.compiled.concat().contains("-ccbin"), "{:?}", run.compiled);
}

#[test]
fn targets_are_the_given_ones_or_all_that_the_toolkit_supports() {
    let sandbox = Sandbox::new();
    let (new, old, path) =
        (sandbox.toolkit("new", 120), sandbox.toolkit("old", 100), path_with(&sandbox.at("tools")));
    let run = |home: &Path, arch: &str| {
        sandbox.run(&[("CUDA_HOME", home.to_str().unwrap()), ("PATH", &path), ("HZ_CUDA_ARCH", arch)])
    };
    let codes = |run: &Run| -> Vec<String> {
        let words = run.compiled[0].split(' ').filter_map(|word| word.strip_prefix("-gencode="));
        words.map(str::to_string).collect()
    };
    let all = run(&new, "");
    let text = ["80", "86", "89", "90a", "100a", "120a"].map(|n| format!("arch=compute_{n},code=sm_{n}"));
    let ptx = "arch=compute_90,code=compute_90".to_string();
    assert_eq!(codes(&all), [&text[..], std::slice::from_ref(&ptx)].concat());
    assert!(all.warnings().is_empty());

    let most = run(&old, "");
    assert_eq!(codes(&most), [&text[..5], &[ptx]].concat());
    let warnings = most.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("too old for sm_120a"), "{warnings:?}");

    let two = run(&new, "sm_90a, compute_100");
    assert_eq!(codes(&two), [text[3].as_str(), "arch=compute_100,code=compute_100"]);
    for bad in ["90", "sm_", "sm_9", "sm_9x0", "hopper"] {
        let refused = run(&new, bad);
        assert!(!refused.succeeded, "{bad}");
        assert!(refused.with("cargo::error=")[0].contains(&format!("`{bad}`")), "{:?}", refused.lines);
    }
}

#[test]
fn a_kernel_that_does_not_compile_stops_the_build() {
    let sandbox = Sandbox::new();
    let (home, path) = (sandbox.toolkit("cuda", 120), path_with(&sandbox.at("tools")));
    sandbox.write("crate/csrc/a.cu", "wrong");
    for mode in ["auto", "require"] {
        let run = sandbox.run(&[
            ("CUDA_HOME", home.to_str().unwrap()),
            ("PATH", &path),
            ("HZ_CUDA", mode),
            ("TOKEN", "hush"),
        ]);
        assert!(!run.succeeded && !run.has_kernels());
        let errors = run.with("cargo::error=").join("\n");
        assert!(errors.contains("csrc/a.cu") && errors.contains("no such instruction"), "{errors}");
        assert!(errors.contains("HZ_CUDA=off"), "{errors}");
        assert!(!errors.contains("hush"), "the environment was printed: {errors}");
    }
}
