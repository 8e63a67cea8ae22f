//! Compiles `csrc/*.cu` and generates the bindings if a CUDA toolkit is found; otherwise prints one
//! warning.
//!
//! | variable | meaning |
//! |---|---|
//! | `HZ_CUDA` | `auto` (default): builds kernels if a toolkit is found, else warns once and builds without |
//! | | `require`: an error instead of the warning |
//! | | `check`: as `require`, but compiles no kernel; for clippy and rustdoc, which do not link |
//! | | `off`: no kernels, no warning |
//! | `HZ_CUDA_ARCH` | targets, e.g. `sm_90a` or `sm_90a,compute_90`; default: [`TARGETS`] |
//! | `CUDA_HOME`, `CUDA_PATH` | the toolkit's folder |
//! | `HZ_CUDA_OBJECTS` | a folder with the objects of another build, which are not compiled again |
//! | `NVCC_CCBIN`, `NVCC_APPEND_FLAGS` | read by nvcc itself: host compiler, more flags |
//! | `HZ_CUDA_BINDINGS` | `check`: an error if the committed bindings differ from the generated. `write`: replaces them |
//! | `LIBCLANG_PATH` | the folder of libclang, which generates the bindings |
//!
//! Sets the cfg `hz_cuda` if kernels are built, and `hz_wgmma` if they are built for Hopper's
//! `sm_90a`. Writes `OUT_DIR/bindings.rs`: generated from the toolkit's headers, or a copy of the
//! committed bindings (with one warning) if libclang is missing. Without a toolkit libclang is not
//! searched.
//!
//! The kernels and the CUDA runtime are linked statically; the driver and cuBLASLt are opened at
//! run time, so the library also works on machines without them.
//!
//! In every build the C library gets its SONAME, which `HZ_SONAME` passes to the command.

use std::cmp::Reverse;
use std::env;
use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::from_fn;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

#[path = "csrc/build/bindings.rs"]
mod bindings;
#[path = "csrc/build/toolkit.rs"]
mod toolkit;

use toolkit::{Toolkit, entries, find_toolkit};

/// Machine code for each architecture (suffix `a`: with architecture-specific features), and PTX
/// for all other devices of compute capability 9.0 and later. Devices of 8.x run the code of the
/// nearest lower 8.x.
const TARGETS: [&str; 7] = [
    "sm_80",      // A100, A30
    "sm_86",      // RTX 30, A10, A40
    "sm_89",      // RTX 40, L4, L40S
    "sm_90a",     // H100, H200, GH200
    "sm_100a",    // B200, GB200
    "sm_120a",    // RTX 50, RTX PRO 6000
    "compute_90", // PTX: B300, Thor, Spark and later devices
];

/// Flags of every compilation. Floating-point flags are nvcc's defaults: FMA contraction, exact
/// division and square root.
const FLAGS: [&str; 4] = ["-std=c++20", "-O3", "-lineinfo", "-Xcompiler=-fPIC"];

/// Environment variables that nvcc itself reads.
const NVCC_VARIABLES: [&str; 3] = ["NVCC_CCBIN", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"];

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(hz_cuda, hz_wgmma)");
    // `tests/build_script` runs this program in fake environments.
    let program = env::current_exe().expect("a program has a path");
    println!("cargo::rustc-env=HZ_BUILD_SCRIPT={}", program.display());
    name_library();
    if let Err(message) = run() {
        // Cargo prints only these lines and stops. If the script failed, cargo would print all its
        // output.
        println!("cargo::error={}", message.to_string().replace('\n', "\ncargo::error="));
    }
}

/// Links the C library with its SONAME, under which programs search for it at run time.
///
/// Versions that are compatible by semantic versioning have the same SONAME, as cargo-c makes it.
fn name_library() {
    let version =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];
    let parts = version.iter().position(|part| *part != "0").map_or(3, |first| first + 1);
    let soname = format!("libhorizon.so.{}", version[..parts].join("."));
    println!("cargo::rustc-env=HZ_SONAME={soname}");
    if !env::var("TARGET").is_ok_and(|target| target.contains("linux")) {
        return;
    }
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    // `dlclose` leaves the library in the process: threads and thread-locals may outlive the call.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // A program linked in the build tree finds the library by this link. OUT_DIR is
    // PROFILE/build/PACKAGE/out; cargo writes the library to PROFILE and PROFILE/deps.
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let Some(build) = out.ancestors().nth(2).filter(|folder| folder.ends_with("build")) else { return };
    for folder in ["..", "../deps"] {
        // It fails if the link exists, or on file systems without links, where builds must not fail.
        let _ = symlink("libhorizon.so", build.join(folder).join(&soname));
    }
}

