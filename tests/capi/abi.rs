//! The binary interface of the header compared with the committed table `abi.txt`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use horizon::capi::hz_abi_version;

use crate::{ROOT, build_and_run, declarations};

const ACCEPT: &str = "HZ_ACCEPT_ABI=1 cargo test --release --test capi abi";

/// Fields of structs as "type.field offset size C-type", measured by a C compiler.
fn fields() -> String {
    let mut body = String::new();
    for listed in declarations::structs() {
        let name = &listed.name;
        for (kind, field) in &listed.fields {
            writeln!(
                body,
                "    printf(\"{name}.{field} %zu %zu {kind}\\n\", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));"
            )
            .unwrap();
        }
        // No padding at the end, so the last field has the size of the struct.
        let last = &listed.fields.last().unwrap().1;
        writeln!(
            body,
            "    _Static_assert(sizeof({name}) == offsetof({name}, {last}) + sizeof((({name} *)0)->{last}), \"padding\");"
        )
        .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("fields.c");
    let code = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"horizon.h\"\nint main(void) {{\n{body}    return 0;\n}}\n"
    );
    fs::write(&source, code).unwrap();
    build_and_run(&source, false)
}

/// The table of the header: one line per field, constant and function.
fn table() -> String {
    let mut table = format!(
        "# The binary interface of include/horizon.h: fields (offset, size, type), constants, functions.\n\
         # Written by {ACCEPT}\n\
         HZ_ABI_VERSION {}\n",
        hz_abi_version()
    );
    table += &fields();
    for listed in declarations::enums() {
        for (constant, number) in listed.constants {
            writeln!(table, "{}.{constant} {number}", listed.name).unwrap();
        }
    }
    for callback in declarations::callbacks() {
        writeln!(table, "{callback}").unwrap();
    }
    for (_, prototype) in declarations::functions() {
        writeln!(table, "{prototype}").unwrap();
    }
    table
}

/// The ABI version of a table.
fn version(table: &str) -> Option<u32> {
    table.lines().find_map(|line| line.strip_prefix("HZ_ABI_VERSION "))?.parse().ok()
}

/// Lines of `a` that `b` does not have.
fn only_in(a: &str, b: &str) -> String {
    let b: BTreeSet<&str> = b.lines().collect();
    a.lines().filter(|line| !b.contains(line)).map(|line| format!("  {line}\n")).collect()
}

/// The reason why programs compiled with the committed header break under the found one, if they
/// do.
fn breakage(committed: &str, found: &str) -> Option<String> {
    let (gone, new) = (only_in(committed, found), only_in(found, committed));
    (!gone.is_empty() && version(committed) == version(found)).then(|| {
        format!(
            "include/horizon.h no longer has these lines of tests/capi/abi.txt:\n{gone}and has in addition:\n{new}\
             Programs compiled with the older header break: restore the lines, or increment HZ_ABI_VERSION and run\n{ACCEPT}"
        )
    })
}

#[test]
fn the_abi_is_the_committed_one() {
    let path = Path::new(ROOT).join("tests/capi/abi.txt");
    let (committed, found) = (fs::read_to_string(&path).unwrap_or_default(), table());
    if let Some(reason) = breakage(&committed, &found) {
        panic!("{reason}");
    }
    if std::env::var_os("HZ_ACCEPT_ABI").is_some_and(|value| value == "1") {
        fs::write(&path, found).unwrap();
    } else {
        let new = only_in(&found, &committed);
        assert!(
            committed == found,
            "include/horizon.h has additions:\n{new}If they are intended, run\n{ACCEPT}"
        );
    }
}

#[test]
fn appended_lines_keep_the_abi_and_changed_lines_break_it() {
    let old = "HZ_ABI_VERSION 1\nhz_a_t.x 4 4 float\nint f(void)\n";
    let appended = "HZ_ABI_VERSION 1\nhz_a_t.x 4 4 float\nhz_a_t.y 8 8 double\nint f(void)\n";
    let changed = "HZ_ABI_VERSION 1\nhz_a_t.x 4 4 uint32_t\nint f(void)\n";
    assert_eq!(breakage(old, appended), None);
    assert!(breakage(old, changed).unwrap().contains("  hz_a_t.x 4 4 float\n"));
    assert_eq!(breakage(old, &changed.replace("VERSION 1", "VERSION 2")), None);
}
