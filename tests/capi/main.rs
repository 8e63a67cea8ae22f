//! The C interface: C and C++ programs compiled with `include/horizon.h`, linked with
//! `libhorizon.so`, and run; and the header compared with the library.

mod examples;

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use horizon::capi::{
    SizedStruct, hz_abi_version, hz_adam_arrays_t, hz_adam_options_t, hz_arena_info_t, hz_arena_options_t,
    hz_batch_t, hz_eval_report_t, hz_layer_placement_t, hz_model_config_t, hz_plan_summary_t, hz_stats_t,
    hz_status_name, hz_step_report_t, hz_tensor_options_t, hz_tensor_t, hz_trainer_options_t,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn header() -> String {
    fs::read_to_string(Path::new(ROOT).join("include/horizon.h")).unwrap()
}

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

/// Returns whether a C++ compiler runs. `HZ_REQUIRE_CPP=1` makes its absence a failure.
fn has_cpp() -> bool {
    let tool = compiler(true).get_program().to_owned();
    let has = Command::new(&tool).arg("--version").output().is_ok_and(|output| output.status.success());
    let must = std::env::var_os("HZ_REQUIRE_CPP").is_some_and(|value| value == "1");
    assert!(has || !must, "HZ_REQUIRE_CPP=1, but {tool:?} does not run");
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
    run(command(&program).arg(&files))
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
fn a_c11_program_searches_and_follows_plans() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/plan.c"), false));
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

/// The text of the header without its comments.
fn declarations() -> String {
    let (mut code, header) = (String::new(), header());
    let mut rest = header.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        code += before;
        rest = after.split_once("*/").expect("a comment ends").1;
    }
    code + rest
}

/// Names of the functions that the header declares with `HZ_API`.
fn declared() -> BTreeSet<String> {
    let code = declarations();
    let functions = code.split("HZ_API ").skip(1).filter(|text| !text.starts_with("__attribute__"));
    functions
        .filter_map(|text| {
            let (head, _) = text.split_once('(')?;
            let name = head.rsplit([' ', '*', '\n']).next()?;
            name.starts_with("hz_").then(|| name.to_owned())
        })
        .collect()
}

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    let declared = declared();
    assert!(declared.len() > 25, "the header was read: {declared:?}");
    let library = library_folder().join("libhorizon.so");
    let symbols = run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library));
    let exported: BTreeSet<String> =
        symbols.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(exported, declared);
}

#[test]
fn every_function_is_called_by_the_c_programs() {
    let programs = [
        "train.c",
        "loss.c",
        "dpo.c",
        "grpo.c",
        "resume.c",
        "errors.c",
        "adam.c",
        "arena.c",
        "plan.c",
        "train.cpp",
    ];
    let folder = Path::new(ROOT).join("tests/c");
    let text: String = programs.iter().map(|path| fs::read_to_string(folder.join(path)).unwrap()).collect();
    for name in declared() {
        assert!(text.contains(&format!("{name}(")), "no program calls {name}");
    }
}

/// Lines with the size of a struct, offset and size of its fields, and the bytes of its default
/// value.
fn describe<T: SizedStruct>() -> String {
    let mut text = format!("{} {}\n", T::NAME, size_of::<T>());
    for field in T::FIELDS {
        writeln!(text, "{}.{} {} {}", T::NAME, field.name, field.offset, field.bytes).unwrap();
    }
    let value = T::defaults();
    // SAFETY: by the contract of `SizedStruct` the struct has no padding, so all its bytes are
    // initialized.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text + "\n"
}

/// C code that prints the same lines for the header's struct.
fn describe_in_c<T: SizedStruct>() -> String {
    let name = T::NAME;
    let init = format!("{}_INIT", name.strip_suffix("_t").unwrap().to_uppercase());
    let mut code = format!("    printf(\"{name} %zu\\n\", sizeof({name}));\n");
    for field in T::FIELDS {
        let field = field.name;
        writeln!(
            code,
            "    printf(\"{name}.{field} %zu %zu\\n\", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));"
        )
        .unwrap();
    }
    writeln!(code, "    {{ {name} value = {init}; print_bytes(&value, sizeof value); }}").unwrap();
    code
}

