//! Rehearses `pack` and both calls of `run` over fake CUDA, with added programs that fail, crash,
//! hang or are missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use support::fake_cuda::emulated;

/// Replaces the kernels' own tests, which need a GPU.
const KERNELS: &str = r#"#!/bin/sh
case "$1" in
    --list) printf '%s: test\n' 'conform fails' 'attention hangs' 'attention_wgmma passes' 'glu crashes' 'offsets past 2^31' ;;
    'conform ') echo 'off by one'; echo 'and its second line'; exit 1 ;;
    'attention ') sleep 100 ;;
    'glu ') kill -SEGV $$ ;;
esac
"#;

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().expect("it runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

/// Makes a call from the parent folder of the pack, so that the script has a relative path. Returns
/// the report.
fn call(folder: &Path, name: &str) -> String {
    let mut command = Command::new("horizon-gpu/run");
    command.current_dir(folder).env("HZ_FAKE_CUDA", "1").args([name, "--out", &format!("re port {name}")]);
    #[cfg(hz_cuda)]
    if emulated::is_there() {
        command.env("HZ_EMULATED_LIBRARY", support::emulator::library());
    }
    let (output, printed) = output(&mut command);
    assert!(!output.status.success(), "{name}: all jobs passed, though some need a GPU: {printed}");
    fs::read_to_string(folder.join(format!("re port {name}/{name}.md"))).expect("a report")
}

fn assert_lines(report: &str, lines: &[&str]) {
    for line in lines {
        assert!(report.contains(line), "`{line}` is not in:\n{report}");
    }
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
    let (packed, printed) =
        output(Command::new(root.join("tests/gpu/pack")).arg("--from").arg(deps).arg(out.path()));
    assert!(packed.status.success() && printed.contains("horizon-gpu.tar.gz"), "{printed}");
    let pack = out.path().join("horizon-gpu");
    let has_benches = pack.join("benches/step_cuda").is_file();
    assert!(pack.join("tests/gpu").is_file(), "this program is not packed");
    let _ = fs::remove_file(pack.join("tests/device"));
    for (program, text) in [("tests/kernels", KERNELS), ("tests/sys", "not a program")] {
        let _ = fs::remove_file(pack.join(program));
        fs::write(pack.join(program), text).expect("a program");
        fs::set_permissions(pack.join(program), fs::Permissions::from_mode(0o755)).expect("executable");
    }

    let found = call(out.path(), "find");
    assert_lines(
        &found,
        &[
            "- kernels/conform: failed with status 1",
            "- kernels/attention: timed out after 2 s",
            "- kernels/glu: crashed: SIGSEGV",
            "- again/attention: timed out after 2 s",
            "- ops/tests/device --list: missing: tests/device",
            "- ops/tests/sys --list: could not start: ",
            "off by one\nand its second line",
            "| kernels | 2 of 5 passed",
            "| memory | 1 of 1 passed",
        ],
    );
    let measured = call(out.path(), "measure");
    assert_lines(&measured, &["| table | 0 of 1 passed", "| calibrate | 0 of 2 passed"]);
    if emulated::is_there() {
        assert_lines(&found, &["| engine | 2 of 2 passed"]);
    }
    if emulated::is_there() && has_benches {
        assert_lines(&found, &["| steps | 2 of 2 passed", "| transfers | 1 of 1 passed"]);
        assert_lines(&measured, &["| step_7b | 1 of 1 passed", "| host | 2 of 2 passed"]);
        assert!(out.path().join("re port measure/step_7b.trace.json").is_file());
        let figures = fs::read_to_string(out.path().join("re port measure/measure.jsonl")).expect("figures");
        for figure in [
            "\"tokens_per_second\"",
            "\"gb_per_second\"",
            "attention_backward wgmma",
            "attention_forward mma",
        ] {
            assert!(figures.contains(figure), "no {figure} in:\n{figures}");
        }
        assert!(!figures.contains("\"error\""), "{figures}");
    } else {
        println!("skipped: benches over fake CUDA; they are not built or have no kernels");
    }
    for (name, least) in [("find", 2), ("measure", 3)] {
        let files = fs::read_dir(out.path().join(format!("re port {name}"))).expect("a folder").count();
        assert!((least..=8).contains(&files), "{files} files of {name}");
    }
}
