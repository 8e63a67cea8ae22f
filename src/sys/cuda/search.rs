//! The search for cuBLASLt.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

/// The environment variable that names the library or its folder; then nothing else is tried.
pub const CUBLASLT_VARIABLE: &str = "HZ_CUBLASLT";

/// File names in order of preference: the major version of the header used for the build, then the
/// previous one, which has the same functions.
const NAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];

/// Returns the names and paths to pass to the dynamic loader, in this order:
/// 1. the value of [`CUBLASLT_VARIABLE`], and then nothing else;
/// 2. the file names, which the loader searches in `LD_LIBRARY_PATH` and the system's folders;
/// 3. the toolkits in `CUDA_HOME`, `CUDA_PATH` and `/usr/local/cuda`;
/// 4. the Python packages `nvidia/cu13` and `nvidia/cublas` of `VIRTUAL_ENV`, of `CONDA_PREFIX`,
///    and of every `python3` on `PATH`.
///
/// `variable` reads an environment variable. Paths in 3 and 4 are returned only if they exist.
pub fn cublaslt_places(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(named) = variable(CUBLASLT_VARIABLE).map(PathBuf::from) {
        return if named.is_dir() { NAMES.map(|name| named.join(name)).into() } else { vec![named] };
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(&variable).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = toolkits
        .chain([PathBuf::from("/usr/local/cuda")])
        .flat_map(|home| [home.join("lib64"), home.join("lib")])
        .collect();
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(&variable).map(PathBuf::from);
    let path = variable("PATH").unwrap_or_default();
    for environment in environments.chain(env::split_paths(&path).flat_map(|folder| pythons(&folder))) {
        // Conda installs its libraries in `lib` of the environment.
        folders.push(environment.join("lib"));
        for packages in packages(&environment) {
            folders.push(packages.join("nvidia/cu13/lib"));
            folders.push(packages.join("nvidia/cublas/lib"));
        }
    }
    let mut places: Vec<PathBuf> = NAMES.map(PathBuf::from).into();
    for place in NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))) {
        if place.is_file() && !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// The environments that the `python3` of a folder belongs to: the folder's own (in a virtual
/// environment `python3` is a link) and that of the link's target.
fn pythons(folder: &Path) -> Vec<PathBuf> {
    let python = folder.join("python3");
    let real = fs::canonicalize(&python).ok();
    let found = real.iter().flat_map(|real| [python.as_path(), real]);
    found.filter_map(|python| Some(python.parent()?.parent()?.to_path_buf())).collect()
}

/// The `lib/python3.*/site-packages` folders of an environment, and Debian's `dist-packages`,
/// newest Python first.
fn packages(environment: &Path) -> Vec<PathBuf> {
    let versions = [environment.join("lib"), environment.join("local/lib")].map(fs::read_dir);
    let versions = versions.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
    let is_python = |path: &PathBuf| {
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python3"))
    };
    let mut versions: Vec<PathBuf> = versions.filter(is_python).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .iter()
        .flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)))
        .collect()
}
