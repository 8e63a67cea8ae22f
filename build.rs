//! Compiles `csrc/*.cu` where a CUDA toolkit is found, and says so once where none is.
//!
//! | variable | meaning |
//! |---|---|
//! | `HZ_CUDA` | `auto` (default): with kernels where a toolkit is found, else without and with one warning. `require`: an error instead of the warning. `check`: as `require`, but no kernel is compiled: for clippy and rustdoc, which link nothing. `off`: without, silently |
//! | `HZ_CUDA_ARCH` | targets, e.g. `sm_90a` or `sm_90a,compute_90`; default: [`TARGETS`] |
//! | `CUDA_HOME`, `CUDA_PATH` | the toolkit's folder |
//! | `NVCC_CCBIN`, `NVCC_APPEND_FLAGS` | read by nvcc itself: host compiler, more flags |
//! | `HZ_CUDA_BINDINGS` | with the feature `bindgen`: `check` fails when the committed bindings differ from fresh ones, `write` replaces them |
//!
//! What the crate sees: the cfg `hz_cuda` when kernels are in, `hz_wgmma` when they are built for Hopper's `sm_90a`, and then `OUT_DIR/bindings.rs`: fresh from the
//! toolkit's headers with the feature `bindgen`, else the committed [`SNAPSHOT`].
//!
//! The kernels and the CUDA runtime are linked statically; the driver and cuBLASLt are opened at run time. So one
//! library works on machines with and without them.
//!
//! This script depends on the standard library alone, and does nothing slow where there is no toolkit.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Machine code for each architecture, `a` where kernels use what only that one has, and PTX for every other
/// device of 9.0 and later. Devices of 8.x run the code of the nearest lower 8.x.
const TARGETS: [&str; 7] = [
    "sm_80",      // A100, A30
    "sm_86",      // RTX 30, A10, A40
    "sm_89",      // RTX 40, L4, L40S
    "sm_90a",     // H100, H200, GH200
    "sm_100a",    // B200, GB200
    "sm_120a",    // RTX 50, RTX PRO 6000
    "compute_90", // PTX: B300, Thor, Spark and what comes after
];

/// The bindings that stand in where libclang is missing.
const SNAPSHOT: &str = "src/sys/cuda/bindings.rs";
#[cfg(feature = "bindgen")]
const LIBCLANG_REMEDY: &str =
    "Debian's package libclang-dev has both, and LIBCLANG_PATH names the folder of another";
/// The folders whose sources use foreign names.
#[cfg(feature = "bindgen")]
const FOREIGN_USERS: [&str; 2] = ["src/sys/cuda", "src/ops/cuda"];

/// Flags of every compilation. Contraction and division are nvcc's defaults: exact division and square root.
const FLAGS: [&str; 4] = ["-std=c++20", "-O3", "-lineinfo", "-Xcompiler=-fPIC"];

/// Variables that nvcc itself reads.
const NVCC_VARIABLES: [&str; 3] = ["NVCC_CCBIN", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"];

struct Toolkit {
    home: PathBuf,
    /// The folder with `libcudart_static.a`.
    lib: PathBuf,
}

impl Toolkit {
    fn nvcc(&self) -> PathBuf {
        self.home.join("bin/nvcc")
    }

    fn include(&self) -> PathBuf {
        self.home.join("include")
    }
}

type Result<T> = std::result::Result<T, String>;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(hz_cuda, hz_wgmma)");
    if let Err(message) = run() {
        // Cargo prints these lines and stops. Of a script that fails by itself it would print everything else, too.
        println!("cargo::error={}", message.replace('\n', "\ncargo::error="));
    }
}

