//! The only place that opens files to read.
//!
//! A path comes from a user, a folder or another file, so it may lead anywhere. Only regular files
//! are read, through links too: the Hugging Face cache consists of links. Devices, named pipes and
//! sockets are refused before anything waits for them or fills the memory. The size of a file is
//! never trusted: what is read whole has a limit, and a file that shrinks or is rewritten while it
//! is read is an error that names it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};

use crate::base::{Error, Result, Status};

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    file: File,
    opened: FileState,
}

/// Size and times of a file at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    bytes: u64,
    /// mtime, in seconds and nanoseconds. Every write changes it, and any program can set it back.
    modified: (i64, i64),
    /// ctime. Every write changes it, as new permissions, names and links do; no program can set it
    /// back.
    changed: (i64, i64),
}

impl FileState {
    fn of(metadata: &Metadata) -> FileState {
        FileState {
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl InputFile {
    /// Opens a file. Links are followed.
    ///
    /// Errors, which name the file: it does not exist (`NotFound`), is not a regular file
    /// (`InvalidArgument`), or cannot be opened.
    pub fn open(path: &Path) -> Result<InputFile> {
        InputFile::with(path, OFlag::empty())
    }

    /// As [`InputFile::open`], but refuses a link in place of the file (`InvalidArgument`).
    pub fn open_unlinked(path: &Path) -> Result<InputFile> {
        InputFile::with(path, OFlag::O_NOFOLLOW)
    }

    fn with(path: &Path, flags: OFlag) -> Result<InputFile> {
        let (file, metadata) = open(path, flags, false)?;
        Ok(InputFile { path: path.to_owned(), file, opened: FileState::of(&metadata) })
    }

    /// The path under which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        self.opened.bytes
    }

    /// Its state when it was opened.
    pub fn opened(&self) -> FileState {
        self.opened
    }

    /// Size, identity and times of the open file as they are now.
    pub fn metadata(&self) -> Result<Metadata> {
        self.file.metadata().map_err(|error| Error::reading(&self.path, &error))
    }

    /// Size, identity and times after all changes so far have been written to the disk: every later
    /// write changes the times, also one through a map, which leaves the times of a page that is
    /// not yet written as they are. `None` on file systems for which this is not known.
    pub fn synced_metadata(&self) -> Result<Option<Metadata>> {
        let kind = fstatfs(&self.file).map(|system| system.filesystem_type());
        let is_known = kind.is_ok_and(|kind| {
            [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC].contains(&kind)
        });
        if !is_known || self.file.sync_all().is_err() {
            return Ok(None);
        }
        self.metadata().map(Some)
    }

    /// Fills `out` with the bytes from `offset` on. Any threads may call it at the same time.
    ///
    /// Errors, which name the file: it ends before (`BadFormat`), or cannot be read.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.changed(&format!("became shorter while it was read: it had {} bytes", self.bytes()))
            }
            _ => Error::reading(&self.path, &error),
        })
    }

    /// Checks, after reading, that the file is as it was when it was opened. Errors, which name the
    /// file: as [`InputFile::check_unwritten`]; its ctime changed.
    pub fn check_unchanged(&self) -> Result<()> {
        match self.check_unwritten()? == self.opened {
            true => Ok(()),
            false => Err(self.changed("or its permissions, names or times were changed while it was read")),
        }
    }

    /// Returns the state of the file now, after checking that neither its size nor its mtime changed
    /// since it was opened. If its ctime did, its content may have changed too.
    ///
    /// Errors, which name the file: it was written to (`BadFormat`).
    pub fn check_unwritten(&self) -> Result<FileState> {
        let now = FileState::of(&self.metadata()?);
        match (now.bytes, now.modified) == (self.opened.bytes, self.opened.modified) {
            true => Ok(now),
            false => Err(self.changed("was written to while it was read")),
        }
    }

    fn changed(&self, how: &str) -> Error {
        let message = format!("{} {how}; do not change it during a run", self.path.display());
        Error::new(Status::BadFormat, message)
    }

    /// Starts reading a range from the disk. A hint: it returns at once and has no errors.
    pub fn prefetch(&self, range: Range<u64>) {
        let end = range.end.min(self.bytes());
        let (Ok(start), Ok(bytes)) =
            (i64::try_from(range.start), i64::try_from(end.saturating_sub(range.start)))
        else {
            return;
        };
        if bytes > 0 {
            let _ = posix_fadvise(&self.file, start, bytes, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
    }

    /// Reads the whole file, of at most `bytes_max` bytes. Errors: as [`read_whole`].
    pub fn into_content(self, bytes_max: u64) -> Result<Vec<u8>> {
        check_length(self.bytes(), &self.path, bytes_max)?;
        content(self.file, &self.path, bytes_max)
    }

    /// Returns a reader of the file, of at most `bytes_max` bytes. Errors: it is longer
    /// (`BadFormat`).
    pub fn into_reader(self, bytes_max: u64) -> Result<impl Read> {
        check_length(self.bytes(), &self.path, bytes_max)?;
        Ok(self.file.take(bytes_max))
    }

    /// Returns the file, positioned at its beginning.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Opens data that the user names: a regular file, or a pipe that the process has open already
/// (`/dev/stdin`, and `/dev/fd/N` as the shell's `<(command)` names it). Its first read may wait.
///
/// Errors: as [`InputFile::open`].
pub fn open_stream(path: &Path) -> Result<File> {
    Ok(open(path, OFlag::empty(), is_descriptor(path))?.0)
}

/// Reads data that the user names, of at most `bytes_max` bytes. Errors: as [`read_whole`].
pub fn read_stream(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    content(open_stream(path)?, path, bytes_max)
}

fn content(file: File, path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| Error::reading(path, &error))?;
    // It may have grown, or be one of the kernel's files, whose size is not known.
    check_length(content.len() as u64, path, bytes_max)?;
    Ok(content)
}

fn check_length(bytes: u64, path: &Path, bytes_max: u64) -> Result<()> {
    match bytes > bytes_max {
        true => Err(Error::new(
            Status::BadFormat,
            format!("{} is longer than {bytes_max} bytes, the most for such a file", path.display()),
        )),
        false => Ok(()),
    }
}

/// True if a path exists, also as a link that leads nowhere: to open it then is an error.
pub fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Reads a file of at most `bytes_max` bytes.
///
/// Errors, which name the file: it is longer (`BadFormat`); those of [`InputFile::open`].
pub fn read_whole(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    InputFile::open(path)?.into_content(bytes_max)
}

/// As [`read_whole`]; `None` if the path does not exist. A link that leads nowhere is an error.
pub fn read_if_there(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    if is_there(path) { read_whole(path, bytes_max).map(Some) } else { Ok(None) }
}

/// As [`read_whole`], for UTF-8. Errors: also `BadFormat` if it is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    String::from_utf8(read_whole(path, bytes_max)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(Status::BadFormat, format!("{}: byte {} is not UTF-8", path.display(), at + 1))
    })
}

