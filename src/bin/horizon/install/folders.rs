//! The folders of an installation.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use horizon::base::{Error, Result};
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

    /// Finds out before the build whether the folders can be written.
    pub fn check_writable(&self) -> Result<()> {
        for folder in [&self.prefix, &self.libdir, &self.includedir] {
            let folder = self.on_disk(folder);
            let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(&folder);
            access(existing, AccessFlags::W_OK).map_err(|errno| cannot_write(&folder, &errno.into()))?;
        }
        Ok(())
    }

    /// Creates the missing folders of a file. Adds them to `created`, parents first.
    pub fn create(&self, file: &Path, created: &mut Vec<PathBuf>) -> Result<()> {
        let missing = |folder: &&Path| !self.on_disk(folder).is_dir();
        let missing: Vec<&Path> = file.ancestors().skip(1).take_while(missing).collect();
        for folder in missing.into_iter().rev() {
            let at = self.on_disk(folder);
            fs::create_dir_all(&at).map_err(|error| cannot_write(&at, &error))?;
            if !created.iter().any(|listed| listed == folder) {
                created.push(folder.into());
            }
        }
        Ok(())
    }
}

/// An absolute path without `.` and `..`.
fn absolute(option: &str, path: &Path) -> Result<PathBuf> {
    let refuse = |what| Error::argument(format!("{option} is `{}`, {what}", path.display()));
    if path.starts_with("~") {
        return Err(refuse("and the shell did not replace the ~: write $HOME"));
    }
    if path.to_str().is_none_or(|text| text.contains(char::is_control)) {
        return Err(refuse("which has control characters or is not UTF-8: choose another folder"));
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
