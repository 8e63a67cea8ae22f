//! `horizon install`: builds the library for C without the command's dependencies, and installs it
//! together with the command.

mod entry;
mod folders;
mod library;
mod list;
mod templates;
mod tree;

use std::path::PathBuf;

use horizon::base::{Error, Result, Status};

use crate::options::InstallOptions;
use crate::print;
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
    if options.dry_run {
        let entries = tree::entries(&folders, &source, &Library::default())?;
        return print(entries.iter().map(|entry| folders.line(&entry.path)).collect::<String>().as_bytes());
    }
    folders.check_writable()?;
    let library = library::build(&source)?;
    let entries = tree::entries(&folders, &source, &library)?;
    let changed = write(&folders, &entries)?;
    let summary = format!("{} files, {changed} of them new or changed", entries.len());
    print(templates::report(&folders, &summary).as_bytes())
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
fn write(folders: &Folders, entries: &[Entry]) -> Result<usize> {
    let mut old = List::read(folders)?;
    let mut list = List { folders: std::mem::take(&mut old.folders), files: Vec::new() };
    let mut changed = 0;
    for Entry { path, content } in entries {
        folders.create(path, &mut list.folders)?;
        let (at, content) = (folders.on_disk(path), content.load()?);
        if !content.is_at(&at)? {
            let found = entry::identity(&at)?;
            if found.is_some() && found.as_deref() != old.identity(path) {
                eprintln!("warning: replaced {}, which no `horizon install` wrote", at.display());
            }
            content.put(&at).map_err(|error| folders::cannot_write(&at, &error))?;
            changed += 1;
        }
        list.files.push((content.identity(), path.clone()));
    }
    old.remove_files(folders, |path| list.identity(path).is_some())?;
    list.files.append(&mut old.files);
    folders.create(&folders.list(), &mut list.folders)?;
    list.write(folders)?;
    Ok(changed)
}

fn uninstall(folders: &Folders, dry_run: bool) -> Result<()> {
    let mut list = List::read(folders)?;
    let place = folders.on_disk(&folders.list());
    if list.files.is_empty() {
        let why =
            format!("there is no {}: nothing is installed there; --prefix names the folder", place.display());
        return Err(Error::new(Status::NotFound, why));
    }
    if dry_run {
        return print(list.files.iter().map(|(_, path)| folders.line(path)).collect::<String>().as_bytes());
    }
    list.remove(folders)?;
    if list.files.is_empty() {
        return print(
            format!("removed horizon from {}\n", folders.on_disk(&folders.prefix).display()).as_bytes(),
        );
    }
    let why = format!("{} of the files stay: remove them by hand, then repeat the command", list.files.len());
    Err(Error::new(Status::InvalidState, why))
}
