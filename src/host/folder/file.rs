//! Files that are replaced completely or not at all.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::hidden::{Hidden, Kind, Sweep};
use super::{facts, keep_access, sync_parent};
use crate::base::{Error, Result};
use crate::host::files::retried;
use crate::host::input::is_descriptor;

/// Bytes of the buffer of a file that is being written.
const BUFFER: usize = 1 << 16;

/// A file that is being written under a hidden name. If it is dropped before
/// [`NewFile::finish`], the hidden file is removed and the final path is unchanged.
#[derive(Debug)]
pub struct NewFile {
    /// The path that errors name.
    path: PathBuf,
    target: PathBuf,
    out: BufWriter<File>,
    hidden: Hidden,
}

impl NewFile {
    /// Creates a file that replaces `path` or, if that is a link, the file to which it leads.
    /// Removes what killed writers of the same path left.
    ///
    /// Errors: as [`replaced_path`], or its folder is not writable; the message names the file.
    pub fn create(path: &Path) -> Result<NewFile> {
        NewFile::at(path, replaced_path(path)?)
    }

    /// As [`NewFile::create`], but a link is itself replaced: for names in a folder whose links are
    /// not the user's.
    pub fn create_in(folder: &Path, name: impl AsRef<Path>) -> Result<NewFile> {
        let path = folder.join(name);
        match facts(&path) {
            Ok(data) if !data.is_file() && !data.is_symlink() => Err(refused(&path, &data)),
            _ => NewFile::at(&path, path.clone()),
        }
    }

    fn at(path: &Path, target: PathBuf) -> Result<NewFile> {
        Sweep { sole: false, may_replace: None }.next_to(&target);
        let open = || {
            let hidden = Hidden::file(&target, file_at(&target).is_some())?;
            let out = BufWriter::with_capacity(BUFFER, hidden.opened().try_clone()?);
            Ok((hidden, out))
        };
        let (hidden, out) = open().map_err(|error| Error::writing(path, &error))?;
        Ok(NewFile { path: path.to_owned(), target, out, hidden })
    }

    /// The path that errors name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `content`.
    pub fn put(&mut self, content: &[u8]) -> Result<()> {
        self.out.write_all(content).map_err(|error| Error::writing(&self.path, &error))
    }

    /// Syncs the file and gives it its final name. A file that it replaces gives it its
    /// permissions.
    pub fn finish(self) -> Result<()> {
        self.publish(|file, target| file_at(target).map_or(Ok(()), |old| keep_access(file, &old)))
    }

    /// As [`NewFile::finish`], with these permissions.
    pub fn finish_as(self, mode: u32) -> Result<()> {
        self.publish(|file, _| file.set_permissions(Permissions::from_mode(mode)))
    }

    fn publish(self, permit: impl Fn(&File, &Path) -> io::Result<()>) -> Result<()> {
        let NewFile { path, target, out, mut hidden } = self;
        let publish = || {
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            permit(&file, &target)?;
            // Closing the file reports no error that this does not.
            file.sync_all()?;
            hidden.publish(&target)?;
            sync_parent(&target)
        };
        publish().map_err(|error| Error::writing(&path, &error))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Seek for NewFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.out.seek(to)
    }
}

/// Returns the path that [`replace_file`] replaces: the file, or that to which a link leads, which
/// need not exist.
///
/// Errors: the target exists and is not a regular file, or the path names a folder
/// (`InvalidArgument`).
pub fn replaced_path(path: &Path) -> Result<PathBuf> {
    let cannot = |error: io::Error| Error::writing(path, &error);
    let folder =
        || Error::argument(format!("cannot write {}: it names a folder; name a file", path.display()));
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(folder());
    }
    match retried(|| fs::metadata(path)) {
        Ok(data) if !data.is_file() => Err(refused(path, &data)),
        Ok(_) => retried(|| fs::canonicalize(path)).map_err(cannot),
        Err(_) if names_folder(path) => Err(folder()),
        Err(error) if error.kind() == ErrorKind::NotFound => match fs::read_link(path) {
            Ok(to) => replaced_path(&path.with_file_name(to)),
            Err(_) => Ok(path.to_owned()),
        },
        Err(error) => Err(cannot(error)),
    }
}

