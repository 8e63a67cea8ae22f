//! `pack` and both calls of `run` over the fake CUDA. Programs that fail, crash, hang and are missing are planted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// In place of the kernels' own tests, which only run on a GPU.
const KERNELS: &str = r#"#!/bin/sh
case "$1" in
    --list) printf '%s: test\n' 'conform fails' 'attention hangs' 'attention_wgmma passes' 'swiglu crashes' 'offsets past 2^31' ;;
    'conform ') echo 'off by one'; echo 'and its second line'; exit 1 ;;
    'attention ') sleep 100 ;;
    'swiglu ') kill -SEGV $$ ;;
esac
"#;

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

/// A call from the folder of the pack's folder, so that the path to the script is relative.
fn call(folder: &Path, name: &str) -> (Output, String, String) {
    let mut command = Command::new("horizon-gpu/run");
    command.current_dir(folder).env("HZ_FAKE_CUDA", "1").args([name, "--out", "re port", "--seconds", "300"]);
    let (output, said) = output(&mut command);
    let report = fs::read_to_string(folder.join(format!("re port/{name}.md"))).expect("a report");
    (output, said, report)
}

#[test]
fn both_calls_are_rehearsed() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::Builder::new().prefix("with a space ").tempdir().expect("a folder");
    let deps = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let (packed, said) =
        output(Command::new(root.join("tests/gpu/pack")).arg("--from").arg(deps).arg(out.path()));
    assert!(packed.status.success() && said.contains("horizon-gpu.tar.gz"), "{said}");
    let pack = out.path().join("horizon-gpu");
    assert!(pack.join("tests/gpu").is_file(), "this program is packed");
    let _ = fs::remove_file(pack.join("tests/device"));
    fs::write(pack.join("tests/kernels"), KERNELS).expect("a program");
    fs::set_permissions(pack.join("tests/kernels"), fs::Permissions::from_mode(0o755)).expect("executable");

    let (found, said, report) = call(out.path(), "find");
    assert!(!found.status.success(), "{said}");
    for line in [
        "- kernels/conform: failed with status 1",
        "- kernels/attention: timed out after 2 s",
        "- kernels/swiglu: crashed: SIGSEGV",
        "- again/attention: timed out after 2 s",
        "- ops/tests/device --list: missing: tests/device",
        "off by one\nand its second line",
        "| kernels | 2 of 5 passed",
        "| memory | 1 of 1 passed",
    ] {
        assert!(report.contains(line), "`{line}` is not in:\n{report}");
    }
    let (_, said, report) = call(out.path(), "measure");
    for stage in ["table", "step_7b", "host", "ops_figures", "step_1.5b", "calibrate"] {
        assert!(report.contains(&format!("| {stage} | ")), "{said}{report}");
    }
    let files = fs::read_dir(out.path().join("re port")).expect("a folder").count();
    assert!((4..=8).contains(&files), "{files} files");
}
