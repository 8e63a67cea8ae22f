//! The search for a CUDA toolkit.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{NVCC_VARIABLES, Result, finish};

/// A CUDA toolkit on this machine.
pub struct Toolkit {
    pub home: PathBuf,
    /// The folder that contains `libcudart_static.a`.
    pub lib: PathBuf,
}

impl Toolkit {
    fn at(home: PathBuf) -> Option<Toolkit> {
        let lib = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"]
            .map(|folder| home.join(folder))
            .into_iter()
            .find(|folder| folder.join("libcudart_static.a").is_file())?;
        let toolkit = Toolkit { home, lib };
        (toolkit.nvcc().is_file() && toolkit.home.join("include/cuda_runtime.h").is_file()).then_some(toolkit)
    }

    pub fn nvcc(&self) -> PathBuf {
        self.home.join("bin/nvcc")
    }
}

/// Returns the candidate folders of a search place.
type Folders = fn() -> Vec<PathBuf>;

/// The places where a toolkit is searched, in order.
const PLACES: [(&str, Folders); 5] = [
    ("CUDA_HOME", || variable("CUDA_HOME").into_iter().collect()),
    ("CUDA_PATH", || variable("CUDA_PATH").into_iter().collect()),
    ("nvcc on PATH", || {
        // If nvcc is a link, the toolkit is next to its target.
        let nvcc = on_path("nvcc").and_then(|nvcc| fs::canonicalize(nvcc).ok());
        nvcc.and_then(|nvcc| Some(nvcc.parent()?.parent()?.into())).into_iter().collect()
    }),
    ("the default folder", || vec!["/usr/local/cuda".into()]),
    ("nvidia/cu13 in the packages of VIRTUAL_ENV and python3", || {
        let environment = variable("VIRTUAL_ENV").map(|home| entries(&home.join("lib"), "python3"));
        let packages = environment.into_iter().flatten().map(|python| python.join("site-packages"));
        packages.chain(site_packages()).flat_map(|folder| entries(&folder.join("nvidia"), "cu1")).collect()
    }),
];

/// Returns the first folder with a compiler, headers and the static runtime. The error lists the
/// searched places.
pub fn find_toolkit() -> Result<Toolkit> {
    let target = env::var("TARGET").unwrap_or_default();
    if env::var("HOST").unwrap_or_default() != target || !target.contains("-linux-gnu") {
        return Err(format!(
            "kernels are only built on Linux and without cross-compilation, not for {target}"
        )
        .into());
    }
    let mut looked = Vec::new();
    for (place, folders) in PLACES {
        let folders = folders();
        let first = folders.first().map_or("none".into(), |folder| folder.display().to_string());
        looked.push(format!("{place} ({first})"));
        if let Some(toolkit) = folders.into_iter().find_map(Toolkit::at) {
            return find_cpp(&toolkit.home).map(|()| toolkit);
        }
    }
    let looked = looked.join(", ");
    Err(format!("no CUDA toolkit (bin/nvcc, include/cuda_runtime.h, libcudart_static.a) was found in: {looked}. Set CUDA_HOME to its folder").into())
}

/// Checks that nvcc has a host C++ compiler.
fn find_cpp(home: &Path) -> Result<()> {
    let [host, flags @ ..] = NVCC_VARIABLES;
    let in_flags = flags.iter().any(|name| {
        env::var(name).is_ok_and(|flags| flags.contains("-ccbin") || flags.contains("--compiler-bindir"))
    });
    if variable(host).is_some() || in_flags || on_path("g++").is_some() {
        return Ok(());
    }
    // Run this script again after a compiler is installed.
    println!("cargo::rerun-if-changed=/usr/bin");
    let home = home.display();
    Err(format!("the CUDA toolkit in {home} needs a C++ compiler and there is no g++ on PATH; install Debian's package g++, or set NVCC_CCBIN to another compiler").into())
}

/// An environment variable as a path; `None` if it is unset or empty.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The entries of a folder whose names start with `begin`, in descending order: the newest version
/// first.
pub fn entries(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let matching = names.filter(|entry| entry.file_name().to_string_lossy().starts_with(begin));
    let mut found: Vec<PathBuf> = matching.map(|entry| entry.path()).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// The package folders of the `python3` on `PATH`.
fn site_packages() -> Vec<PathBuf> {
    let program = "import site; print('\\n'.join(site.getsitepackages() + [site.getusersitepackages()]))";
    let folders = finish(Command::new("python3").args(["-c", program])).unwrap_or_default();
    folders.lines().map(PathBuf::from).collect()
}
