//! `pack` and `run`, up to the first call of CUDA: what is built beside this test is packed, and every stage is run.

use std::path::Path;
use std::process::Command;

#[test]
fn a_pack_is_made_and_rehearsed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a folder");
    let deps = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let run = |command: &mut Command| {
        let output = command.output().expect("bash");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        said
    };
    let packed = run(Command::new(root.join("tests/gpu/pack")).arg("--from").arg(deps).arg(out.path()));
    assert!(packed.contains("horizon-gpu.tar.gz"), "{packed}");
    let pack = out.path().join("horizon-gpu");
    assert!(pack.join("tests/gpu").is_file(), "this very program is packed");
    // What takes no time to rehearse; the rest runs the same way.
    let stages = ["machine", "kernels", "c", "golden", "transfer", "step_0.5b", "learns_500"];
    let said = run(Command::new(pack.join("run")).arg("--rehearse").args(stages));
    let report = std::fs::read_to_string(pack.join("report/report.md")).expect("a report");
    for stage in stages {
        assert!(said.contains(&format!("== {stage} ")), "{said}");
        assert!(report.contains(&format!("| {stage} | passed")), "{report}");
    }
    assert!(report.contains("| step_7b | not done |"), "{report}");
}