fn run() -> Result<()> {
    // The variables that messages name start this script again. PATH does not: editors and shells differ in it, and
    // would undo each other's builds.
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["HZ_CUDA", "HZ_CUDA_ARCH", "HZ_CUDA_BINDINGS", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let asked = env::var("HZ_CUDA").unwrap_or_default();
    match asked.as_str() {
        "auto" | "" | "require" | "check" => {}
        "off" => return Ok(()),
        other => return Err(format!("HZ_CUDA is `{other}`; it is one of auto, require, check, off")),
    }
    println!("cargo::rerun-if-env-changed=VIRTUAL_ENV");
    for name in NVCC_VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    match find_toolkit().and_then(|toolkit| find_cpp(&toolkit).map(|()| toolkit)) {
        Ok(toolkit) => with_kernels(&toolkit, asked == "check"),
        Err(why) if matches!(asked.as_str(), "auto" | "") => {
            println!(
                "cargo::warning=built without CUDA kernels, for the CPU alone: {why}; HZ_CUDA=off builds so without this warning"
            );
            Ok(())
        }
        Err(why) => Err(format!("HZ_CUDA={asked}, but {why}")),
    }
}

// ---- the toolkit ---------------------------------------------------------------------------------------------

/// The first folder that holds a compiler, headers and the static runtime, or what was looked at in vain.
fn find_toolkit() -> Result<Toolkit> {
    let target = env::var("TARGET").unwrap_or_default();
    if env::var("HOST").unwrap_or_default() != target || !target.contains("-linux-gnu") {
        return Err(format!("kernels are built on Linux for the machine that builds, not for {target}"));
    }
    let mut looked = Vec::new();
    let mut look = |name: String, homes: Vec<PathBuf>| {
        let found = homes.iter().find_map(|home| toolkit_at(home));
        looked.push(match homes.first() {
            Some(home) => format!("{name} ({})", home.display()),
            None => name,
        });
        found
    };
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        match env::var_os(name).filter(|value| !value.is_empty()) {
            Some(home) => {
                if let Some(toolkit) = look(name.into(), vec![home.into()]) {
                    return Ok(toolkit);
                }
            }
            None => drop(look(format!("{name} (not set)"), vec![])),
        }
    }
    let on_path = on_path("nvcc")
        // nvcc finds its own files beside what a link points to.
        .filter_map(|nvcc| Some(fs::canonicalize(nvcc).ok()?.parent()?.parent()?.to_path_buf()));
    if let Some(toolkit) = look("nvcc on PATH".into(), on_path.collect()) {
        return Ok(toolkit);
    }
    if let Some(toolkit) = look("the usual place".into(), vec!["/usr/local/cuda".into()]) {
        return Ok(toolkit);
    }
    let virtual_env = env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let in_virtual_env = virtual_env.iter().flat_map(|env| entries(&env.join("lib"), "python3"));
    let packages = in_virtual_env.map(|python| python.join("site-packages")).chain(site_packages());
    let homes = packages.flat_map(|folder| entries(&folder.join("nvidia"), "cu1"));
    if let Some(toolkit) = look("nvidia/cu13 of VIRTUAL_ENV's and python3's packages".into(), homes.collect())
    {
        return Ok(toolkit);
    }
    Err(format!(
        "no CUDA toolkit (bin/nvcc, include/cuda_runtime.h, libcudart_static.a) was found in: {}. CUDA_HOME names its folder",
        looked.join(", ")
    ))
}

fn toolkit_at(home: &Path) -> Option<Toolkit> {
    let (nvcc, header) = (home.join("bin/nvcc"), home.join("include/cuda_runtime.h"));
    let lib = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"]
        .map(|folder| home.join(folder))
        .into_iter()
        .find(|folder| folder.join("libcudart_static.a").is_file())?;
    (nvcc.is_file() && header.is_file()).then(|| Toolkit { home: home.to_path_buf(), lib })
}

/// nvcc compiles and links by a C++ compiler of this machine.
fn find_cpp(toolkit: &Toolkit) -> Result<()> {
    let named = |name: &&str| {
        env::var(name).is_ok_and(|value| match *name {
            "NVCC_CCBIN" => !value.is_empty(),
            _ => value.contains("-ccbin") || value.contains("--compiler-bindir"),
        })
    };
    if NVCC_VARIABLES.iter().any(named) || on_path("g++").next().is_some() {
        return Ok(());
    }
    // An installed compiler starts this script again.
    println!("cargo::rerun-if-changed=/usr/bin");
    Err(format!(
        "the CUDA toolkit in {} needs a C++ compiler and there is no g++ on PATH; Debian's package g++ has it, NVCC_CCBIN names another",
        toolkit.home.display()
    ))
}

