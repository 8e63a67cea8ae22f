//! `horizon install`: builds the library for C without the command's dependencies, and installs it
//! together with the command.

mod entry;
mod folders;
mod library;
mod list;
mod templates;
mod tree;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use horizon::base::{Error, Result, Status};

use crate::options::InstallOptions;
use crate::print::print;
use entry::Entry;
use folders::Folders;
use library::Library;
use list::List;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn install(options: &InstallOptions) -> Result<()> {
    let folders = Folders::of(options)?;
    if options.uninstall {
        return uninstall(&folders, options.dry_run);
    }
    let source = source()?;
    let planned = tree::entries(&folders, &source, &Library::default())?;
    if options.dry_run {
        return print_paths(&folders, planned.iter().map(|entry| &*entry.path));
    }
    planned.iter().try_for_each(|entry| entry.check(&folders))?;
    folders.check_writable(&folders.list())?;
    let library = library::build(&source)?;
    let entries = tree::entries(&folders, &source, &library)?;
    let changed = write(&folders, &entries)?;
    let summary = format!("{} files, {changed} of them new or changed", entries.len());
    print(templates::report(&folders, &summary).as_bytes())
}

/// Prints the paths at which files and the list are written.
fn print_paths<'a>(folders: &Folders, files: impl Iterator<Item = &'a Path>) -> Result<()> {
    let lines: String = files.map(|path| folders.line(path)).collect();
    print((lines + &folders.line(&folders.list())).as_bytes())
}

/// The source folder: that of `cargo run`, or that in which this command was built.
fn source() -> Result<PathBuf> {
    let built = || env!("CARGO_MANIFEST_DIR").into();
    let source: PathBuf = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(built, Into::into);
    if source.join("include/horizon.h").is_file() {
        return Ok(source);
    }
    Err(Error::new(
        Status::NotFound,
        format!(
            "{} does not contain the sources that this command was built from; \
             run `cargo run --release -- install` in a clone of the repository",
            source.display()
        ),
    ))
}

/// Writes the files that differ from those installed, and removes those of an earlier install that
/// this one does not have. Returns the number of files written.
///
/// The list is written first, too: after a failure it has all files of the earlier install and of
/// this one.
fn write(folders: &Folders, entries: &[Entry]) -> Result<usize> {
    let load = |entry: &Entry| Ok((entry.path.clone(), entry.content.load()?));
    let contents = entries.iter().map(load).collect::<Result<Vec<_>>>()?;
    let list = folders.list();
    let missing = folders.missing(entries.iter().map(|entry| &*entry.path).chain([&*list]));
    folders.create(&folders.share("horizon"))?;
    let _lock = folders.lock()?;
    let mut old = List::read(folders)?;
    let files = contents.iter().map(|(path, content)| (path.clone(), BTreeSet::from([content.identity()])));
    let mut new = List { folders: old.folders.union(&missing).cloned().collect(), files: files.collect() };
    old.clone().with(&new).write(folders)?;
    missing.iter().try_for_each(|folder| folders.create(folder))?;
    let mut changed = 0;
    for (path, content) in &contents {
        let at = folders.on_disk(path);
        entry::remove_partial(&at);
        if content.is_at(&at)? {
            continue;
        }
        let found = entry::identity(&at)?;
        content.put(&at)?;
        if found.is_some_and(|found| !old.has(path, &found)) {
            message!("warning: replaced {}, which no `horizon install` wrote", at.display());
        }
        changed += 1;
    }
    old.remove_files(folders, |path| new.files.contains_key(path))?;
    new.files.append(&mut old.files);
    new.write(folders)?;
    Ok(changed)
}

fn uninstall(folders: &Folders, dry_run: bool) -> Result<()> {
    let place = folders.on_disk(&folders.list());
    let _lock = folders.lock()?;
    let mut list = List::read(folders)?;
    if list.files.is_empty() {
        let why =
            format!("there is no {}: nothing is installed there; --prefix names the folder", place.display());
        return Err(Error::new(Status::NotFound, why));
    }
    if dry_run {
        return print_paths(folders, list.files.keys().map(|path| &**path));
    }
    let listed = list.files.len();
    let missing = list.remove(folders)?;
    let prefix = folders.on_disk(&folders.prefix);
    let note =
        if missing > 0 { format!("; {missing} of {listed} files were missing") } else { String::new() };
    match list.files.len() {
        0 => print(format!("removed horizon from {}{note}\n", prefix.display()).as_bytes()),
        kept => {
            let (stay, them) = if kept == 1 { ("file stays", "it") } else { ("files stay", "them") };
            let why = format!("{kept} {stay}: remove {them} by hand, then repeat the command");
            Err(Error::new(Status::InvalidState, why))
        }
    }
}
