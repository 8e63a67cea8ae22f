//! The files that an installation consists of.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use clap_complete::Shell;
use horizon::base::{Error, Result};

use super::entry::{Content, Entry};
use super::folders::Folders;
use super::library::Library;
use super::templates;
use crate::pages;

/// Shells with a folder for completion scripts, which the script's name follows.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/horizon"),
    (Shell::Fish, "fish/vendor_completions.d/horizon.fish"),
    (Shell::Zsh, "zsh/site-functions/_horizon"),
];

const DOCUMENTS: [&str; 4] = ["CHANGELOG.md", "LICENSE", "README.md", "src/data/formats.md"];

/// Returns all files to install, the command last.
pub fn entries(folders: &Folders, source: &Path, library: &Library) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut add = |path: PathBuf, content| entries.push(Entry { path, content });
    let bytes = |text: String| Content::Bytes(text.into());

    let (soname, lib) = (env!("HZ_SONAME"), |name: &str| folders.libdir.join(name));
    let file = templates::library_file();
    add(lib(&file), Content::Program(library.shared.clone()));
    add(lib(soname), Content::Link(file));
    add(lib("libhorizon.so"), Content::Link(soname.into()));
    add(lib("libhorizon.a"), Content::Copy(library.archive.clone()));
    for (header, name) in files(&source.join("include"), &["h", "hpp"])? {
        add(folders.includedir.join(name), Content::Copy(header));
    }
    add(lib("pkgconfig/horizon.pc"), bytes(templates::pkg_config(folders, library)));
    add(lib("cmake/Horizon/HorizonConfig.cmake"), bytes(templates::cmake(folders, library)));
    add(lib("cmake/Horizon/HorizonConfigVersion.cmake"), bytes(templates::cmake_version()));

    for name in DOCUMENTS {
        let from = source.join(name);
        add(folders.share("doc/horizon").join(from.file_name().unwrap_or_default()), Content::Copy(from));
    }
    for (example, name) in files(&source.join("tests/c/examples"), &["c", "py"])? {
        add(folders.share("doc/horizon/examples").join(name), Content::Copy(example));
    }
    for (name, page) in pages::pages()? {
        add(folders.share("man/man1").join(name), Content::Bytes(page));
    }
    for (shell, path) in COMPLETIONS {
        add(folders.share(path), Content::Bytes(pages::completion(shell)));
    }
    let command = env::current_exe().map_err(|error| Error::io("cannot find the running command", &error))?;
    add(folders.prefix.join("bin/horizon"), Content::Program(command));
    Ok(entries)
}

/// The paths and names of a folder's files with one of these extensions, sorted.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<(PathBuf, OsString)>> {
    let names =
        || fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<BTreeSet<_>>>();
    let mut names = names().map_err(|error| Error::reading(folder, &error))?;
    names.retain(|name| {
        Path::new(name).extension().is_some_and(|end| extensions.iter().any(|one| end == *one))
    });
    Ok(names.into_iter().map(|name| (folder.join(&name), name)).collect())
}
