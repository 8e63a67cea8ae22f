//! The bindings of CUDA's headers and of `csrc/kernels.h`: types and constants, and the functions as lists for macros.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;

use bindgen::callbacks::{EnumVariantCustomBehavior, EnumVariantValue, ParseCallbacks};

use crate::toolkit::{Toolkit, entries};
use crate::{Result, read};

/// The committed bindings.
pub const SNAPSHOT: &str = "src/sys/cuda/bindings.rs";

/// Folders whose sources use names of the bindings.
const USERS: [&str; 2] = ["src/sys/cuda", "src/ops/cuda"];

const HEADERS: &str = r#"
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <cublasLt.h>
#include "kernels.h"
"#;

/// The first lines of the bindings.
const PREAMBLE: &str = "\
// By bindgen, from the toolkit's headers and csrc/kernels.h: the names that the crate uses, and what they need.
// `HZ_CUDA_BINDINGS=write cargo build` renews this file.";

/// The macro that lists the functions, up to its arms.
const LISTS: &str = r#"
/// Lists the functions of a group for another macro, which is called with the rest of the arguments and one
/// declaration for each function. Types are those of `sys::cuda::bindings`, imported where the macro is called.
///
/// | group | functions |
/// |---|---|
/// | `runtime` | of the CUDA runtime |
/// | `driver` | of the driver |
/// | `kernels` | the launchers of `csrc/kernels.h` |
/// | `scratch` | the sizes of scratch that launchers need |
/// | `cublaslt` | of cuBLASLt |
#[doc(hidden)]
#[macro_export]
macro_rules! cuda_functions {
"#;

/// Returns fresh bindings or, with a warning, the committed ones where libclang is missing.
pub fn generate(toolkit: &Toolkit) -> Result<String> {
    let committed = read(Path::new(SNAPSHOT))?;
    let asked = env::var("HZ_CUDA_BINDINGS").unwrap_or_default();
    match (asked.as_str(), fresh_bindings(toolkit)) {
        ("", Err(why)) => {
            println!("cargo::warning=the committed {SNAPSHOT} stands in for fresh bindings: {why}");
            Ok(committed)
        }
        ("check", Ok(fresh)) if fresh != committed => {
            let mut lines = fresh.lines().chain([""]).zip(committed.lines().chain([""])).zip(1..);
            let ((new, old), line) = lines.find(|((new, old), _)| new != old).unwrap_or_default();
            Err(format!("{SNAPSHOT} differs from fresh bindings, first in line {line}: `{old}` is committed, `{new}` is fresh. HZ_CUDA_BINDINGS=write replaces it").into())
        }
        ("write", Ok(fresh)) if fresh != committed => {
            fs::write(SNAPSHOT, &fresh).map_err(|e| format!("cannot write {SNAPSHOT}: {e}"))?;
            Ok(fresh)
        }
        ("" | "check" | "write", Ok(fresh)) => Ok(fresh),
        ("check" | "write", Err(why)) => {
            Err(format!("HZ_CUDA_BINDINGS={asked} needs fresh bindings: {why}").into())
        }
        (other, _) => Err(format!("HZ_CUDA_BINDINGS is `{other}`; it is one of check, write").into()),
    }
}

/// Bindings of the names that the crate uses and of nothing else: they change little from toolkit to toolkit.
fn fresh_bindings(toolkit: &Toolkit) -> Result<String> {
    const REMEDY: &str =
        "install Debian's package libclang-dev, or name the folder of another in LIBCLANG_PATH";
    // bindgen uses the library that is loaded already, and panics if it finds none.
    clang_sys::load().map_err(|_| format!("libclang was not found; {REMEDY}"))?;
    let mut used = BTreeSet::new();
    for folder in USERS {
        println!("cargo::rerun-if-changed={folder}");
        for source in entries(Path::new(folder), "").iter().filter(|source| *source != Path::new(SNAPSHOT)) {
            let text = read(source)?;
            let code = text.lines().filter_map(|line| line.split("//").next());
            let words = code.flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
            used.extend(
                words.filter(|word| word.starts_with("cu") || word.starts_with("CU")).map(str::to_string),
            );
        }
    }
    let builder = bindgen::Builder::default()
        .header_contents("foreign.h", HEADERS)
        .clang_args(["-Icsrc".to_string(), format!("-I{}", toolkit.home.join("include").display())])
        .allowlist_item("(hzk|HZK)_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(false)
        .merge_extern_blocks(true)
        .rust_target(env!("CARGO_PKG_RUST_VERSION").parse()?) // else the compiler's
        .rust_edition(bindgen::RustEdition::Edition2024)
        .disable_header_comment()
        .ctypes_prefix("std::ffi")
        .rustfmt_configuration_file(fs::canonicalize(".rustfmt.toml").ok())
        .raw_line(PREAMBLE);
    let builder = used.iter().fold(builder, |builder, name| builder.allowlist_item(name));
    match builder.parse_callbacks(Box::new(OnlyUsed(used))).generate() {
        Ok(bindings) => with_lists(&bindings.to_string()),
        Err(error) if error.to_string().contains("'stddef.h' file not found") => {
            Err(format!("libclang has no headers of its own (stddef.h); {REMEDY}").into())
        }
        Err(error) => Err(error.to_string().into()),
    }
}

/// Replaces bindgen's declarations of functions, all in one block at the end, by the macro that lists them.
fn with_lists(bindings: &str) -> Result<String> {
    let (rest, functions) =
        bindings.split_once("unsafe extern \"C\" {").ok_or("the headers declare nothing")?;
    let functions = functions.trim_end().strip_suffix('}').ok_or("bindgen's functions are not at the end")?;
    let functions: Vec<&str> = functions.split("pub fn ").skip(1).collect();
    let mut text = rest.to_string() + LISTS;
    for group in ["runtime", "driver", "kernels", "scratch", "cublaslt"] {
        text += &format!("    ({group}, $then:ident $($with:tt)*) => {{\n        $then! {{ $($with)*\n");
        text.extend(functions.iter().filter(|function| group_of(function) == group).map(|it| wrapped(it)));
        text += "        }\n    };\n";
    }
    Ok(text + "}\n")
}

/// The group of a function's declaration, which begins with the name.
fn group_of(declaration: &str) -> &'static str {
    if declaration.starts_with("hzk_") {
        return if declaration.contains("-> usize") { "scratch" } else { "kernels" };
    }
    let groups = [("cublasLt", "cublaslt"), ("cuda", "runtime")];
    groups.iter().find(|(prefix, _)| declaration.starts_with(prefix)).map_or("driver", |(_, group)| group)
}

/// A declaration in lines of at most 110 columns.
fn wrapped(declaration: &str) -> String {
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let declaration = words.join(" ").replace("( ", "(").replace(", )", ")");
    let mut line = String::from("            fn ");
    let mut text = String::new();
    for part in declaration.split_inclusive(", ") {
        if line.len() + part.trim_end().len() > 110 {
            text += line.trim_end();
            text += "\n";
            line = " ".repeat(16);
        }
        line += part;
    }
    text + &line + "\n"
}

/// Hides the values of enumerations that the crate does not name.
#[derive(Debug)]
struct OnlyUsed(BTreeSet<String>);

impl ParseCallbacks for OnlyUsed {
    fn enum_variant_behavior(
        &self,
        _: Option<&str>,
        name: &str,
        _: EnumVariantValue,
    ) -> Option<EnumVariantCustomBehavior> {
        (!self.0.contains(name)).then_some(EnumVariantCustomBehavior::Hide)
    }
}
