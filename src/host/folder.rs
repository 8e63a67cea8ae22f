//! Folders that appear whole or not at all: what checkpoints and exports are written with.
//!
//! A [`NewFolder`] is filled under a hidden name beside the one it will have. Every file is synced to the disk
//! before the folder gets its name, and the name after it. Where another folder stands the two change places in one
//! step (`renameat2`, Linux), then the old one is removed; on a file system that cannot do that, the old one steps
//! aside first. Whoever looks, or is killed, at any moment finds the old folder whole or the new one whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::base::format::Size;
use crate::base::{Error, Result, Status};
use crate::host::files;

/// A folder on its way to its name.
#[derive(Clone, Debug)]
pub struct NewFolder {
    folder: PathBuf,
    parent: PathBuf,
    partial: PathBuf,
}

impl NewFolder {
    /// Looks at where a folder of at most `bytes` will stand. Creates missing parents, nothing else.
    ///
    /// Errors: a name that cannot be a folder's, a place that cannot be written to, too little space (`DiskFull`).
    pub fn plan(folder: &Path, bytes: u64) -> Result<NewFolder> {
        let cannot = |error: &io::Error| Error::io(format!("cannot write to {}", folder.display()), error);
        let whole = std::path::absolute(folder).map_err(|error| cannot(&error))?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(Error::argument(format!("{} cannot be replaced by a new folder", folder.display())));
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

    /// The folder as it will be named.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fills the folder by `fill` and gives it its name; `replaces` says, once it is filled, whether another folder of
    /// that name goes. On any error nothing stands under the name that was not there before.
    pub fn write(
        &self,
        fill: impl FnOnce(&Filling) -> Result<()>,
        replaces: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let filling = self.begin()?;
        fill(&filling)?;
        filling.publish(replaces)
    }

    /// Begins to fill the folder. Dropped before [`Filling::publish`], what was written goes again.
    pub fn begin(&self) -> Result<Filling> {
        fs::create_dir(&self.partial).map_err(|error| self.cannot(&error))?;
        Ok(Filling { new: self.clone(), partial: true })
    }

    fn cannot(&self, error: &io::Error) -> Error {
        Error::io(format!("cannot write to {}", self.folder.display()), error)
    }

    fn publish(&self, replaces: bool) -> io::Result<()> {
        if !replaces {
            // Renaming over an empty folder is one step, too.
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
    /// Whether it is still under its hidden name, and half-written.
    partial: bool,
}

impl Filling {
    /// Writes a whole file and syncs it. Errors name the file.
    pub fn whole(&self, name: &str, content: &[u8]) -> Result<()> {
        let file = self.sized(name, content.len() as u64)?;
        file.write_at(0, content)?;
        file.sync()
    }

    /// Creates a file of `bytes` bytes, to be written in parts, by any threads. Errors name the file.
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

    /// Gives the folder its name; `replaces` says whether another folder of that name goes. Every file has been synced.
    pub fn publish(mut self, replaces: impl FnOnce() -> Result<bool>) -> Result<()> {
        sync_folder(&self.new.partial).map_err(|error| self.new.cannot(&error))?;
        let replaces = replaces()?;
        self.partial = false;
        self.new.publish(replaces).map_err(|error| {
            let whole = format!("what goes to {} is whole and stands in", self.new.folder.display());
            let partial = self.new.partial.display();
            Error::io(format!("{whole} {partial}, but could not take its place"), &error)
        })
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.partial {
            // Best effort: it has failed already, and its error is the one to tell.
            let _ = fs::remove_dir_all(&self.new.partial);
        }
    }
}

/// Whether [`replace_file`] can, as far as can be told before there is anything to write: nothing is changed.
///
/// Errors: a folder, or a place that cannot be written to; the file is named.
pub fn check_replaceable(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::argument(format!("cannot write {}: it is a folder; name a file", path.display())));
    }
    let (_, partial) = partial_of(path)?;
    File::create(&partial)
        .and_then(|_| fs::remove_file(&partial))
        .map_err(|error| Error::writing(path, &error))
}

/// The folder of a file, and the hidden name under which its new content is written.
fn partial_of(path: &Path) -> Result<(&Path, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::argument(format!("{} is no name of a file", path.display())));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let partial = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), std::process::id()));
    Ok((parent, partial))
}

/// Replaces a file, or makes it: whoever looks finds the old content whole or the new one, which `fill` writes.
pub fn replace_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let cannot = |error: io::Error| Error::writing(path, &error);
    let (parent, partial) = partial_of(path)?;
    let file = File::create(&partial).map_err(cannot)?;
    let write = || {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        let file = out.into_inner().map_err(|error| cannot(error.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(&partial, path)).map_err(cannot)?;
        sync_folder(parent).map_err(cannot)
    };
    write().inspect_err(|_| {
        // Its error is the one to tell; that the partial file may stay behind changes nothing about it.
        let _ = fs::remove_file(&partial);
    })
}

/// A file whose length is known before its content.
#[derive(Debug)]
pub struct SizedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl SizedFile {
    /// Writes a part of the file.
    ///
    /// # Panics
    /// If the part leaves the file.
    pub fn write_at(&self, offset: u64, content: &[u8]) -> Result<()> {
        let end = offset.checked_add(content.len() as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "a write leaves {}", self.path.display());
        self.file.write_all_at(content, offset).map_err(|error| Error::writing(&self.path, &error))
    }

    /// Waits until the file is on the disk. Whoever creates a file owes it this call.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::writing(&self.path, &error))
    }
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
    fn a_folder_appears_whole_or_not_at_all() {
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
    fn what_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewFolder::plan(&dir.path().join("a"), 0).unwrap();
        let filling = new.begin().unwrap();
        filling.whole("one", b"first").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(filling);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_file_is_replaced_whole() {
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
    fn a_folder_without_room_is_refused_before_it_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let error = NewFolder::plan(&dir.path().join("a"), u64::MAX).unwrap_err();
        assert_eq!(error.status(), Status::DiskFull);
        let new = NewFolder::plan(&dir.path().join("a"), 0).unwrap();
        let error = new.write(|filling| filling.sized("huge", 1 << 62).map(drop), || Ok(false)).unwrap_err();
        assert!(error.message().contains("huge"), "{error}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    #[should_panic(expected = "leaves")]
    fn a_write_beyond_the_end_is_a_bug() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewFolder::plan(&dir.path().join("a"), 0).unwrap();
        let _ = new.write(|filling| filling.sized("two", 6)?.write_at(4, b"def"), || Ok(false));
    }
}