/// Opens a regular file, or also a pipe.
fn open(path: &Path, flags: OFlag, pipes: bool) -> Result<(File, Metadata)> {
    let reading = |error: io::Error| Error::reading(path, &error);
    // Opening a named pipe without this flag waits for a writer.
    let flags = (flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(nix::libc::ENXIO) => refused(path, "a socket or a device"),
            Some(nix::libc::ELOOP) if flags & nix::libc::O_NOFOLLOW != 0 => refused(path, "a link"),
            Some(nix::libc::ELOOP) => refused(path, "a link that leads back to itself"),
            Some(nix::libc::ENOENT) => nowhere(path).unwrap_or_else(|| reading(error)),
            _ => reading(error),
        }
    })?;
    let metadata = file.metadata().map_err(reading)?;
    let kind = metadata.file_type();
    if kind.is_file() || pipes && kind.is_fifo() {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|error| reading(error.into()))?;
        return Ok((file, metadata));
    }
    Err(refused(
        path,
        match () {
            () if kind.is_dir() => "a folder",
            () if kind.is_fifo() => "a named pipe",
            () if kind.is_socket() => "a socket",
            () => "a device",
        },
    ))
}

/// The error of a link that leads nowhere; `None` for anything else.
fn nowhere(path: &Path) -> Option<Error> {
    let target = fs::read_link(path).ok()?;
    let (path, target) = (path.display(), target.display());
    let message = format!("cannot read {path}: it is a link to {target}, which does not exist");
    Some(Error::new(Status::NotFound, message))
}

