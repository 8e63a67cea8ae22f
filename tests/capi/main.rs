//! The C interface: C and C++ programs compiled with `include/horizon.h`, linked with
//! `libhorizon.so`, and run; and the header compared with the library.

mod abi;
mod declarations;
mod examples;
mod header;
mod messages;
mod options;
mod process;
mod sweep;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use horizon::plan::Description;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The folder of `libhorizon.so`, which is the folder of this test. The compiler writes it together
/// with the `rlib` that this test is linked with, so it is not older than the test.
fn library_folder() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(folder.join("libhorizon.so").is_file(), "no libhorizon.so in {}", folder.display());
    folder
}

/// The default compiler with the warnings under which the header must compile: the command `HZ_CC`,
/// e.g. `clang -fsanitize=address`, whose C++ compiler is `clang++`.
fn compiler(cpp: bool) -> Command {
    let Ok(line) = std::env::var("HZ_CC") else { return compiler_named(None, cpp) };
    let (name, flags) = line.split_once(' ').unwrap_or((&line, ""));
    let name = if cpp { name.replace("clang", "clang++").replace("gcc", "g++") } else { name.to_owned() };
    let mut command = compiler_named(Some(&name), cpp);
    command.args(flags.split_whitespace());
    command
}

/// As [`compiler`], a certain one.
fn compiler_named(name: Option<&str>, cpp: bool) -> Command {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    if let Some(name) = name {
        build.compiler(name);
    }
    let tool = build
        .cpp(cpp)
        .target(&target)
        .host(&target)
        .opt_level(1)
        .cargo_metadata(false)
        .try_get_compiler()
        .expect("a C and a C++ compiler are needed");
    let mut command = tool.to_command();
    command.arg(if cpp { "-std=c++17" } else { "-std=c11" });
    command
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg("-I")
        .arg(Path::new(ROOT).join("include"));
    command
}

/// Returns whether a program can be started.
fn runs(program: &OsStr) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// True if the absence of a compiler is a failure.
fn requires_cpp() -> bool {
    std::env::var_os("HZ_REQUIRE_CPP").is_some_and(|value| value == "1")
}

/// Returns whether a C++ compiler runs. `HZ_REQUIRE_CPP=1` makes its absence a failure.
fn has_cpp() -> bool {
    let tool = compiler(true).get_program().to_owned();
    let has = runs(&tool);
    assert!(has || !requires_cpp(), "HZ_REQUIRE_CPP=1, but {tool:?} does not run");
    if !has {
        println!("skipped in C++: {tool:?} does not run; Debian's package g++ has it");
    }
    has
}

/// Runs a command that must succeed without writing to stderr. Returns its output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    assert_eq!(err, "", "{command:?} wrote to stderr");
    out.into_owned()
}

/// Compiles a program into a folder and links it with the library.
fn build(source: &Path, cpp: bool, folder: &Path) -> PathBuf {
    let (library, program) = (library_folder(), folder.join("program"));
    let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
    rpath.push(&library);
    let mut command = compiler(cpp);
    command.arg(source).arg("-o").arg(&program).arg("-L").arg(&library).args([
        "-lhorizon",
        "-lm",
        "-pthread",
    ]);
    run(command.arg(rpath));
    program
}

/// The command that runs a compiled program: with this library, and below `HZ_C_RUNNER`, e.g.
/// `valgrind -q`.
fn command(program: &Path) -> Command {
    let runner = std::env::var("HZ_C_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().map(OsStr::new).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().expect("the program at least"));
    // Cargo's library path for tests starts with the parent folder, which may have an older library.
    command.args(words).env("LD_LIBRARY_PATH", library_folder());
    command
}

/// Compiles a program and runs it with an empty folder.
fn build_and_run(source: &Path, cpp: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let program = build(source, cpp, folder.path());
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    let out = run(command(&program).arg(&files));
    out.lines().filter_map(|line| line.strip_prefix("message: ")).for_each(messages::check_message);
    out
}

#[test]
fn a_c11_program_trains() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/train.c"), false));
}

