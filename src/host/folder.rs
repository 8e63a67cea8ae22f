//! Atomic creation and replacement of folders and files, for checkpoints and exports.
//!
//! A [`NewFolder`] is filled under a hidden name next to its final name. All files are synced to
//! disk, then the folder is renamed, then its parent is synced. An existing folder is exchanged in
//! one step (`renameat2`, Linux) and then removed; on a file system without exchange it is renamed
//! first. At any moment, also after a crash, the old folder or the new folder exists completely.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::base::format::Size;
use crate::base::{Error, Result, Status};
use crate::host::files;

/// A folder to be written: its final path, and the hidden path under which it is filled.
#[derive(Clone, Debug)]
pub struct NewFolder {
    folder: PathBuf,
    parent: PathBuf,
    partial: PathBuf,
}

impl NewFolder {
    /// Checks that a folder of at most `bytes` bytes can be written. Creates missing parents,
    /// nothing else.
    ///
    /// Errors: the path cannot name a folder, the parent is not writable, too little disk space
    /// (`DiskFull`).
    pub fn plan(folder: &Path, bytes: u64) -> Result<NewFolder> {
        let cannot = |error: &io::Error| Error::io(format!("cannot write to {}", folder.display()), error);
        let whole = std::path::absolute(folder).map_err(|error| cannot(&error))?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(Error::argument(format!("{} cannot name a new folder", folder.display())));
        };
        fs::create_dir_all(parent).map_err(|error| cannot(&error))?;
        let partial = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), std::process::id()));
        let new = NewFolder { folder: whole.clone(), parent: parent.to_owned(), partial };
        fs::create_dir(&new.partial).map_err(|error| cannot(&error))?;
        let free = files::free_bytes(&new.partial);
        fs::remove_dir(&new.partial).map_err(|error| cannot(&error))?;
        let free = free.map_err(|error| cannot(&error))?;
        if free < bytes {
            return Err(Error::new(
                Status::DiskFull,
                format!(
                    "{} needs {} of disk space, {} are free there",
                    folder.display(),
                    Size(bytes as usize),
                    Size(free as usize)
                ),
            ));
        }
        Ok(new)
    }

    /// The final path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fills the folder with `fill`, then publishes it as [`Filling::publish`]. If `fill` or
    /// `replaces` fails, the final path is unchanged.
    pub fn write(
        &self,
        fill: impl FnOnce(&Filling) -> Result<()>,
        replaces: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let filling = self.begin()?;
        fill(&filling)?;
        filling.publish(replaces)
    }

    /// Creates the hidden folder. It is removed again if the result is dropped before
    /// [`Filling::publish`].
    pub fn begin(&self) -> Result<Filling> {
        fs::create_dir(&self.partial).map_err(|error| self.cannot(&error))?;
        Ok(Filling { new: self.clone(), partial: true })
    }

    fn cannot(&self, error: &io::Error) -> Error {
        Error::io(format!("cannot write to {}", self.folder.display()), error)
    }

    fn publish(&self, replaces: bool) -> io::Result<()> {
        if !replaces {
            // Atomic, also over an existing empty folder.
            fs::rename(&self.partial, &self.folder)?;
            return sync_folder(&self.parent);
        }
        match files::exchange(&self.partial, &self.folder) {
            Ok(()) => {
                sync_folder(&self.parent)?;
                fs::remove_dir_all(&self.partial)
            }
            Err(_) => {
                let aside = self.partial.with_extension("replaced");
                fs::rename(&self.folder, &aside)?;
                if let Err(error) = fs::rename(&self.partial, &self.folder) {
                    fs::rename(&aside, &self.folder)?;
                    return Err(error);
                }
                sync_folder(&self.parent)?;
                fs::remove_dir_all(&aside)
            }
        }
    }
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct Filling {
    new: NewFolder,
    /// True while the folder has its hidden name.
    partial: bool,
}

impl Filling {
    /// Writes and syncs a file with this content. Errors name the file.
    pub fn whole(&self, name: &str, content: &[u8]) -> Result<()> {
        let file = self.sized(name, content.len() as u64)?;
        file.write_at(0, content)?;
        file.sync()
    }

    /// Creates a file of `bytes` bytes, which any threads may then write. Errors name the file.
    pub fn sized(&self, name: &str, bytes: u64) -> Result<SizedFile> {
        let path = self.new.partial.join(name);
        let create = || {
            let file = File::create_new(&path)?;
            files::allocate(&file, bytes)?;
            Ok(file)
        };
        let file = create().map_err(|error| Error::writing(&path, &error))?;
        Ok(SizedFile { path, file, bytes })
    }

