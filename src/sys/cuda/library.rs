//! Shared libraries that are opened at run time.

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use crate::sys::cuda::string;

/// A shared library, closed with its last user.
#[derive(Debug)]
pub(super) struct Library(*mut c_void);

impl Library {
    /// Opens what the dynamic loader finds by this name or path; an error is the loader's answer.
    pub fn open(place: &Path) -> Result<Self, String> {
        let name =
            CString::new(place.as_os_str().as_bytes()).map_err(|_| "a path with a zero byte".to_string())?;
        // SAFETY: opening a library runs its initializers, which is what naming it asks for.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        if !library.is_null() {
            return Ok(Library(library));
        }
        // SAFETY: after a failure on this thread this is a terminated string, copied at once.
        let why = unsafe { string(libc::dlerror()) };
        // The loader opens with the name it was given.
        let opening = format!("{}: ", place.display());
        Err(why.strip_prefix(&opening).unwrap_or(&why).to_string())
    }

    /// The address of a symbol, for as long as the library is open.
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: the library is open and the name is terminated.
        NonNull::new(unsafe { libc::dlsym(self.0, name.as_ptr()) })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: opened once by `open`; whoever keeps what was found in it keeps it, too.
        unsafe { libc::dlclose(self.0) };
    }
}
