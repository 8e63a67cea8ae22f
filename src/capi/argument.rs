//! Pointers from C as Rust values: NULL and impossible lengths are refused by name.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice;

use crate::base::{Error, Result};

fn null(what: &str) -> Error {
    Error::argument(format!("{what} is NULL"))
}

/// Refuses NULL and what `count` elements cannot lie behind.
fn check<T>(pointer: *const T, count: usize, what: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(null(what));
    }
    if !pointer.is_aligned() {
        return Err(Error::argument(format!(
            "{what} is not aligned: its address must be a multiple of {}",
            align_of::<T>()
        )));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Error::argument(format!("{what} cannot have {count} elements: no memory holds them")));
    }
    Ok(())
}

/// A handle, or anything else behind one pointer.
///
/// # Safety
/// `pointer` is NULL, or points to a `T` that lives, unmoved and not written to except through its own locks, for `'a`.
pub unsafe fn handle<'a, T>(pointer: *const T, what: &str) -> Result<&'a T> {
    check(pointer, 1, what)?;
    // SAFETY: not NULL, aligned, and the rest is the promise of this function's caller.
    Ok(unsafe { &*pointer })
}

/// A place for one result of a type that C knows, too. Not NULL, aligned; nothing is read from it.
pub fn place<T>(pointer: *mut T, what: &str) -> Result<*mut T> {
    check(pointer, 1, what)?;
    Ok(pointer)
}

/// An array to read.
///
/// # Safety
/// `pointer` is NULL, or `count` elements can be read there and nobody writes to them for `'a`.
pub unsafe fn array<'a, T: Copy>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    check(pointer, count, what)?;
    // SAFETY: not NULL, aligned, no longer than memory can be; the rest is the promise of the caller.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// An array to read that may be left out.
///
/// # Safety
/// As [`array`].
pub unsafe fn optional_array<'a, T: Copy>(
    pointer: *const T,
    count: usize,
    what: &str,
) -> Result<Option<&'a [T]>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the promise is the same.
    unsafe { array(pointer, count, what) }.map(Some)
}

/// An array of f32 to write. What stands there before has no meaning, and any bits are an f32.
///
/// # Safety
/// `pointer` is NULL, or `count` elements can be read and written there, and nobody else does for `'a`.
pub unsafe fn array_out<'a>(pointer: *mut f32, count: usize, what: &str) -> Result<&'a mut [f32]> {
    check(pointer, count, what)?;
    // SAFETY: not NULL, aligned, no longer than memory can be; exclusive by the promise of the caller.
    Ok(unsafe { slice::from_raw_parts_mut(pointer, count) })
}

/// The bytes of a string.
///
/// # Safety
/// `pointer` is NULL, or points to a NUL-terminated string that nobody writes to for `'a`.
unsafe fn bytes<'a>(pointer: *const c_char, what: &str) -> Result<&'a [u8]> {
    check(pointer, 1, what)?;
    // SAFETY: not NULL, and the terminator is the promise of the caller.
    Ok(unsafe { CStr::from_ptr(pointer) }.to_bytes())
}

/// A name.
///
/// # Safety
/// As a C string: NULL, or NUL-terminated and left alone for `'a`.
pub unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: the promise is the same.
    let bytes = unsafe { bytes(pointer, what) }?;
    std::str::from_utf8(bytes).map_err(|error| {
        Error::argument(format!("{what} is not UTF-8: {error} (\"{}\")", String::from_utf8_lossy(bytes)))
    })
}

/// A file name: any bytes but none at all.
///
/// # Safety
/// As [`text`].
pub unsafe fn path<'a>(pointer: *const c_char, what: &str) -> Result<&'a Path> {
    // SAFETY: the promise is the same.
    let bytes = unsafe { bytes(pointer, what) }?;
    if bytes.is_empty() {
        return Err(Error::argument(format!("{what} is empty; it must name a file or folder")));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// A size as the machine counts.
pub fn size(value: u64, what: &str) -> Result<usize> {
    usize::try_from(value)
        .map_err(|_| Error::argument(format!("{what} is {value}; this machine counts to {}", usize::MAX)))
}