#[test]
fn a_c11_program_places_layers_and_computes_losses() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/loss.c"), false));
}

#[test]
fn a_c11_program_cancels_and_watches() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/cancel.c"), false));
}

#[test]
fn a_c11_program_resumes_from_a_checkpoint() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/resume.c"), false));
}

/// Trains the model of `hf4` with an example of a loss and compares it with PyTorch: see
/// `tests/golden/losses.py`.
fn example(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let program = build(&Path::new(ROOT).join(format!("tests/c/{name}.c")), false, folder.path());
    let golden = Path::new(ROOT).join("tests/golden");
    print!("{}", run(command(&program).arg(golden.join("hf4")).arg(golden.join(name))));
}

#[test]
fn dpo_in_c_agrees_with_pytorch() {
    example("dpo");
}

#[test]
fn grpo_in_c_agrees_with_pytorch() {
    example("grpo");
}

/// On the CPU; `tests/gpu` runs it with CUDA.
#[test]
fn a_c11_program_chooses_a_device() {
    let run = |arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let program = build(&Path::new(ROOT).join("tests/c/device.c"), false, folder.path());
        command(&program).args(arguments).output().unwrap()
    };
    let trained = run(&["cpu", "cpu"]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let cuda = run(&["cuda"]);
    assert!(matches!(cuda.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&cuda.stderr));
}

#[test]
fn a_c11_program_causes_every_error() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/errors.c"), false));
}

#[test]
fn a_c11_program_closes_handles_that_other_threads_use() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/threads.c"), false));
}

#[test]
fn a_c11_program_searches_and_follows_plans() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/plan.c"), false));
}

/// Machine files of this machine's kind with device memory and host memory of other sizes: all too
/// small, or far larger than this machine's.
#[test]
fn a_c11_program_asks_what_fits_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = Description::shipped("cpu").unwrap();
    for (name, bytes) in [("small", 1 << 10), ("large", 1 << 50)] {
        let sizes = Description { device_bytes: Some(bytes), host_bytes: bytes, ..cpu.clone() };
        fs::write(folder.path().join(format!("{name}.json")), sizes.to_json()).unwrap();
        let discrete = Description { shared: false, ..sizes };
        fs::write(folder.path().join(format!("{name}-discrete.json")), discrete.to_json()).unwrap();
    }
    let program = build(&Path::new(ROOT).join("tests/c/machine.c"), false, folder.path());
    print!("{}", run(command(&program).arg(folder.path())));
}

#[test]
fn a_c11_program_steps_adamw_on_its_own_arrays() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/adam.c"), false));
}

#[test]
fn a_c11_program_allocates_arenas() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/arena.c"), false));
}

#[test]
fn a_cpp17_program_trains() {
    if has_cpp() {
        print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/train.cpp"), true));
    }
}

#[test]
fn a_cpp17_program_uses_the_wrapper() {
    if has_cpp() {
        print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/wrapper.cpp"), true));
    }
}

/// Python is among `.ci/requirements`; elsewhere this test may be skipped.
#[test]
fn a_python_program_trains_through_ctypes() {
    if !runs("python3".as_ref()) {
        return println!("skipped: python3 does not run");
    }
    let folder = tempfile::tempdir().unwrap();
    let (text, model) = (folder.path().join("text"), folder.path().join("model"));
    fs::write(&text, "The model lives in host memory. ".repeat(100)).unwrap();
    let program = Path::new(ROOT).join("tests/c/examples/train.py");
    let mut command = Command::new("python3");
    command.arg(program).arg(text).arg(&model).env("LD_LIBRARY_PATH", library_folder());
    let out = run(&mut command);
    let losses: Vec<f64> = out.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert!(losses.len() == 6 && losses[5] < losses[0], "{losses:?}");
    assert!(model.join("model.safetensors").is_file());
}