fn run() -> Result<()> {
    // No rerun when PATH changes: editors and shells differ in it, and would invalidate each
    // other's builds.
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["HZ_CUDA", "HZ_CUDA_ARCH", "HZ_CUDA_BINDINGS", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let asked = env::var("HZ_CUDA").unwrap_or_default();
    match asked.as_str() {
        "auto" | "" | "require" | "check" => {}
        "off" => return Ok(()),
        other => return Err(format!("HZ_CUDA is `{other}`; it is one of auto, require, check, off").into()),
    }
    for name in ["VIRTUAL_ENV", "LIBCLANG_PATH"].iter().chain(&NVCC_VARIABLES) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    match find_toolkit() {
        Ok(toolkit) => with_toolkit(&toolkit, asked == "check"),
        Err(why) if matches!(asked.as_str(), "auto" | "") => {
            println!(
                "cargo::warning=built without CUDA kernels, for the CPU only: {why}; HZ_CUDA=off turns this warning off"
            );
            Ok(())
        }
        Err(why) => Err(format!("HZ_CUDA={asked}, but {why}").into()),
    }
}

fn with_toolkit(toolkit: &Toolkit, check: bool) -> Result<()> {
    for path in [&toolkit.nvcc(), Path::new("csrc"), Path::new(bindings::SNAPSHOT)] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let targets = targets(toolkit)?;
    if targets.iter().any(|target| target.ends_with("code=sm_90a")) {
        println!("cargo::rustc-cfg=hz_wgmma");
    }
    // For `horizon info`.
    let names: Vec<&str> = targets.iter().filter_map(|target| Some(target.rsplit_once("code=")?.1)).collect();
    println!("cargo::rustc-env=HZ_CUDA_TARGETS={}", names.join(", "));
    if !check {
        link(toolkit, &compile(toolkit, &targets, &out)?)?;
    }
    fs::write(out.join("bindings.rs"), bindings::generate(toolkit)?)?;
    println!("cargo::rustc-cfg=hz_cuda");
    // `tests/support` builds the emulator with this toolkit.
    println!("cargo::metadata=cuda_toolkit={}", toolkit.home.display());
    Ok(())
}

/// nvcc's arguments for the targets. Default targets that the toolkit does not support are skipped
/// with a warning; targets of `HZ_CUDA_ARCH` are passed on, and nvcc refuses unsupported ones.
fn targets(toolkit: &Toolkit) -> Result<Vec<String>> {
    let asked = env::var("HZ_CUDA_ARCH").unwrap_or_default();
    let mut names: Vec<&str> = asked.split([',', ' ', ';']).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        let listed = finish(Command::new(toolkit.nvcc()).arg("--list-gpu-arch"))?;
        let known: Vec<&str> = listed.split_whitespace().filter_map(number).collect();
        let is_known = |name: &&str| number(name.trim_end_matches('a')).is_some_and(|it| known.contains(&it));
        let too_new;
        (names, too_new) = TARGETS.into_iter().partition::<Vec<&str>, _>(is_known);
        if !too_new.is_empty() {
            let (home, too_new) = (toolkit.home.display(), too_new.join(", "));
            println!(
                "cargo::warning=the CUDA toolkit in {home} is too old for {too_new}; HZ_CUDA_ARCH chooses targets"
            );
        }
    }
    let argument = |name| match number(name) {
        Some(number) => Ok(format!("-gencode=arch=compute_{number},code={name}")),
        None => Err(format!(
            "HZ_CUDA_ARCH names `{name}`; a target looks like sm_90a (machine code) or compute_90 (PTX)"
        )
        .into()),
    };
    names.into_iter().map(argument).collect()
}