    /// Gives the folder its final name. `replaces` is called first and returns true if an existing
    /// folder of that name is to be replaced. Every file has been synced.
    pub fn publish(mut self, replaces: impl FnOnce() -> Result<bool>) -> Result<()> {
        sync_folder(&self.new.partial).map_err(|error| self.new.cannot(&error))?;
        let replaces = replaces()?;
        self.partial = false;
        self.new.publish(replaces).map_err(|error| {
            let (folder, partial) = (self.new.folder.display(), self.new.partial.display());
            Error::io(format!("{folder} is written completely as {partial}, but renaming it failed"), &error)
        })
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.partial {
            // Best effort: the error that led here is reported, not this one.
            let _ = fs::remove_dir_all(&self.new.partial);
        }
    }
}

/// Returns the path that [`replace_file`] replaces: the file, or that to which a symlink leads,
/// which need not exist.
///
/// Errors: the target exists and is not a regular file (`InvalidArgument`).
pub fn replaced_path(path: &Path) -> Result<PathBuf> {
    let cannot = |error: io::Error| Error::writing(path, &error);
    let refuse = |what| Err(Error::argument(format!("cannot write {}: it is {what}", path.display())));
    match fs::metadata(path) {
        Ok(data) if data.is_dir() => refuse("a folder; name a file"),
        Ok(data) if !data.is_file() => refuse("a device, a pipe or a socket; name a regular file"),
        Ok(_) => fs::canonicalize(path).map_err(cannot),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(to) => replaced_path(&path.with_file_name(to)),
            Err(_) => Ok(path.to_owned()),
        },
        Err(error) => Err(cannot(error)),
    }
}

/// Checks in advance that [`replace_file`] can write a file, without changing it.
///
/// Errors: as [`replaced_path`], or its folder is not writable; the message names the file.
pub fn check_replaceable(path: &Path) -> Result<()> {
    let (_, partial) = partial_of(&replaced_path(path)?)?;
    File::create(&partial)
        .and_then(|_| fs::remove_file(&partial))
        .map_err(|error| Error::writing(path, &error))
}

/// The folder of a file, and the hidden path under which its new content is written.
fn partial_of(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::argument(format!("{} is not a file name", path.display())));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let partial = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), std::process::id()));
    Ok((parent.into(), partial))
}

/// Atomically replaces or creates a file with the content that `fill` writes. Symlinks are followed.
///
/// Errors: as [`replaced_path`], of the file system and of `fill`. The file is then unchanged.
pub fn replace_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let cannot = |error: io::Error| Error::writing(path, &error);
    let replaced = replaced_path(path)?;
    let (parent, partial) = partial_of(&replaced)?;
    let file = File::create(&partial).map_err(cannot)?;
    let write = || {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        let file = out.into_inner().map_err(|error| cannot(error.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(&partial, &replaced)).map_err(cannot)?;
        sync_folder(&parent).map_err(cannot)
    };
    write().inspect_err(|_| {
        // Best effort: the error of `write` is reported, not this one.
        let _ = fs::remove_file(&partial);
    })
}

/// A file with its final length, written in any order.
#[derive(Debug)]
pub struct SizedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl SizedFile {
    /// Writes `content` at `offset`.
    ///
    /// # Panics
    /// If the range exceeds the file.
    pub fn write_at(&self, offset: u64, content: &[u8]) -> Result<()> {
        let end = offset.checked_add(content.len() as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "a write exceeds {}", self.path.display());
        self.file.write_all_at(content, offset).map_err(|error| Error::writing(&self.path, &error))
    }

    /// Syncs the file to disk. Must be called before [`Filling::publish`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::writing(&self.path, &error))
    }
}