/// The files of a name in PATH's folders.
fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let files: Vec<PathBuf> = env::split_paths(&path).map(|folder| folder.join(name)).collect();
    files.into_iter().filter(|file| file.is_file())
}

/// The entries of a folder whose names begin so, the last by name first: the newest version.
fn entries(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = names
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(begin))
        .map(|entry| entry.path())
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// Where the python3 on PATH keeps its packages.
fn site_packages() -> Vec<PathBuf> {
    let program = "import site; print('\\n'.join(site.getsitepackages() + [site.getusersitepackages()]))";
    let Ok(output) = Command::new("python3").args(["-c", program]).output() else { return vec![] };
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
}

// ---- the kernels ---------------------------------------------------------------------------------------------

fn with_kernels(toolkit: &Toolkit, check: bool) -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed={}", toolkit.nvcc().display());
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-changed={SNAPSHOT}");
    let targets = targets(toolkit)?;
    if targets.iter().any(|target| target.ends_with("code=sm_90a")) {
        println!("cargo::rustc-cfg=hz_wgmma");
    }
    // For `horizon info`.
    let names: Vec<&str> = targets.iter().filter_map(|target| Some(target.rsplit_once("code=")?.1)).collect();
    println!("cargo::rustc-env=HZ_CUDA_TARGETS={}", names.join(", "));
    if !check {
        let archive = compile(toolkit, &targets, &out)?;
        println!("cargo::rustc-link-search=native={}", archive.parent().expect("in OUT_DIR").display());
        println!("cargo::rustc-link-lib=static=horizon_kernels");
        println!("cargo::rustc-link-search=native={}", toolkit.lib.display());
        println!("cargo::rustc-link-lib=static=cudart_static");
        for library in ["dl", "rt", "pthread", "stdc++"] {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }
    fs::write(out.join("bindings.rs"), bindings(toolkit)?)
        .map_err(|e| format!("cannot write the bindings: {e}"))?;
    println!("cargo::rustc-cfg=hz_cuda");
    // `tests/support` builds the emulator with this toolkit.
    println!("cargo::metadata=cuda_toolkit={}", toolkit.home.display());
    Ok(())
}

/// Compiles what has changed, as many files at a time as cargo allows, into one archive.
fn compile(toolkit: &Toolkit, targets: &[String], out: &Path) -> Result<PathBuf> {
    let mut sources: Vec<PathBuf> = entries(Path::new("csrc"), "");
    let headers: Vec<PathBuf> =
        sources.extract_if(.., |path| path.extension().is_none_or(|e| e != "cu")).collect();
    // The longest first, so that no processor waits for it at the end.
    sources.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |data| data.len())));

    let mut all_headers = DefaultHasher::new();
    for header in &headers {
        read(header)?.hash(&mut all_headers);
    }
    (read(&toolkit.nvcc())?.len(), targets, FLAGS, toolkit.home.as_os_str()).hash(&mut all_headers);
    for name in NVCC_VARIABLES {
        env::var_os(name).hash(&mut all_headers);
    }
    let compile_one = |source: &Path| -> Result<PathBuf> {
        let mut key = all_headers.clone();
        read(source)?.hash(&mut key);
        let name = source.file_stem().expect("a source has a name").to_string_lossy();
        let object = out.join(format!("{name}.{:016x}.o", key.finish()));
        if object.is_file() {
            return Ok(object);
        }
        for stale in entries(out, &format!("{name}.")) {
            let _ = fs::remove_file(stale);
        }
        let unfinished = out.join(format!("{name}.unfinished"));
        let mut nvcc = Command::new(toolkit.nvcc());
        nvcc.args(FLAGS).args(targets).arg("-Icsrc").arg("-c").arg(source).arg("-o").arg(&unfinished);
        finish(&mut nvcc)?;
        fs::rename(&unfinished, &object)
            .map_err(|e| format!("cannot rename {}: {e}", unfinished.display()))?;
        Ok(object)
    };
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize);
    let (next, done) = (Mutex::new(sources.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, sources.len()) {
            scope.spawn(|| {
                loop {
                    let Some(source) = next.lock().expect("no worker panics").next() else { return };
                    let object = compile_one(source);
                    let failed = object.is_err();
                    done.lock().expect("no worker panics").push(object);
                    if failed {
                        return;
                    }
                }
            });
        }
    });
    let mut objects = done.into_inner().expect("no worker panics").into_iter().collect::<Result<Vec<_>>>()?;
    objects.sort_unstable();
    let archive = out.join("libhorizon_kernels.a");
    let _ = fs::remove_file(&archive);
    finish(Command::new(env::var_os("AR").unwrap_or("ar".into())).arg("crs").arg(&archive).args(&objects))?;
    Ok(archive)
}

