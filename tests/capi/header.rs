//! The header compared with the library, and compiled alone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::iter;
use std::path::Path;
use std::process::Command;

use horizon::capi::{
    SizedStruct, hz_abi_version, hz_adam_arrays_t, hz_adam_options_t, hz_arena_info_t, hz_arena_options_t,
    hz_batch_t, hz_device_info_t, hz_eval_report_t, hz_layer_placement_t, hz_model_config_t,
    hz_plan_summary_t, hz_stats_t, hz_step_report_t, hz_tensor_options_t, hz_tensor_t, hz_trainer_options_t,
    hz_version_number,
};

use crate::declarations::{self, Struct};
use crate::{ROOT, build_and_run, compiler_named, has_cpp, library_folder, requires_cpp, run, runs};

/// Names of the functions that the header declares.
fn declared() -> BTreeSet<String> {
    declarations::functions().into_iter().map(|(name, _)| name).collect()
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

/// The texts of all C and C++ programs in `tests/c`.
fn programs() -> String {
    let entries = fs::read_dir(Path::new(ROOT).join("tests/c")).unwrap();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_function_is_called_by_the_c_programs() {
    let text = programs();
    for name in declared() {
        assert!(text.contains(&format!("{name}(")), "no program calls {name}");
    }
}

/// Their constants are compared in `src/capi/enums.rs`.
#[test]
fn every_enum_is_32_bits_wide() {
    for listed in declarations::enums() {
        let last = listed.constants.last().unwrap();
        assert!(last.0.ends_with("_MAX_ENUM") && last.1 == i32::MAX, "{} ends with {last:?}", listed.name);
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
fn describe_in_c(Struct { name, fields, .. }: &Struct, init: &str) -> String {
    let mut code = format!("    printf(\"{name} %zu\\n\", sizeof({name}));\n");
    for (_, field) in fields {
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
    let mut expected = Vec::new();
    macro_rules! describe_all {
        ($($name:ident),*) => { $(expected.push((stringify!($name), describe::<$name>()));)* };
    }
    describe_all!(
        hz_device_info_t,
        hz_model_config_t,
        hz_layer_placement_t,
        hz_trainer_options_t,
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
    let structs = declarations::structs();
    let names: Vec<&str> = structs.iter().map(|listed| listed.name.as_str()).collect();
    let compared: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(compared, names, "every struct of the header is compared, in its order");

    let body: String = structs.iter().map(|listed| describe_in_c(listed, &listed.macro_name())).collect();
    let expected: String = expected.into_iter().map(|(_, text)| text).collect();
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

#[test]
fn every_struct_has_a_macro_and_a_function_with_the_same_defaults() {
    let program = fs::read_to_string(Path::new(ROOT).join("tests/c/init.c")).unwrap();
    for listed in declarations::structs() {
        let (name, init, function) = (&listed.name, listed.macro_name(), listed.function_name());
        let line = format!("DEFAULTS({name}, {init}, {function}(");
        assert!(program.contains(&line), "missing from tests/c/init.c: {line}");
    }
    print!("{}", build_and_run(&Path::new(ROOT).join("tests/c/init.c"), false));
}

#[test]
fn versions_are_those_of_the_crate() {
    let header = declarations::text();
    assert!(header.contains(&format!("#define HZ_VERSION \"{}\"\n", env!("CARGO_PKG_VERSION"))));
    assert!(header.contains(&format!("#define HZ_VERSION_NUMBER {}\n", hz_version_number())));
    assert!(header.contains(&format!("#define HZ_ABI_VERSION {}\n", hz_abi_version())));
}
/// Returns whether clang and clang++ run. `HZ_REQUIRE_CPP=1` makes their absence a failure.
fn has_clang() -> bool {
    let has = ["clang", "clang++"].iter().all(|tool| runs(tool.as_ref()));
    assert!(has || !requires_cpp(), "HZ_REQUIRE_CPP=1, but clang or clang++ does not run");
    if !has {
        println!("skipped with clang: it does not run; Debian's package clang has it");
    }
    has
}

/// Compiles a source in several language versions, by both compilers, with more warnings than it
/// must compile under.
fn compiles(source: &Path, standards: &[&str]) {
    let strict = ["-Wconversion", "-Wshadow", "-Wundef", "-fsyntax-only"];
    let (c, cpp) =
        (["-Wc++-compat", "-Wstrict-prototypes"], ["-Wold-style-cast", "-Wzero-as-null-pointer-constant"]);
    let clang = has_clang();
    for standard in standards {
        let is_cpp = standard.starts_with("c++");
        if is_cpp && !has_cpp() {
            continue;
        }
        let (other, more) = if is_cpp { ("clang++", cpp) } else { ("clang", c) };
        for tool in iter::once(None).chain(clang.then_some(Some(other))) {
            let mut command = compiler_named(tool, is_cpp);
            run(command.arg(format!("-std={standard}")).args(strict).args(more).arg(source));
        }
    }
}

#[test]
fn the_header_compiles_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (file, standards) in [("alone.c", ["c11", "c17", "c2x"]), ("alone.cpp", ["c++17", "c++20", "c++2b"])]
    {
        let source = folder.path().join(file);
        fs::write(&source, "#include \"horizon.h\"\n").unwrap();
        compiles(&source, &standards);
    }
}

/// With `HZ_LONG` in every language version.
#[test]
fn the_wrapper_compiles() {
    let standards = ["c++20", "c++17", "c++2b"];
    let count = if std::env::var_os("HZ_LONG").is_some() { 3 } else { 1 };
    compiles(&Path::new(ROOT).join("tests/c/wrapper.cpp"), &standards[..count]);
}

#[test]
fn the_wrapper_reaches_every_function_and_defines_no_macro() {
    let wrapper = fs::read_to_string(Path::new(ROOT).join("include/horizon.hpp")).unwrap();
    let words: BTreeSet<&str> = wrapper.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    for name in declared() {
        assert!(words.contains(name.as_str()), "include/horizon.hpp does not use {name}");
    }
    let defines: Vec<&str> =
        wrapper.lines().filter(|line| line.trim_start().starts_with("#define")).collect();
    assert_eq!(defines, ["#define HORIZON_HPP"]);
}

#[test]
fn the_headers_are_ascii_with_at_most_120_columns() {
    for header in ["include/horizon.h", "include/horizon.hpp"] {
        let text = fs::read_to_string(Path::new(ROOT).join(header)).unwrap();
        for (number, line) in text.lines().enumerate() {
            assert!(line.is_ascii() && line.len() <= 120, "{header}:{}: {line}", number + 1);
        }
    }
}