/// Checks that a folder is this user's alone, and not reached through a link; if `create`, it is
/// created with its parents if it does not exist.
pub fn private_folder(folder: &Path, create: bool) -> Result<()> {
    let cannot = |error: io::Error| Error::io(format!("cannot use {}", folder.display()), &error);
    if create {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
    }
    let metadata = fs::symlink_metadata(folder).map_err(cannot)?;
    let others = metadata.mode() & 0o077;
    if metadata.is_dir() && metadata.uid() == geteuid().as_raw() && others == 0 {
        return Ok(());
    }
    Err(Error::argument(format!("{} is not a folder of this user alone", folder.display())))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_appears_complete_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewFolder::plan(&dir.path().join("a/b"), 0).unwrap();
        assert!(names(&dir.path().join("a")).is_empty());
        let fill = |content: &'static str| {
            move |filling: &Filling| {
                filling.whole("one", content.as_bytes())?;
                let two = filling.sized("two", 6)?;
                two.write_at(3, b"def")?;
                two.write_at(0, b"abc")?;
                two.sync()
            }
        };
        new.write(fill("first"), || Ok(false)).unwrap();
        assert_eq!(names(new.folder()), ["one", "two"]);
        assert_eq!(fs::read(new.folder().join("two")).unwrap(), b"abcdef");

        let failing = |_: &Filling| Err(Error::argument("no"));
        assert!(new.write(failing, || unreachable!()).is_err());
        assert!(new.write(fill("second"), || Err(Error::argument("no"))).is_err());
        assert_eq!(fs::read(new.folder().join("one")).unwrap(), b"first");
        new.write(fill("third"), || Ok(true)).unwrap();
        assert_eq!(fs::read(new.folder().join("one")).unwrap(), b"third");
        assert_eq!(names(&dir.path().join("a")), ["b"]);
    }

    #[test]
    fn a_dropped_folder_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewFolder::plan(&dir.path().join("a"), 0).unwrap();
        let filling = new.begin().unwrap();
        filling.whole("one", b"first").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(filling);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_file_is_replaced_completely_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name");
        for content in ["first", "second, longer", ""] {
            replace_file(&path, |out| {
                out.write_all(content.as_bytes()).map_err(|error| Error::writing(&path, &error))
            })
            .unwrap();
            assert_eq!(fs::read(&path).unwrap(), content.as_bytes());
        }
        assert_eq!(names(dir.path()), ["name"]);
        let failing = replace_file(&path, |_| Err(Error::argument("no")));
        assert_eq!(failing.unwrap_err().message(), "no");
        assert_eq!(names(dir.path()), ["name"]);
        let nowhere = dir.path().join("no/name");
        check_replaceable(&path).unwrap();
        assert_eq!(names(dir.path()), ["name"]);
        assert!(check_replaceable(dir.path()).unwrap_err().message().contains("it is a folder"));
        assert!(check_replaceable(&nowhere).unwrap_err().message().contains("no/name"));
        assert!(replace_file(&nowhere, |_| Ok(())).unwrap_err().message().contains("no/name"));
    }

    #[test]
    fn symlinks_are_followed_and_special_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let put = |name: &str| {
            replace_file(&at(name), |out| out.write_all(b"new").map_err(|_| Error::argument("no")))
        };
        fs::create_dir(at("far")).unwrap();
        fs::write(at("far/old"), "old").unwrap();
        for (link, to) in [("near", "far/old"), ("twice", "near"), ("dangling", "far/none"), ("loop", "loop")]
        {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        put("twice").unwrap();
        put("dangling").unwrap();
        assert!(put("loop").is_err());
        assert!(["near", "twice", "dangling"].iter().all(|link| at(link).is_symlink()));
        assert_eq!(names(&at("far")), ["none", "old"]);
        assert_eq!(fs::read(at("far/old")).unwrap(), b"new");
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("pipe", at("to pipe")).unwrap();
        for error in [put("pipe"), put("to pipe"), check_replaceable(&at("pipe"))].map(Result::unwrap_err) {
            assert!(error.message().contains("a pipe"), "{error}");
            assert_eq!(error.status(), Status::InvalidArgument);
        }
        assert_eq!(names(dir.path()), ["dangling", "far", "loop", "near", "pipe", "to pipe", "twice"]);
    }

    #[test]
    fn too_little_disk_space_is_refused_before_writing() {
        let dir = tempfile::tempdir().unwrap();
        let error = NewFolder::plan(&dir.path().join("a"), u64::MAX).unwrap_err();
        assert_eq!(error.status(), Status::DiskFull);
        let new = NewFolder::plan(&dir.path().join("a"), 0).unwrap();
        let error = new.write(|filling| filling.sized("huge", 1 << 62).map(drop), || Ok(false)).unwrap_err();
        assert!(error.message().contains("huge"), "{error}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    #[should_panic(expected = "a write exceeds")]
    fn a_write_beyond_the_end_panics() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewFolder::plan(&dir.path().join("a"), 0).unwrap();
        let _ = new.write(|filling| filling.sized("two", 6)?.write_at(4, b"def"), || Ok(false));
    }
}