/// nvcc's arguments for the targets wanted. A target of the default list that this toolkit is too old for is left
/// out, aloud; one that was asked for is nvcc's to refuse.
fn targets(toolkit: &Toolkit) -> Result<Vec<String>> {
    let asked = env::var("HZ_CUDA_ARCH").unwrap_or_default();
    let mut names: Vec<&str> = asked.split([',', ' ', ';']).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        let listed = finish(Command::new(toolkit.nvcc()).arg("--list-gpu-arch"))?;
        let known: Vec<&str> =
            listed.split_whitespace().filter_map(|name| name.strip_prefix("compute_")).collect();
        let is_known =
            |name: &&str| known.contains(&number(name).unwrap_or_default().trim_end_matches(['a', 'f']));
        let (in_reach, too_new) = TARGETS.iter().copied().partition::<Vec<&str>, _>(is_known);
        if !too_new.is_empty() {
            let home = toolkit.home.display();
            println!(
                "cargo::warning=the CUDA toolkit in {home} is too old for {}; HZ_CUDA_ARCH chooses targets",
                too_new.join(", ")
            );
        }
        names = in_reach;
    }
    let mut arguments = Vec::new();
    for name in names {
        let number = number(name).ok_or_else(|| {
            format!(
                "HZ_CUDA_ARCH names `{name}`; a target looks like sm_90a (machine code) or compute_90 (PTX)"
            )
        })?;
        arguments.push(format!("-gencode=arch=compute_{number},code={name}"));
    }
    Ok(arguments)
}