/// Returns `90a` for `sm_90a` or `compute_90a`.
fn number(target: &str) -> Option<&str> {
    let number = target.strip_prefix("sm_").or_else(|| target.strip_prefix("compute_"))?;
    let digits = number.trim_end_matches(['a', 'f']);
    (digits.len() >= 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

/// Compiles the changed sources, `NUM_JOBS` at a time, and returns all objects.
///
/// Each source is compiled separately: with several CUDA files in one build, cc makes relocatable
/// device code, which changes the kernels, and compiles all of them every time. The name of an
/// object contains a hash of everything it depends on.
fn compile(toolkit: &Toolkit, targets: &[String], out: &Path) -> Result<Vec<PathBuf>> {
    // SAFETY: the program has only one thread at this point.
    unsafe { env::set_var("NVCC", toolkit.nvcc()) };
    let mut build = cc::Build::new();
    build.cuda(true).flags(FLAGS).flags(targets).include("csrc").cargo_warnings(false);
    // nvcc chooses the host compiler (NVCC_CCBIN), so cc's detection of `c++` is turned off.
    build.ccbin(false).no_default_flags(true).warnings(false).extra_warnings(false);
    let compiler = build.try_get_compiler()?;

    let (mut sources, headers): (Vec<_>, Vec<_>) = entries(Path::new("csrc"), "")
        .into_iter()
        .filter(|path| path.is_file())
        .partition(|path| path.extension().is_some_and(|e| e == "cu"));
    // Longest first, to balance the load.
    sources.sort_by_key(|path| Reverse(fs::metadata(path).map_or(0, |data| data.len())));
    let mut common = DefaultHasher::new();
    let nvcc = fs::metadata(toolkit.nvcc())?.modified()?;
    (nvcc, compiler.path(), compiler.args(), NVCC_VARIABLES.map(env::var_os)).hash(&mut common);
    for header in &headers {
        read(header)?.hash(&mut common);
    }

    let compiled = env::var_os("HZ_CUDA_OBJECTS").map(PathBuf::from);
    let compile_one = |source: &PathBuf| {
        let mut key = common.clone();
        read(source)?.hash(&mut key);
        let name = source.file_stem().expect("a source has a name").to_string_lossy();
        let file = format!("{name}.{:016x}.o", key.finish());
        let object = out.join(&file);
        if !object.is_file() {
            for stale in entries(out, &format!("{name}.")) {
                fs::remove_file(stale)?;
            }
            let unfinished = out.join(format!("{name}.unfinished"));
            match compiled.as_ref().map(|folder| folder.join(&file)).filter(|object| object.is_file()) {
                Some(object) => drop(fs::copy(object, &unfinished)?),
                None => drop(finish(compiler.to_command().arg("-c").arg(source).arg("-o").arg(&unfinished))?),
            }
            fs::rename(&unfinished, &object)?;
        }
        Ok(object)
    };
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = Mutex::new(sources.iter());
    let worker = || from_fn(|| next.lock().expect("no worker panics").next()).map(compile_one).collect();
    let objects: Result<Vec<Vec<_>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect()
    });
    let mut objects = objects?.concat();
    objects.sort_unstable();
    Ok(objects)
}

/// Links the kernels and the CUDA runtime statically, and the system libraries that the runtime
/// needs.
fn link(toolkit: &Toolkit, objects: &[PathBuf]) -> Result<()> {
    cc::Build::new().objects(objects).try_compile("horizon_kernels")?;
    println!("cargo::rustc-link-search=native={}", toolkit.lib.display());
    for library in ["static=cudart_static", "dylib=dl", "dylib=rt", "dylib=pthread", "dylib=stdc++"] {
        println!("cargo::rustc-link-lib={library}");
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()).into())
}

/// Runs a program and returns its standard output.
fn finish(command: &mut Command) -> Result<String> {
    let output = command.output();
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let output = output.map_err(|e| format!("cannot run {line}: {e}"))?;
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        return Ok(out);
    }
    let (status, err) = (output.status, err.trim_end());
    Err(format!("{line} failed ({status}). HZ_CUDA=off builds without kernels.\n{out}{err}").into())
}
