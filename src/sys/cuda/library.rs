//! Shared libraries opened at run time.

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use crate::sys::cuda::string;

/// An open shared library. Dropping it closes the library.
#[derive(Debug)]
pub(super) struct Library(*mut c_void);

impl Library {
    /// Opens a library by name or path. The error is the dynamic loader's message.
    pub fn open(place: &Path) -> Result<Self, String> {
        let name =
            CString::new(place.as_os_str().as_bytes()).map_err(|_| "a path with a zero byte".to_string())?;
        // SAFETY: opening a library runs its initializers, which the caller requests by naming it.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        if !library.is_null() {
            return Ok(Library(library));
        }
        // SAFETY: after a failure on this thread this is a terminated string; it is copied at once.
        let why = unsafe { string(libc::dlerror()) };
        // The loader's message starts with the name.
        let prefix = format!("{}: ", place.display());
        Err(why.strip_prefix(&prefix).unwrap_or(&why).to_string())
    }

    /// The address of a symbol, valid while the library is open.
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: the library is open and the name is terminated.
        NonNull::new(unsafe { libc::dlsym(self.0, name.as_ptr()) })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: opened once by `open`; owners of symbols also own the library.
        unsafe { libc::dlclose(self.0) };
    }
}
