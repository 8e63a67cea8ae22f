//! The error type of the library: a status for programs and a message for users.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::base::{Front, Message};

/// An error code. Classes: 1xx caller, 2xx host machine, 3xx device, 9xx bug in the library.
///
/// The numbers are part of the C ABI (`HZ_STATUS_*` in `include/horizon.h` and `src/capi/status.rs`)
/// and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// No error.
    Ok = 0,
    /// An argument, option or field has a value that cannot be used.
    InvalidArgument = 100,
    /// The call is not allowed in the handle's current state (closed, failed, nothing accumulated).
    InvalidState = 101,
    /// The named file, folder or tensor does not exist.
    NotFound = 102,
    /// A file exists but its contents do not conform to its format.
    BadFormat = 103,
    /// The input is valid but not supported.
    Unsupported = 104,
    /// A step without any supervised token: every target is ignored or has weight 0.
    NoTarget = 105,
    /// A loss, gradient norm, logit or weight is not finite; nothing was changed.
    NonFinite = 110,
    /// A gradient was not finite after some units had been updated; the message names the unit.
    StepPartial = 111,
    /// A callback of the caller, or another thread, ended the call.
    Cancelled = 112,
    /// The model does not fit the host memory limit.
    OutOfHostMemory = 200,
    /// Reading or writing a file failed.
    Io = 201,
    /// The file system has no space left for a file.
    DiskFull = 202,
    /// The requested device does not exist or cannot be used.
    DeviceUnavailable = 300,
    /// The model does not fit the device memory limit.
    OutOfDeviceMemory = 301,
    /// Work on the device failed; the handle stays failed.
    DeviceFailed = 302,
    /// An invariant of the library does not hold.
    Internal = 900,
    /// A panic was caught at the C ABI boundary.
    Panic = 901,
}

/// A [`Status`] and a message that says what was expected, what was found, and what to do.
///
/// `Display` shows the message for users of Rust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    message: Message,
}

/// The result type of fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given status.
    pub fn new(status: Status, message: impl Into<Message>) -> Self {
        Error { status, message: message.into() }
    }

    /// An `InvalidArgument` error.
    pub fn argument(message: impl Into<Message>) -> Self {
        Error::new(Status::InvalidArgument, message)
    }

    /// An `Internal` error: an invariant of the library does not hold.
    pub fn internal(message: impl Into<Message>) -> Self {
        Error::new(Status::Internal, message)
    }

    /// An I/O error. `what` states what failed, for example "cannot read data/train.bin".
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let status = match error.kind() {
            std::io::ErrorKind::NotFound => Status::NotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Status::DiskFull,
            _ => Status::Io,
        };
        Error::new(status, format!("{what}: {error}"))
    }

    /// A file or folder that cannot be read.
    pub fn reading(path: &Path, error: &std::io::Error) -> Self {
        Error::io(format!("cannot read {}", path.display()), error)
    }

    /// A file that cannot be written.
    pub fn writing(path: &Path, error: &std::io::Error) -> Self {
        Error::io(format!("cannot write {}", path.display()), error)
    }

    /// Returns the error with `place:` in front of its message.
    pub fn within(self, place: impl fmt::Display) -> Self {
        self.map(|message| format!("{place}: {message}"))
    }

    /// Returns the error with the message that `change` makes of its own.
    #[doc(hidden)]
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        Error { message: self.message.map(change), ..self }
    }

    /// The error code.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The message for users of Rust.
    pub fn message(&self) -> &str {
        self.message.as_str()
    }

    /// Returns the message alone.
    #[doc(hidden)]
    pub fn into_message(self) -> Message {
        self.message
    }

    /// The message for users of a front end.
    #[doc(hidden)]
    pub fn message_for(&self, front: Front) -> Cow<'_, str> {
        self.message.render(front)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.message, f)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Name;

    #[test]
    fn a_longer_message_keeps_the_names_of_each_front_end() {
        let error = Error::argument(format!("{} is 5", Name::HostMem)).within("here");
        let error = error.map(|message| format!("{message}; call {}", Name::Update));
        assert_eq!(error.message_for(Front::Command), "here: --host-mem is 5; call update");
        assert_eq!(error.message_for(Front::C), "here: host_mem is 5; call hz_trainer_update");
        assert_eq!(error.message(), "here: host_mem is 5; call Trainer::update");
        assert_eq!(error.to_string(), error.message());
        assert!(format!("{error:?}").contains(error.message()), "{error:?}");
    }
}
