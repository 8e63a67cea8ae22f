//! The text of `horizon.pc`, of the CMake package, and of the closing report.

use std::path::{Component, Path, PathBuf};

use super::VERSION;
use super::folders::Folders;
use super::library::Library;

const PKG_CONFIG: &str = "\
prefix=@PREFIX@
libdir=@LIBDIR@
includedir=@INCLUDEDIR@

Name: horizon
Description: @DESCRIPTION@
Version: @VERSION@
Libs: -L${libdir} -lhorizon
Libs.private: @NATIVE@
Cflags: -I${includedir}
";

/// The command that compiles a C program. The output of pkg-config has escapes if a path has spaces.
const COMPILE: &str =
    "cc main.c $(PKG_CONFIG_PATH=@LIBDIR@/pkgconfig pkg-config --cflags --libs horizon) -Wl,-rpath,@LIBDIR@";

const CMAKE: &str = r#"# Horizon @VERSION@: find_package(Horizon @COMPATIBLE@ REQUIRED)
#
#   Horizon::horizon         the shared library
#   Horizon::horizon_static  the static library, with the system libraries that it needs
#
# Paths are relative to this file, so the installed folders may be moved together.
get_filename_component(_horizon_here "${CMAKE_CURRENT_LIST_FILE}" REALPATH)
get_filename_component(_horizon_lib "${_horizon_here}/../../.." ABSOLUTE)
get_filename_component(_horizon_include "${_horizon_here}/../@INCLUDE@" ABSOLUTE)
if(NOT TARGET Horizon::horizon)
  add_library(Horizon::horizon SHARED IMPORTED)
  set_target_properties(Horizon::horizon PROPERTIES
    IMPORTED_LOCATION "${_horizon_lib}/@FILE@"
    IMPORTED_SONAME "@SONAME@"
    INTERFACE_INCLUDE_DIRECTORIES "${_horizon_include}")
  add_library(Horizon::horizon_static STATIC IMPORTED)
  set_target_properties(Horizon::horizon_static PROPERTIES
    IMPORTED_LOCATION "${_horizon_lib}/libhorizon.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_horizon_include}"
    INTERFACE_LINK_LIBRARIES "@NATIVE@")
endif()
unset(_horizon_here)
unset(_horizon_lib)
unset(_horizon_include)
"#;

/// Versions with the same SONAME are compatible.
const CMAKE_VERSION: &str = r#"set(PACKAGE_VERSION "@VERSION@")
if(PACKAGE_FIND_VERSION VERSION_GREATER_EQUAL "@COMPATIBLE@" AND PACKAGE_FIND_VERSION VERSION_LESS_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
if(CMAKE_SIZEOF_VOID_P AND NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
  set(PACKAGE_VERSION_UNSUITABLE TRUE)
endif()
"#;

const REPORT: &str = "\
horizon @VERSION@ is installed in @PREFIX@: @SUMMARY@
C          @COMPILE@
CMake      find_package(Horizon @COMPATIBLE@ REQUIRED), Horizon::horizon; cmake -DCMAKE_PREFIX_PATH=@PREFIX@
command    @PREFIX@/bin/horizon
uninstall  @PREFIX@/bin/horizon install --uninstall --prefix @PREFIX@
";

/// Replaces `@NAME@` by values; those that every template has need not be given.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let (soname, file) = (env!("HZ_SONAME"), library_file());
    let compatible = soname.rsplit_once(".so.").map_or(VERSION, |(_, version)| version);
    let common =
        [("VERSION", VERSION), ("SONAME", soname), ("FILE", file.as_str()), ("COMPATIBLE", compatible)];
    let values = common.iter().chain(values);
    values.fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

/// The file name of the shared library.
pub fn library_file() -> String {
    format!("libhorizon.so.{VERSION}")
}

pub fn pkg_config(folders: &Folders, library: &Library) -> String {
    let below = |folder: &Path| match folder.strip_prefix(&folders.prefix) {
        Ok(path) => format!("${{prefix}}/{}", escaped(path)),
        Err(_) => escaped(folder),
    };
    let (prefix, libdir) = (escaped(&folders.prefix), below(&folders.libdir));
    let values = [
        ("PREFIX", prefix.as_str()),
        ("LIBDIR", &libdir),
        ("INCLUDEDIR", &below(&folders.includedir)),
        ("DESCRIPTION", env!("CARGO_PKG_DESCRIPTION")),
        ("NATIVE", &library.native),
    ];
    fill(PKG_CONFIG, &values)
}

pub fn cmake(folders: &Folders, library: &Library) -> String {
    let include = relative(&folders.libdir.join("cmake/Horizon"), &folders.includedir);
    let native: Vec<&str> =
        library.native.split_whitespace().map(|name| name.trim_start_matches("-l")).collect();
    fill(CMAKE, &[("INCLUDE", &include.to_string_lossy()), ("NATIVE", &native.join(";"))])
}

pub fn cmake_version() -> String {
    fill(CMAKE_VERSION, &[])
}

/// The last output of an install; with a staging folder only its first line.
pub fn report(folders: &Folders, summary: &str) -> String {
    let lines = if folders.destdir.is_some() { 1 } else { REPORT.lines().count() };
    let template: String = REPORT.split_inclusive('\n').take(lines).collect();
    let (prefix, libdir) = (quoted(&folders.on_disk(&folders.prefix)), quoted(&folders.libdir));
    let compile = fill(COMPILE, &[("LIBDIR", &libdir)]);
    let is_plain = [&libdir, &quoted(&folders.includedir)].iter().all(|path| !path.starts_with('\''));
    let compile = if is_plain { compile } else { format!("eval \"{compile}\"") };
    fill(&template, &[("PREFIX", &prefix), ("COMPILE", &compile), ("SUMMARY", summary)])
}

/// A path as a word of the shell. [`Folders`] has no paths with quotes.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+,:@%".contains(letter);
    if path.chars().all(is_plain) { path.into() } else { format!("'{path}'") }
}

/// A path as a word of horizon.pc, which splits at spaces.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(' ', "\\ ")
}

/// The path from one absolute folder to another.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}
