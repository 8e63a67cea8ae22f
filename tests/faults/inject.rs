//! Builds the library of `inject.c` and loads it into commands.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::errno::Errno;

/// The effect of a fault on its call.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// It fails.
    Fail(Errno),
    /// It transfers half of the bytes.
    Short,
    /// The process is killed before it.
    Before,
    /// The process is killed after it.
    After,
    /// It transfers half of the bytes, then the process is killed.
    Torn,
    /// It does nothing and reports success.
    Skip,
}

/// A fault at the `at`-th of the calls of some kinds, and at all later ones if it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub action: Action,
    /// Kinds of calls, separated by spaces.
    pub calls: &'static str,
    pub at: usize,
    pub lasts: bool,
}

/// The lines that the library has written.
#[derive(Debug, Default)]
pub struct Report {
    /// Calls by kind; empty if the process was killed.
    pub counts: BTreeMap<String, usize>,
    /// Kind and path, below the folder, of the first call with a fault.
    pub hit: Option<(String, String)>,
}

/// The library, built once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let built = folder.join(format!("inject-{}.so", std::process::id()));
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut build = cc::Build::new();
        build.target(&target).host(&target).opt_level(1).cargo_metadata(false);
        let tool = build.try_get_compiler().expect("a C compiler is needed");
        let flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"];
        let status = tool.to_command().args(flags).arg("-o").arg(&built).arg(source()).arg("-ldl").status();
        assert!(status.unwrap().success());
        let library = folder.join("inject.so");
        fs::rename(built, &library).unwrap();
        library
    })
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/inject.c")
}

/// Loads the library into a command, which makes the fault, if any, in a folder, and appends to the
/// file `report`.
pub fn load(command: &mut Command, folder: &Path, fault: Option<Fault>, report: &Path) {
    command.env("LD_PRELOAD", library()).env("FAULT_FOLDER", folder).env("FAULT_REPORT", report);
    let Some(Fault { action, calls, at, lasts }) = fault else { return };
    let action = match action {
        Action::Fail(errno) => (errno as i32).to_string(),
        Action::Short => "short".to_owned(),
        Action::Before => "before".to_owned(),
        Action::After => "after".to_owned(),
        Action::Torn => "torn".to_owned(),
        Action::Skip => "skip".to_owned(),
    };
    let at = format!("{at}{}", if lasts { "+" } else { "" });
    command.env("FAULT_CALLS", calls).env("FAULT_ACTION", action).env("FAULT_AT", at);
}

/// Reads a report; an absent file is an empty one.
pub fn report(path: &Path) -> Report {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut report = Report::default();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let [what, kind, rest] = [(); 3].map(|()| words.next().unwrap().to_owned());
        match &what[..] {
            "count" => *report.counts.entry(kind).or_default() += rest.parse::<usize>().unwrap(),
            _ => drop(report.hit.get_or_insert((kind, rest))),
        }
    }
    report
}
