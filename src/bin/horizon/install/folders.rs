//! The folders of an installation.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use horizon::base::{Error, Result, Status};
use horizon::host::files::try_lock;
use horizon::host::folder::create_folder;
use nix::unistd::{AccessFlags, access};

use crate::options::InstallOptions;

/// Absolute paths, as installed files name them: without the staging folder.
pub struct Folders {
    pub prefix: PathBuf,
    pub libdir: PathBuf,
    pub includedir: PathBuf,
    /// The staging folder.
    pub destdir: Option<PathBuf>,
}

impl Folders {
    pub fn of(options: &InstallOptions) -> Result<Folders> {
        let prefix = absolute("--prefix", Path::new(&options.prefix))?;
        let below = |name, folder: &Option<String>, default| {
            absolute(name, &prefix.join(folder.as_deref().unwrap_or(default)))
        };
        let variable = || std::env::var_os("DESTDIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let destdir = options.destdir.clone().or_else(variable);
        Ok(Folders {
            libdir: below("--libdir", &options.libdir, "lib")?,
            includedir: below("--includedir", &options.includedir, "include")?,
            destdir: destdir.map(|folder| absolute("--destdir", &folder)).transpose()?,
            prefix,
        })
    }

    /// Returns whether a path names the prefix, also through symlinks.
    pub fn is_prefix(&self, path: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(self.on_disk(path)).ok();
        path == self.prefix
            || path.is_absolute() && real(path).is_some_and(|path| Some(path) == real(&self.prefix))
    }

    /// A path below PREFIX/share.
    pub fn share(&self, path: &str) -> PathBuf {
        self.prefix.join("share").join(path)
    }

    /// The list of installed files.
    pub fn list(&self) -> PathBuf {
        self.share("horizon/install.list")
    }

    /// The path at which a file is written: below the staging folder, if there is one.
    pub fn on_disk(&self, path: &Path) -> PathBuf {
        match &self.destdir {
            Some(folder) => folder.join(path.strip_prefix("/").expect("absolute")),
            None => path.into(),
        }
    }

    /// A line with the path at which a file is written.
    pub fn line(&self, path: &Path) -> String {
        format!("{}\n", self.on_disk(path).display())
    }

    /// Finds out whether a file can be written. Changes nothing.
    pub fn check_writable(&self, file: &Path) -> Result<()> {
        let at = self.on_disk(file);
        let refuse = |path: &Path, what| {
            let why = format!("cannot write {}: {} is {what}", at.display(), path.display());
            Err(Error::new(Status::Io, why))
        };
        let exists = |folder: &&Path| fs::symlink_metadata(folder).is_ok();
        let folder = at.ancestors().skip(1).find(exists).unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            return refuse(folder, "not a folder");
        }
        if fs::symlink_metadata(&at).is_ok_and(|data| !data.is_file() && !data.is_symlink()) {
            return refuse(&at, "not a file");
        }
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|errno| cannot_write(&at, &errno.into()))
    }

    /// The missing folders of files.
    pub fn missing<'a>(&self, files: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
        let missing = |folder: &&Path| !self.on_disk(folder).is_dir();
        files.flat_map(|file| file.ancestors().skip(1).take_while(missing).map(Path::to_owned)).collect()
    }

    /// Creates a folder and its parents.
    pub fn create(&self, folder: &Path) -> Result<()> {
        let at = self.on_disk(folder);
        create_folder(&at).map_err(|error| cannot_write(&at, &error))
    }

    /// Locks the folder of the list, if it exists, until the result is dropped.
    pub fn lock(&self) -> Result<Option<File>> {
        let Ok(file) = File::open(self.on_disk(&self.share("horizon"))) else { return Ok(None) };
        match try_lock(&file) {
            Ok(false) => Err(Error::new(
                Status::InvalidState,
                format!(
                    "another `horizon install` is writing to {}: repeat this one when it ends",
                    self.prefix.display()
                ),
            )),
            // Some file systems have no locks.
            Ok(true) | Err(_) => Ok(Some(file)),
        }
    }
}

/// An absolute path without `.` and `..`.
fn absolute(option: &str, path: &Path) -> Result<PathBuf> {
    let refuse = |what| Error::argument(format!("{option} is `{}`, {what}", path.display()));
    if path.starts_with("~") {
        return Err(refuse("and the shell did not replace the ~: write $HOME"));
    }
    let is_odd = |letter: char| letter.is_control() || "\"'`#$\\".contains(letter);
    if path.to_str().is_none_or(|text| text.contains(is_odd)) {
        return Err(refuse(
            "which has control characters, quotes, #, $ or \\, or is not UTF-8: choose another folder",
        ));
    }
    let path = std::path::absolute(path).map_err(|error| Error::io(option, &error))?;
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(refuse("which contains `..`: name the folder without it"));
    }
    Ok(path)
}

/// The error of a file or folder that cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder of your own, e.g. --prefix ~/.local, or install with --destdir stage and copy as \
             root: sudo cp -dR stage/. /"
        }
        _ => "",
    };
    let error = Error::writing(path, error);
    Error::new(error.status(), format!("{error}{hint}"))
}
