//! Numbers and names of statuses, versions, the last error of a thread.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use crate::base::{Error, Front, Status};

/// A [`Status`] in C.
pub type hz_status_t = i32;

/// `HZ_ABI_VERSION` of the header.
const ABI_VERSION: u32 = 1;

/// `CARGO_PKG_VERSION`, NUL-terminated.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no NUL"),
};

/// `HZ_VERSION_NUMBER` of the header.
const VERSION_NUMBER: u32 = 10_000 * number(env!("CARGO_PKG_VERSION_MAJOR"))
    + 100 * number(env!("CARGO_PKG_VERSION_MINOR"))
    + number(env!("CARGO_PKG_VERSION_PATCH"));

/// Parses a part of the version.
const fn number(text: &str) -> u32 {
    match u32::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("the parts of a version are decimal numbers"),
    }
}

/// Every status.
const ALL: [Status; 18] = [
    Status::Ok,
    Status::InvalidArgument,
    Status::InvalidState,
    Status::NotFound,
    Status::BadFormat,
    Status::Unsupported,
    Status::NoTarget,
    Status::NonFinite,
    Status::StepPartial,
    Status::Cancelled,
    Status::OutOfHostMemory,
    Status::Io,
    Status::DiskFull,
    Status::DeviceUnavailable,
    Status::OutOfDeviceMemory,
    Status::DeviceFailed,
    Status::Internal,
    Status::Panic,
];

/// The header's name of a status. Add a new one to [`ALL`], too.
fn c_name(status: Status) -> &'static CStr {
    match status {
        Status::Ok => c"HZ_STATUS_OK",
        Status::InvalidArgument => c"HZ_STATUS_INVALID_ARGUMENT",
        Status::InvalidState => c"HZ_STATUS_INVALID_STATE",
        Status::NotFound => c"HZ_STATUS_NOT_FOUND",
        Status::BadFormat => c"HZ_STATUS_BAD_FORMAT",
        Status::Unsupported => c"HZ_STATUS_UNSUPPORTED",
        Status::NoTarget => c"HZ_STATUS_NO_TARGET",
        Status::NonFinite => c"HZ_STATUS_NON_FINITE",
        Status::StepPartial => c"HZ_STATUS_STEP_PARTIAL",
        Status::Cancelled => c"HZ_STATUS_CANCELLED",
        Status::OutOfHostMemory => c"HZ_STATUS_OUT_OF_HOST_MEMORY",
        Status::Io => c"HZ_STATUS_IO",
        Status::DiskFull => c"HZ_STATUS_DISK_FULL",
        Status::DeviceUnavailable => c"HZ_STATUS_DEVICE_UNAVAILABLE",
        Status::OutOfDeviceMemory => c"HZ_STATUS_OUT_OF_DEVICE_MEMORY",
        Status::DeviceFailed => c"HZ_STATUS_DEVICE_FAILED",
        Status::Internal => c"HZ_STATUS_INTERNAL",
        Status::Panic => c"HZ_STATUS_PANIC",
    }
}

thread_local! {
    /// The text of `hz_last_error`; only the next failure replaces it.
    static LAST: RefCell<CString> = RefCell::default();
}

/// Stores the message of a call that failed on this thread.
pub(super) fn remember(error: &Error) {
    let text = c_string(&error.message_for(Front::C));
    // Fails while the thread ends; the caller still has the status.
    let _ = LAST.try_with(|last| last.replace(text));
}

/// Text for C. A NUL inside, which can only come from a file, becomes U+2400.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{2400}")).expect("every NUL was replaced")
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_version() -> *const c_char {
    VERSION.as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_version_number() -> u32 {
    VERSION_NUMBER
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_abi_version() -> u32 {
    ABI_VERSION
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_status_name(status: hz_status_t) -> *const c_char {
    let known = ALL.into_iter().find(|known| *known as i32 == status);
    known.map_or(c"HZ_STATUS_UNKNOWN", c_name).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::header::assert_enum;

    #[test]
    fn numbers_are_those_of_the_header() {
        let ours = ALL.map(|status| (c_name(status).to_str().unwrap(), status as u32));
        assert_enum("hz_status_t", &ours);
    }

    #[test]
    fn names_are_those_of_base() {
        for status in ALL {
            let name = c_name(status).to_str().unwrap();
            assert_eq!(name.strip_prefix("HZ_STATUS_"), Some(status.name()));
        }
    }

    #[test]
    fn text_for_c_has_no_nul() {
        assert_eq!(c_string("a\0b").to_str().unwrap(), "a\u{2400}b");
    }
}