fn refused(path: &Path, what: &str) -> Error {
    Error::argument(format!("cannot read {}: it is {what}, not a regular file", path.display()))
}

/// True for the names of open descriptors of this process.
pub(super) fn is_descriptor(path: &Path) -> bool {
    path == Path::new("/dev/stdin")
        || ["/dev/fd/", "/proc/self/fd/"].iter().any(|folder| {
            let number = path.to_str().and_then(|path| path.strip_prefix(folder));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "horizon").unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let links = [
            ("near", "file"),
            ("lost", "none"),
            ("zero", "/dev/zero"),
            ("loop", "loop"),
            ("to pipe", "pipe"),
        ];
        links.iter().for_each(|(link, to)| symlink(to, at(link)).unwrap());
        assert_eq!(read_whole(&at("near"), 7).unwrap(), b"horizon");
        assert_eq!(read_text(&at("file"), 7).unwrap(), "horizon");
        for (name, what) in [
            ("zero", "it is a device"),
            ("pipe", "it is a named pipe"),
            ("to pipe", "it is a named pipe"),
            ("socket", "it is a socket"),
            ("loop", "it is a link that leads back to itself"),
            (".", "it is a folder"),
        ] {
            let error = InputFile::open(&at(name)).unwrap_err();
            assert!(error.message().contains(what), "{error}");
            assert_eq!(error.status(), Status::InvalidArgument);
            assert_eq!(open_stream(&at(name)).unwrap_err(), error);
        }
        assert_eq!(InputFile::open(&at("none")).unwrap_err().status(), Status::NotFound);
        assert!(!is_there(&at("none")) && is_there(&at("lost")));
        assert_eq!(read_if_there(&at("none"), 7).unwrap(), None);
        let error = read_if_there(&at("lost"), 7).unwrap_err();
        assert!(error.message().contains("it is a link to none, which does not exist"), "{error}");
        let error = InputFile::open_unlinked(&at("near")).unwrap_err();
        assert!(error.message().contains("it is a link, not a regular file"), "{error}");
        assert_eq!(InputFile::open_unlinked(&at("file")).unwrap().bytes(), 7);
    }

    #[test]
    fn sizes_are_limited_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "horizon").unwrap();
        assert!(read_whole(&path, 6).unwrap_err().message().contains("longer than 6 bytes"));
        let sparse = dir.path().join("sparse");
        File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        assert!(read_whole(&sparse, 1 << 39).unwrap_err().message().contains("sparse is longer than"));
        let file = InputFile::open(&path).unwrap();
        let mut out = [0; 3];
        file.read_at(4, &mut out).unwrap();
        assert_eq!((&out, file.bytes()), (b"zon", 7));
        file.prefetch(3..u64::MAX);
        file.prefetch(Range { start: 9, end: 8 });
        file.check_unchanged().unwrap();
        fs::write(&path, "hor").unwrap();
        let error = file.read_at(4, &mut out).unwrap_err();
        assert!(error.message().contains("file became shorter while it was read"), "{error}");
        let error = file.check_unchanged().unwrap_err();
        assert!(error.message().contains("file was written to while it was read"), "{error}");
        fs::write(&path, b"\xffabc").unwrap();
        assert!(read_text(&path, 9).unwrap_err().message().contains("byte 1 is not UTF-8"));
    }

    #[test]
    fn a_pipe_that_is_open_already_is_a_stream() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"rows").unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let mut text = String::new();
        open_stream(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "rows");
        assert!(InputFile::open(&path).is_err());
    }
}
