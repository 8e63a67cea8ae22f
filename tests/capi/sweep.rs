//! Wrong arguments: `tests/c/sweep.c`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{ROOT, build_and_run, library_folder, run};

#[test]
fn every_wrong_argument_is_refused_and_changes_nothing() {
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/sweep.c"), false));
}

#[test]
fn every_function_has_a_row_or_cannot_fail() {
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join("tests/c").join(name)).unwrap();
    let (program, table) = (read("sweep.c"), read("sweep_table.h"));
    let (_, rest) = program.split_once("static void sweep_total(void) {").unwrap();
    let (total, _) = rest.split_once("\n}").unwrap();
    let library = library_folder().join("libhorizon.so");
    let symbols = run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library));
    let exported: Vec<&str> = symbols.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(exported.len() > 50, "{exported:?}");
    for name in exported {
        let swept = table.contains(&format!("ROW({name},")) || total.contains(&format!("{name}("));
        assert!(swept, "{name} is not in tests/c/sweep_table.h");
    }
}
