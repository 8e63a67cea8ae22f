//! C programs on CUDA: compiled here, or precompiled in the folder `HZ_C_PROGRAMS`.

use std::path::{Path, PathBuf};
use std::process::Command;

use horizon::engine::devices;
use horizon::plan::Description;

use crate::rig;

/// The path of the compiled program `tests/c/NAME.c`.
fn program(name: &str, folder: &Path) -> PathBuf {
    if let Some(compiled) = std::env::var_os("HZ_C_PROGRAMS") {
        return Path::new(&compiled).join(name);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let program = folder.join(name);
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-I"])
        .arg(root.join("include"))
        .arg(root.join("tests/c").join(name).with_extension("c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&library)
        .args(["-lhorizon", "-lm", "-pthread"])
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .status()
        .expect("a C compiler");
    assert!(compiled.success(), "{name} does not compile");
    program
}

#[test]
fn a_c_program_trains_on_cuda() {
    if rig::gpu().is_some() {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = folder.path().join("machine.json");
        let here = devices().into_iter().find_map(|device| device.hardware);
        let described = Description { device: here, ..Description::shipped("h200").expect("it is shipped") };
        std::fs::write(&machine, described.to_json()).expect("it is written");
        let device = program("device", folder.path());
        let ran = Command::new(device).arg("cuda").arg(&machine).output().expect("it runs");
        let printed = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{printed}");
        print!("{}", String::from_utf8_lossy(&ran.stdout));
    }
}