/// `90a` of `sm_90a` or `compute_90a`.
fn number(target: &str) -> Option<&str> {
    let number = target.strip_prefix("sm_").or_else(|| target.strip_prefix("compute_"))?;
    let digits = number.trim_end_matches(['a', 'f']);
    (digits.len() >= 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Runs a program to its end and gives what it printed.
fn finish(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!(
        "{command:?} failed ({}). HZ_CUDA=off builds without kernels.\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr).trim_end()
    ))
}

// ---- the bindings --------------------------------------------------------------------------------------------

fn bindings(toolkit: &Toolkit) -> Result<String> {
    let snapshot = String::from_utf8(read(Path::new(SNAPSHOT))?).map_err(|e| format!("{SNAPSHOT}: {e}"))?;
    let asked = env::var("HZ_CUDA_BINDINGS").unwrap_or_default();
    let fresh = fresh_bindings(&toolkit.include());
    match (asked.as_str(), fresh) {
        ("", Ok(fresh)) => Ok(fresh),
        ("", Err(None)) => Ok(snapshot),
        ("", Err(Some(why))) => {
            println!("cargo::warning=the committed {SNAPSHOT} stand in for fresh ones: {why}");
            Ok(snapshot)
        }
        ("check", Ok(fresh)) if fresh == snapshot => Ok(fresh),
        ("check", Ok(fresh)) => {
            let (line, (new, old)) = fresh
                .lines()
                .chain([""])
                .zip(snapshot.lines().chain([""]))
                .enumerate()
                .find(|(_, (new, old))| new != old)
                .unwrap_or_default();
            Err(format!(
                "{SNAPSHOT} differs from fresh bindings, first in line {}: `{old}` is committed, `{new}` is fresh. \
                 HZ_CUDA_BINDINGS=write replaces it",
                line + 1
            ))
        }
        ("write", Ok(fresh)) if fresh == snapshot => Ok(fresh),
        ("write", Ok(fresh)) => {
            fs::write(SNAPSHOT, &fresh).map_err(|e| format!("cannot write {SNAPSHOT}: {e}"))?;
            Ok(fresh)
        }
        ("check" | "write", Err(why)) => Err(format!(
            "HZ_CUDA_BINDINGS={asked} needs fresh bindings: {}",
            why.unwrap_or("build with --features bindgen".into())
        )),
        (other, _) => Err(format!("HZ_CUDA_BINDINGS is `{other}`; it is one of check, write")),
    }
}

#[cfg(not(feature = "bindgen"))]
fn fresh_bindings(_include: &Path) -> std::result::Result<String, Option<String>> {
    Err(None)
}

/// Bindings of the names that the crate uses and of nothing else, so that they change little over the toolkit's
/// versions and read in one sitting.
#[cfg(feature = "bindgen")]
fn fresh_bindings(include: &Path) -> std::result::Result<String, Option<String>> {
    use bindgen::callbacks::{EnumVariantCustomBehavior, EnumVariantValue, ParseCallbacks};

    /// Hides the values of enumerations that the crate does not name.
    #[derive(Debug)]
    struct OnlyUsed(std::collections::BTreeSet<String>);

    impl ParseCallbacks for OnlyUsed {
        fn enum_variant_behavior(
            &self,
            _: Option<&str>,
            name: &str,
            _: EnumVariantValue,
        ) -> Option<EnumVariantCustomBehavior> {
            (!self.0.contains(name)).then_some(EnumVariantCustomBehavior::Hide)
        }
    }

    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    // bindgen uses the library that is loaded already, and would panic if it found none.
    if clang_sys::load().is_err() {
        return Err(Some(format!("libclang was not found; {LIBCLANG_REMEDY}")));
    }
    for folder in FOREIGN_USERS {
        println!("cargo::rerun-if-changed={folder}");
    }
    let mut used = std::collections::BTreeSet::new();
    for source in FOREIGN_USERS.iter().flat_map(|folder| entries(Path::new(folder), "")) {
        if source != Path::new(SNAPSHOT) {
            let bytes = read(&source).map_err(Some)?;
            let text = String::from_utf8_lossy(&bytes);
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let foreign = |word: &&str| ["cu", "CU"].iter().any(|begin| word.starts_with(begin));
            used.extend(words.filter(foreign).map(str::to_string));
        }
    }
    let mut builder = bindgen::Builder::default()
        .header_contents(
            "foreign.h",
            "#include <cuda.h>\n#include <cuda_runtime_api.h>\n#include <cublasLt.h>\n#include \"kernels.h\"\n",
        )
        .clang_args(["-Icsrc".to_string(), format!("-I{}", include.display())])
        .allowlist_item("(hzk|HZK)_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(false)
        .merge_extern_blocks(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .disable_header_comment()
        .ctypes_prefix("c")
        .rustfmt_configuration_file(fs::canonicalize(".rustfmt.toml").ok())
        .raw_line("// By bindgen, from the toolkit's headers and csrc/kernels.h: the names that the crate uses, and what they need.")
        .raw_line("// `HZ_CUDA_BINDINGS=write cargo build --features bindgen` renews this file.")
        .raw_line("use std::ffi as c;");
    for name in &used {
        builder = builder.allowlist_item(name);
    }
    let builder = builder.parse_callbacks(Box::new(OnlyUsed(used)));
    builder.generate().map(|bindings| bindings.to_string()).map_err(|error| {
        let error = error.to_string();
        Some(match error.contains("'stddef.h' file not found") {
            true => format!("libclang has no headers of its own (stddef.h); {LIBCLANG_REMEDY}"),
            false => error,
        })
    })
}
