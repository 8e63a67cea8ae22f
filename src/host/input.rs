//! The only place that opens files to read.
//!
//! A path comes from a user, a folder or another file, so it may lead anywhere. Only regular files
//! are read, through links too: the Hugging Face cache consists of links. Devices, named pipes and
//! sockets are refused before anything waits for them or fills the memory. The size of a file is
//! never trusted: what is read whole has a limit, and a file that shrinks while it is read is an
//! error that names it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::base::{Error, Result, Status};

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl InputFile {
    /// Opens a file. Links are followed.
    ///
    /// Errors, which name the file: it does not exist (`NotFound`), is not a regular file
    /// (`InvalidArgument`), or cannot be opened.
    pub fn open(path: &Path) -> Result<InputFile> {
        let (file, bytes) = open(path, false)?;
        Ok(InputFile { path: path.to_owned(), file, bytes })
    }

    /// The path under which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Size, identity and times of the open file as they are now.
    pub fn metadata(&self) -> Result<Metadata> {
        self.file.metadata().map_err(|error| Error::reading(&self.path, &error))
    }

    /// Fills `out` with the bytes from `offset` on. Any threads may call it at the same time.
    ///
    /// Errors, which name the file: it ends before (`BadFormat`), or cannot be read.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::new(
                Status::BadFormat,
                format!(
                    "{} became shorter while it was read: it had {} bytes; do not change it during a run",
                    self.path.display(),
                    self.bytes
                ),
            ),
            _ => Error::reading(&self.path, &error),
        })
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
    Ok(open(path, is_descriptor(path))?.0)
}

/// Reads a file of at most `bytes_max` bytes.
///
/// Errors, which name the file: it is longer (`BadFormat`); those of [`InputFile::open`].
pub fn read_whole(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let InputFile { file, .. } = InputFile::open(path)?;
    let mut content = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| Error::reading(path, &error))?;
    if content.len() as u64 > bytes_max {
        return Err(Error::new(
            Status::BadFormat,
            format!("{} is longer than {bytes_max} bytes, the most for such a file", path.display()),
        ));
    }
    Ok(content)
}

/// As [`read_whole`], for UTF-8. Errors: also `BadFormat` if it is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    String::from_utf8(read_whole(path, bytes_max)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(Status::BadFormat, format!("{}: byte {} is not UTF-8", path.display(), at + 1))
    })
}

/// Opens a regular file, or also a pipe. Returns it with its size.
fn open(path: &Path, pipes: bool) -> Result<(File, u64)> {
    let reading = |error: io::Error| Error::reading(path, &error);
    // Opening a named pipe without this flag waits for a writer.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
            return Err(refused(path, "a socket or a device"));
        }
        Err(error) => return Err(reading(error)),
    };
    let metadata = file.metadata().map_err(reading)?;
    let kind = metadata.file_type();
    if kind.is_file() || pipes && kind.is_fifo() {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|error| reading(error.into()))?;
        return Ok((file, metadata.len()));
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

fn refused(path: &Path, what: &str) -> Error {
    Error::argument(format!("cannot read {}: it is {what}, not a regular file", path.display()))
}

/// True for the names of open descriptors of this process.
fn is_descriptor(path: &Path) -> bool {
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
        for (link, to) in [("near", "file"), ("zero", "/dev/zero"), ("loop", "loop"), ("to pipe", "pipe")] {
            symlink(to, at(link)).unwrap();
        }
        assert_eq!(read_whole(&at("near"), 7).unwrap(), b"horizon");
        assert_eq!(read_text(&at("file"), 7).unwrap(), "horizon");
        for (name, what) in [
            ("zero", "it is a device"),
            ("pipe", "it is a named pipe"),
            ("to pipe", "it is a named pipe"),
            ("socket", "it is a socket"),
            (".", "it is a folder"),
        ] {
            let error = InputFile::open(&at(name)).unwrap_err();
            assert!(error.message().contains(what), "{error}");
            assert_eq!(error.status(), Status::InvalidArgument);
            assert_eq!(open_stream(&at(name)).unwrap_err(), error);
        }
        assert_eq!(InputFile::open(&at("none")).unwrap_err().status(), Status::NotFound);
        assert_eq!(InputFile::open(&at("loop")).unwrap_err().status(), Status::Io);
    }

    #[test]
    fn sizes_are_limited_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "horizon").unwrap();
        assert!(read_whole(&path, 6).unwrap_err().message().contains("longer than 6 bytes"));
        let file = InputFile::open(&path).unwrap();
        let mut out = [0; 3];
        file.read_at(4, &mut out).unwrap();
        assert_eq!((&out, file.bytes()), (b"zon", 7));
        fs::write(&path, "hor").unwrap();
        let error = file.read_at(4, &mut out).unwrap_err();
        assert!(error.message().contains("file became shorter while it was read"), "{error}");
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