/// True for a path that ends with `/.` or `..`.
fn names_folder(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    !bytes.is_empty() && path.file_name().is_none_or(|name| !bytes.ends_with(name.as_bytes()))
}

fn file_at(path: &Path) -> Option<Metadata> {
    facts(path).ok().filter(Metadata::is_file)
}

fn refused(path: &Path, data: &Metadata) -> Error {
    let what = if data.is_dir() {
        "a folder; name a file"
    } else {
        "a device, a pipe or a socket; name a regular file"
    };
    Error::argument(format!("cannot write {}: it is {what}", path.display()))
}

/// Checks in advance that [`replace_file`] can write a file, without changing it.
///
/// Errors: as [`NewFile::create`].
pub fn check_replaceable(path: &Path) -> Result<()> {
    NewFile::create(path).map(drop)
}

/// Atomically replaces or creates a file with the content that `fill` writes. Links are followed.
///
/// Errors: as [`NewFile::create`], of the file system and of `fill`. The file is then unchanged.
pub fn replace_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut file = NewFile::create(path)?;
    fill(&mut file)?;
    file.finish()
}

/// Atomically replaces or creates a link. Removes nothing that killed writers left.
pub fn replace_link(path: &Path, to: &str) -> io::Result<()> {
    let hidden = Kind::Partial.path(path)?;
    symlink(to, &hidden)?;
    retried(|| fs::rename(&hidden, path)).inspect_err(|_| {
        // Best effort: the error of the rename is reported, not this one.
        let _ = fs::remove_file(&hidden);
    })?;
    sync_parent(path)
}

/// Creates a file without a name, which vanishes when it is closed, also if the process is killed.
pub fn unnamed_file(folder: &Path) -> io::Result<File> {
    Hidden::file(&folder.join("horizon"), true)?.opened().try_clone()
}

/// Writes an output that the user names: as [`replace_file`], or into a character device or an
/// open descriptor (`/dev/stdout`, `>(command)`) as it is.
///
/// Errors: as [`replace_file`].
pub fn write_output(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if !is_stream(path) {
        return replace_file(path, fill);
    }
    let cannot = |error: io::Error| Error::writing(path, &error);
    let mut out = BufWriter::with_capacity(BUFFER, open_stream(path).map_err(cannot)?);
    fill(&mut out)?;
    out.flush().map_err(cannot)
}

/// Checks in advance that [`write_output`] can write an output, without changing it.
///
/// Errors: as [`check_replaceable`].
pub fn check_output(path: &Path) -> Result<()> {
    if is_stream(path) { Ok(()) } else { check_replaceable(path) }
}

/// Opens a path of which [`is_stream`] is true, to append. Standard output and standard error are
/// duplicated: in a file, a second position would overwrite what else is written there.
pub fn open_stream(path: &Path) -> io::Result<File> {
    let is = |names: [&str; 3]| names.map(Path::new).contains(&path);
    if is(["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]) {
        return io::stdout().as_fd().try_clone_to_owned().map(File::from);
    }
    if is(["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"]) {
        return io::stderr().as_fd().try_clone_to_owned().map(File::from);
    }
    File::options().append(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path)
}

/// True for the names of open descriptors of this process. In another process they name others.
pub fn names_descriptor(path: &Path) -> bool {
    is_descriptor(path) || ["/dev/stdout", "/dev/stderr"].map(Path::new).contains(&path)
}

/// True for an open descriptor and a character device, into which an output is written as it is.
pub fn is_stream(path: &Path) -> bool {
    names_descriptor(path) || fs::metadata(path).is_ok_and(|data| data.file_type().is_char_device())
}
