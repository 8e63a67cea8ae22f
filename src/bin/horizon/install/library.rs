//! The build of the library for C, by cargo.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, path};

use horizon::base::{Error, Result, Status};
use serde_json::Value;

use super::VERSION;

/// The built library; empty before the build.
#[derive(Default)]
pub struct Library {
    pub shared: PathBuf,
    pub archive: PathBuf,
    /// Linker options for the system libraries that the static library needs, `-lm` and others.
    pub native: String,
}

/// Builds the library without the command's dependencies, in a target folder of its own: cargo gives
/// every build of the library the same file name.
pub fn build(source: &Path) -> Result<Library> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let failed = |why: String| {
        Error::new(Status::Io, format!("cannot build the library in {}: {why}", source.display()))
    };
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| source.join("target"), PathBuf::from);
    let target = path::absolute(target).map_err(|error| failed(error.to_string()))?;
    let mut cargo = Command::new(&program)
        .args(["rustc", "--release", "--locked", "--lib", "--no-default-features"])
        .args(["--crate-type", "cdylib,staticlib", "--message-format", "json"])
        .args(["--config", "profile.release.strip=\"symbols\"", "--config", "profile.release.debug=false"])
        .arg("--target-dir")
        .arg(target.join("install"))
        .args(["--", "--print", "native-static-libs"])
        // The kernels were compiled for this command.
        .env("HZ_CUDA_OBJECTS", env!("OUT_DIR"))
        .current_dir(source)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{} does not start: {error}", program.display())))?;
    let mut library = Library::default();
    for line in BufReader::new(cargo.stdout.take().expect("piped")).lines() {
        let line = line.map_err(|error| failed(error.to_string()))?;
        if let Ok(message) = serde_json::from_str(&line) {
            library.note(&message);
        }
    }
    let status = cargo.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(format!("{} ended with {status}", program.display())));
    }
    if library.shared.as_os_str().is_empty() || library.archive.as_os_str().is_empty() {
        return Err(failed(format!(
            "it has no horizon {VERSION}, the version of this command; use `cargo run --release -- install`"
        )));
    }
    Ok(library)
}

impl Library {
    /// Reads a message of cargo: an artifact, or a diagnostic of the compiler.
    fn note(&mut self, message: &Value) {
        let diagnostic = &message["message"];
        let text = diagnostic["message"].as_str().unwrap_or_default();
        if let Some(native) = text.strip_prefix("native-static-libs: ") {
            self.native = native.into();
        } else if diagnostic["level"] != "note" {
            message!("{}", diagnostic["rendered"].as_str().unwrap_or_default().trim_end());
        }
        let is_ours = message["target"]["name"] == "horizon"
            && message["package_id"].as_str().is_some_and(|id| id.ends_with(VERSION));
        let files = message["filenames"].as_array().filter(|_| is_ours);
        for file in files.into_iter().flatten().filter_map(Value::as_str).map(Path::new) {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("so") => self.shared = file.into(),
                Some("a") => self.archive = file.into(),
                _ => {}
            }
        }
    }
}
