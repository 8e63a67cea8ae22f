//! Pointers from C as Rust values. All that is believed of a caller is believed here and in [`sized`](super::sized).
//!
//! The types are the parameters of the `extern "C"` functions: each is one pointer (`repr(transparent)`), its field is
//! private, and nothing in Rust makes one. So a value of such a type comes from a C caller, who promises by
//! `horizon.h` that the pointer is NULL or valid for what its parameter is, and stays so during the call.
//! What can be looked at is not believed: NULL, alignment and impossible lengths are refused by name.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;

use crate::base::{Error, Result};
use crate::host::{HostSpan, Plain};

/// Refuses NULL, a crooked pointer, and more elements than memory can hold.
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
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Error::argument(format!("{what} cannot have {count} elements: no memory holds them")));
    }
    Ok(())
}

/// A handle that an open function gave out and nobody has closed.
#[repr(transparent)]
pub struct Handle<T>(*mut T);

impl<T> Handle<T> {
    /// Whether there is none.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// What the handle stands for. Shared: what changes behind it is behind a lock.
    pub fn get(&self, what: &str) -> Result<&T> {
        check(self.0, 1, what)?;
        // SAFETY: from `OutPointer::open`, thus a live box; the caller promised not to close it during this call, and
        // nobody takes it mutably before `close`.
        Ok(unsafe { &*self.0 })
    }

    /// Takes the handle back; it must not be NULL.
    pub fn close(self) -> Box<T> {
        assert!(!self.is_null(), "a NULL handle was asked for before it is closed");
        // SAFETY: the pointer came out of `Box::into_raw` in `OutPointer::open`, and the caller promised to close once.
        unsafe { Box::from_raw(self.0) }
    }
}

/// A place for one plain result.
#[repr(transparent)]
pub struct OutPointer<T>(*mut T);

impl<T> OutPointer<T> {
    /// Whether there is no place.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Refuses a place that could not be written to afterwards.
    pub fn check(&self, what: &str) -> Result<()> {
        check(self.0, 1, what)
    }

    /// Writes the result; [`OutPointer::check`] has passed.
    pub fn write(self, value: T) {
        assert!(!self.0.is_null(), "a place is looked at before it is written");
        // SAFETY: not NULL, aligned by `check`; the caller gave room for one `T`, whatever bytes stand there now.
        unsafe { self.0.write(value) };
    }
}

impl<T> OutPointer<*mut T> {
    /// Hands out a new handle.
    pub fn open(self, value: T) {
        self.write(Box::into_raw(Box::new(value)));
    }
}

/// An array to read.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<T>(*const T);

impl<T: Copy> Array<T> {
    /// No array.
    pub const NULL: Self = Array(ptr::null());

    /// Its `count` elements.
    pub fn get(&self, count: usize, what: &str) -> Result<&[T]> {
        check(self.0, count, what)?;
        // SAFETY: the caller passed `count` elements with the array and leaves them alone during the call; they are
        // integers or floats, of which any bits are a value.
        Ok(unsafe { slice::from_raw_parts(self.0, count) })
    }

    /// Its `count` elements, if there is an array.
    pub fn optional(&self, count: usize, what: &str) -> Result<Option<&[T]>> {
        if self.0.is_null() { Ok(None) } else { self.get(count, what).map(Some) }
    }
}

/// An array to write.
#[repr(transparent)]
pub struct ArrayOut<T = f32>(*mut T);

impl<T: Plain> ArrayOut<T> {
    /// Its `count` elements, whose present values mean nothing.
    pub fn get(&mut self, count: usize, what: &str) -> Result<&mut [T]> {
        check(self.0, count, what)?;
        // SAFETY: the caller gave room for `count` numbers to this call alone, and any bits found there are one.
        Ok(unsafe { slice::from_raw_parts_mut(self.0, count) })
    }
}

/// An array of numbers whose size depends on what else was said, in or out.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers(*mut u8);

impl Numbers {
    /// No array.
    pub const NULL: Self = Numbers(ptr::null_mut());

    /// Memory of the library's, handed out; the handle that keeps it says how long it lives.
    pub fn lend(span: HostSpan) -> Self {
        Numbers(span.address())
    }

    /// Whether there is none.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Its `count` elements of `bytes` bytes each, which lie at a multiple of that.
    pub fn get(&self, count: usize, bytes: usize, what: &str) -> Result<HostSpan> {
        match bytes {
            2 => check(self.0.cast::<u16>(), count, what)?,
            _ => check(self.0.cast::<u32>(), count, what)?,
        }
        let base = NonNull::new(self.0).expect("NULL was refused");
        // SAFETY: the caller passed room for `count` such elements with the array and leaves them to this call;
        // the spans made of it end with the call, and what holds no value yet is only written.
        Ok(unsafe { HostSpan::new(base, count * bytes) })
    }
}

/// What a callback gets back as the caller gave it; never followed.
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
        // SAFETY: the caller passed a string that ends in NUL and leaves it alone during the call.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }

    /// As a name.
    pub fn get(&self, what: &str) -> Result<&str> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).map_err(|error| {
            Error::argument(format!("{what} is not UTF-8: {error} (\"{}\")", String::from_utf8_lossy(bytes)))
        })
    }

    /// As a name, where there need not be one.
    pub fn optional(&self, what: &str) -> Result<Option<&str>> {
        if self.0.is_null() { Ok(None) } else { self.get(what).map(Some) }
    }

    /// As a file name: any bytes but none at all.
    pub fn path(&self, what: &str) -> Result<&Path> {
        match self.bytes(what)? {
            [] => Err(Error::argument(format!("{what} is empty; it must name a file or folder"))),
            bytes => Ok(Path::new(OsStr::from_bytes(bytes))),
        }
    }

    /// As a file name, where there need not be one.
    pub fn optional_path(&self, what: &str) -> Result<Option<&Path>> {
        if self.0.is_null() { Ok(None) } else { self.path(what).map(Some) }
    }
}

/// A string that the library hands out, never read back here; the handle that keeps it says how long it lives.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LentText(*const c_char);

impl LentText {
    /// No string.
    pub const NULL: Self = LentText(ptr::null());

    /// A string of the library's.
    pub fn new(text: &CStr) -> Self {
        LentText(text.as_ptr())
    }
}

/// A size as the machine counts.
pub fn size(value: u64, what: &str) -> Result<usize> {
    usize::try_from(value)
        .map_err(|_| Error::argument(format!("{what} is {value}; this machine counts to {}", usize::MAX)))
}
