//! Pointers from C as Rust values. Only this module and [`sized`](super::sized) trust the caller.
//!
//! The types are the parameters of the `extern "C"` functions: each is one pointer
//! (`repr(transparent)`) in a private field, and Rust code cannot make one. So its value comes from
//! a C caller, who promises by `horizon.h` that the pointer is NULL or valid for its parameter
//! during the call. NULL, alignment and impossible lengths are checked; errors name the parameter.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;

use crate::base::{Error, Result};
use crate::host::{HostSpan, Plain};

/// Checks for NULL, alignment, and more elements than memory can hold.
fn check<T>(pointer: *const T, count: usize, what: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::argument(format!("{what} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Error::argument(format!(
            "{what} is not aligned: its address must be a multiple of {}",
            align_of::<T>()
        )));
    }
    check_length(count, size_of::<T>(), what)
}

/// Checks that memory can hold `count` elements of `bytes` bytes.
pub fn check_length(count: usize, bytes: usize, what: &str) -> Result<()> {
    if count.checked_mul(bytes).is_none_or(|total| total > isize::MAX as usize) {
        return Err(Error::argument(format!(
            "{what} cannot have {count} elements: no memory is large enough"
        )));
    }
    Ok(())
}

/// A pointer to one output value.
#[repr(transparent)]
pub struct OutPointer<T>(*mut T);

impl<T> OutPointer<T> {
    /// True for NULL.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Checks, before the work, that the result can be written.
    pub fn check(&self, what: &str) -> Result<()> {
        check(self.0, 1, what)
    }

    /// Writes the result; [`OutPointer::check`] has passed.
    pub fn write(self, value: T) {
        assert!(!self.0.is_null(), "callers check an output before they write it");
        // SAFETY: not NULL, and aligned, as `check` found; horizon.h requires memory for one `T`,
        // initialized or not.
        unsafe { self.0.write(value) };
    }
}

/// An input array.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<T>(*const T);

impl<T: Copy> Array<T> {
    /// No array.
    pub const NULL: Self = Array(ptr::null());

    /// Its `count` elements.
    pub fn get(&self, count: usize, what: &str) -> Result<&[T]> {
        check(self.0, count, what)?;
        // SAFETY: horizon.h requires `count` elements that nothing changes during the call; they are
        // integers or floats, for which any bits are valid.
        Ok(unsafe { slice::from_raw_parts(self.0, count) })
    }

    /// Its `count` elements; `None` for NULL.
    pub fn optional(&self, count: usize, what: &str) -> Result<Option<&[T]>> {
        if self.0.is_null() { Ok(None) } else { self.get(count, what).map(Some) }
    }
}

/// An output array.
#[repr(transparent)]
pub struct ArrayOut<T = f32>(*mut T);

impl<T: Plain> ArrayOut<T> {
    /// Its `count` elements, with unspecified values.
    pub fn get(&mut self, count: usize, what: &str) -> Result<&mut [T]> {
        check(self.0, count, what)?;
        // SAFETY: horizon.h requires `count` elements used by this call alone; any bits are valid for them.
        Ok(unsafe { slice::from_raw_parts_mut(self.0, count) })
    }
}

/// An array, input or output, whose element size depends on other arguments.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers(*mut u8);

impl Numbers {
    /// No array.
    pub const NULL: Self = Numbers(ptr::null_mut());

    /// Memory of the library, valid as long as its handle.
    pub fn lend(span: HostSpan) -> Self {
        Numbers(span.address())
    }

    /// True for NULL.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Returns the `count` elements of `bytes` bytes each, aligned to `bytes`.
    pub fn get(&self, count: usize, bytes: usize, what: &str) -> Result<HostSpan> {
        match bytes {
            2 => check(self.0.cast::<u16>(), count, what)?,
            _ => check(self.0.cast::<u32>(), count, what)?,
        }
        let base = NonNull::new(self.0).expect("NULL was refused");
        // SAFETY: horizon.h requires `count` such elements used by this call alone; its spans end with the
        // call, and uninitialized outputs are only written.
        Ok(unsafe { HostSpan::new(base, count * bytes) })
    }
}

/// The caller's pointer for a callback; passed on, never dereferenced.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct User(*mut c_void);

/// A NUL-terminated string.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Text(*const c_char);

impl Text {
    /// No string.
    pub const NULL: Self = Text(ptr::null());

    fn bytes(&self, what: &str) -> Result<&[u8]> {
        check(self.0, 1, what)?;
        // SAFETY: horizon.h requires that the string ends in NUL and does not change during the call.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }

    /// The string, which must be UTF-8.
    pub fn get(&self, what: &str) -> Result<&str> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).map_err(|error| {
            Error::argument(format!("{what} is not UTF-8: {error} (\"{}\")", String::from_utf8_lossy(bytes)))
        })
    }

    /// As [`Text::get`]; `None` for NULL.
    pub fn optional(&self, what: &str) -> Result<Option<&str>> {
        if self.0.is_null() { Ok(None) } else { self.get(what).map(Some) }
    }

    /// The string as a file name: any bytes, not empty.
    pub fn path(&self, what: &str) -> Result<&Path> {
        match self.bytes(what)? {
            [] => Err(Error::argument(format!("{what} is empty; it must name a file or folder"))),
            bytes => Ok(Path::new(OsStr::from_bytes(bytes))),
        }
    }

    /// As [`Text::path`]; `None` for NULL.
    pub fn optional_path(&self, what: &str) -> Result<Option<&Path>> {
        if self.0.is_null() { Ok(None) } else { self.path(what).map(Some) }
    }
}

/// A string returned to C, valid as long as its handle.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LentText(*const c_char);

impl LentText {
    /// No string.
    pub const NULL: Self = LentText(ptr::null());

    /// A pointer to a string of the library.
    pub fn new(text: &CStr) -> Self {
        LentText(text.as_ptr())
    }
}