#[test]
fn structs_and_their_defaults_are_the_same_in_c_and_rust() {
    let (mut expected, mut body) = (String::new(), String::new());
    macro_rules! compare {
        ($($name:ident),*) => {{
            $(expected += &describe::<$name>(); body += &describe_in_c::<$name>();)*
            BTreeSet::from([$(stringify!($name).to_owned()),*])
        }};
    }
    let compared = compare!(
        hz_model_config_t,
        hz_trainer_options_t,
        hz_layer_placement_t,
        hz_plan_summary_t,
        hz_tensor_t,
        hz_tensor_options_t,
        hz_batch_t,
        hz_step_report_t,
        hz_eval_report_t,
        hz_stats_t,
        hz_adam_options_t,
        hz_adam_arrays_t,
        hz_arena_options_t,
        hz_arena_info_t
    );
    let code = declarations();
    let in_header: BTreeSet<String> =
        code.split("} hz_").skip(1).map(|text| format!("hz_{}", text.split(';').next().unwrap())).collect();
    assert_eq!(compared, in_header, "every struct of the header is compared");

    let program = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"horizon.h\"\n\
         static void print_bytes(const void *at, size_t size) {{\n\
             for (size_t i = 0; i < size; i++) printf(\"%02x\", ((const unsigned char *)at)[i]);\n\
             printf(\"\\n\");\n\
         }}\n\
         int main(void) {{\n{body}    return 0;\n}}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    for (file, cpp) in [("layout.c", false), ("layout.cpp", true)] {
        if cpp && !has_cpp() {
            continue;
        }
        let source = folder.path().join(file);
        fs::write(&source, &program).unwrap();
        let found = build_and_run(&source, cpp);
        for (found, expected) in found.lines().zip(expected.lines()) {
            assert_eq!(found, expected, "{file} on the left, Rust on the right");
        }
        assert_eq!(found.lines().count(), expected.lines().count());
    }
}

/// Constants of the header, `NAME = number`.
fn constants(prefix: &str) -> Vec<(String, i32)> {
    declarations()
        .lines()
        .filter_map(|line| line.trim().trim_end_matches(',').split_once(" = "))
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, number)| (name.to_owned(), number.parse().unwrap()))
        .collect()
}

fn status_name(status: i32) -> String {
    // SAFETY: a static string for every number.
    unsafe { CStr::from_ptr(hz_status_name(status)) }.to_str().unwrap().to_owned()
}

#[test]
fn statuses_have_the_numbers_of_the_header() {
    let listed = constants("HZ_STATUS_");
    let known: Vec<(String, i32)> = (-10..2000)
        .map(|number| (status_name(number), number))
        .filter(|(name, _)| name != "HZ_STATUS_UNKNOWN")
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn versions_are_those_of_the_crate() {
    let header = header();
    assert!(header.contains(&format!("#define HZ_VERSION \"{}\"", env!("CARGO_PKG_VERSION"))));
    assert!(header.contains(&format!("#define HZ_ABI_VERSION {}\n", hz_abi_version())));
}

/// The header alone, in every supported language version, with more warnings than it must compile
/// under.
#[test]
fn the_header_compiles_alone() {
    let folder = tempfile::tempdir().unwrap();
    let strict = ["-Wconversion", "-Wshadow", "-Wundef", "-fsyntax-only"];
    let (c, cpp) =
        (["-Wc++-compat", "-Wstrict-prototypes"], ["-Wold-style-cast", "-Wzero-as-null-pointer-constant"]);
    for (standard, is_cpp, more) in
        [("-std=c11", false, c), ("-std=c17", false, c), ("-std=c++17", true, cpp), ("-std=c++20", true, cpp)]
    {
        if is_cpp && !has_cpp() {
            continue;
        }
        let source = folder.path().join(if is_cpp { "alone.cpp" } else { "alone.c" });
        fs::write(&source, "#include \"horizon.h\"\n").unwrap();
        run(compiler(is_cpp).arg(standard).args(strict).args(more).arg(source));
    }
}

#[test]
fn the_header_is_ascii_with_at_most_120_columns() {
    for (number, line) in header().lines().enumerate() {
        assert!(line.is_ascii() && line.len() <= 120, "line {}: {line}", number + 1);
    }
}
