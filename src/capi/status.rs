//! Numbers and names of statuses, versions, the last error of a thread.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use crate::base::{Error, Front, Status};
use crate::capi::enums::Enum;

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

/// `HZ_STATUS_*`.
pub(super) static STATUSES: Enum<Status> = Enum {
    name: "hz_status_t",
    constants: &[
        constant(c"HZ_STATUS_OK", Status::Ok),
        constant(c"HZ_STATUS_INVALID_ARGUMENT", Status::InvalidArgument),
        constant(c"HZ_STATUS_INVALID_STATE", Status::InvalidState),
        constant(c"HZ_STATUS_NOT_FOUND", Status::NotFound),
        constant(c"HZ_STATUS_BAD_FORMAT", Status::BadFormat),
        constant(c"HZ_STATUS_UNSUPPORTED", Status::Unsupported),
        constant(c"HZ_STATUS_NO_TARGET", Status::NoTarget),
        constant(c"HZ_STATUS_NON_FINITE", Status::NonFinite),
        constant(c"HZ_STATUS_STEP_PARTIAL", Status::StepPartial),
        constant(c"HZ_STATUS_CANCELLED", Status::Cancelled),
        constant(c"HZ_STATUS_OUT_OF_HOST_MEMORY", Status::OutOfHostMemory),
        constant(c"HZ_STATUS_IO", Status::Io),
        constant(c"HZ_STATUS_DISK_FULL", Status::DiskFull),
        constant(c"HZ_STATUS_DEVICE_UNAVAILABLE", Status::DeviceUnavailable),
        constant(c"HZ_STATUS_OUT_OF_DEVICE_MEMORY", Status::OutOfDeviceMemory),
        constant(c"HZ_STATUS_DEVICE_FAILED", Status::DeviceFailed),
        constant(c"HZ_STATUS_INTERNAL", Status::Internal),
        constant(c"HZ_STATUS_PANIC", Status::Panic),
    ],
};

/// A status has its number in C.
const fn constant(name: &'static CStr, status: Status) -> (&'static CStr, u32, Status) {
    (name, status as u32, status)
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
    let constant = STATUSES.constants.iter().find(|(_, _, known)| *known as hz_status_t == status);
    constant.map_or(c"HZ_STATUS_UNKNOWN", |(name, ..)| name).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_c_has_no_nul() {
        assert_eq!(c_string("a\0b").to_str().unwrap(), "a\u{2400}b");
    }
}
