//! The library in the process of its caller: see "In the caller's process" in the header.

use super::*;

fn program(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests/c").join(name)
}

#[test]
fn signals_and_the_floating_point_environment_belong_to_the_caller() {
    print!("{}", build_and_run(&program("guest.c"), false));
}

#[test]
fn forked_children_are_refused_and_do_not_disturb_their_parent() {
    print!("{}", build_and_run(&program("fork.c"), false));
}

/// Two of three exceptions are hidden from C++, so the library ends the process; it logs why.
#[test]
fn exceptions_in_callbacks_end_the_process() {
    if has_cpp() {
        let log = build_and_run(&program("throw.cpp"), true);
        assert_eq!(log.matches("an exception left a callback").count(), 2, "{log}");
    }
}

#[test]
fn the_library_can_be_loaded_again_after_dlclose() {
    let folder = tempfile::tempdir().unwrap();
    let plug_in = folder.path().join("plug-in");
    run(compiler(false).arg(program("reload.c")).arg("-o").arg(&plug_in).args(["-ldl", "-pthread"]));
    run(command(&plug_in).arg(library_folder().join("libhorizon.so")));
}

/// With `HZ_LONG`, 300 cycles, and some under valgrind.
#[test]
fn closed_handles_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cycles = build(&program("leaks.c"), false, folder.path());
    let leaks = |command: &mut Command, count: &str| {
        let files = tempfile::tempdir().unwrap();
        let command = command.arg(files.path()).arg(count).env("LD_LIBRARY_PATH", library_folder());
        print!(
            "{}",
            run(command.env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"))
        );
    };
    if std::env::var_os("HZ_LONG").is_none() {
        return leaks(&mut Command::new(cycles), "30");
    }
    leaks(&mut Command::new(&cycles), "300");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--undef-value-errors=no", "--error-exitcode=1"]);
    valgrind.args(["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]);
    leaks(valgrind.arg(cycles), "8");
}
