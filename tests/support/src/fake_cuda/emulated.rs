//! The kernels and the cuBLASLt of `tests/emulator`, whose work goes to the streams of fake devices.

use horizon::sys::cuda::{CublasLtFunctions, Launchers};
use parking_lot::{ReentrantMutex, ReentrantMutexGuard};

/// The emulator's state is the process's: one kernel at a time.
static EMULATOR: ReentrantMutex<()> = ReentrantMutex::new(());

/// Keeps other threads from running emulated kernels.
pub fn hold() -> ReentrantMutexGuard<'static, ()> {
    EMULATOR.lock()
}

/// Whether there are emulated kernels: not in a build without a toolkit, and not where `HZ_NO_EMULATOR` says that there
/// is no compiler to build them with.
pub fn is_there() -> bool {
    cfg!(hz_cuda) && std::env::var_os("HZ_NO_EMULATOR").is_none()
}

#[cfg(hz_cuda)]
mod library {
    use std::ffi::{CStr, CString, c_void};
    use std::mem;
    use std::os::unix::ffi::OsStrExt;
    use std::ptr::NonNull;
    use std::sync::OnceLock;

    use horizon::sys::cuda::bindings::cudaStream_t;

    use crate::emulator;
    use crate::fake_cuda::calls::stream_of;
    use crate::fake_cuda::faults::note;
    use crate::fake_cuda::machine::Work;

    /// A symbol of the library, which is opened once and stays.
    pub fn symbol(name: &CStr) -> Result<NonNull<c_void>, String> {
        static LIBRARY: OnceLock<usize> = OnceLock::new();
        let library = *LIBRARY.get_or_init(|| {
            let path = CString::new(emulator::library().as_os_str().as_bytes()).expect("a path");
            // SAFETY: the library of `tests/emulator`.
            let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            assert!(!library.is_null(), "{path:?} cannot be opened");
            // SAFETY: in library.cc it takes such a function.
            unsafe {
                type SetEnqueue =
                    unsafe extern "C" fn(unsafe extern "C" fn(cudaStream_t, *const c_void, *mut c_void));
                let set = libc::dlsym(library, c"hz_emulated_enqueue".as_ptr());
                assert!(!set.is_null(), "{path:?} lacks hz_emulated_enqueue");
                mem::transmute::<*mut c_void, SetEnqueue>(set)(enqueue);
            }
            library.expose_provenance()
        });
        // SAFETY: an open library and a terminated name.
        let found = unsafe { libc::dlsym(std::ptr::with_exposed_provenance_mut(library), name.as_ptr()) };
        NonNull::new(found).ok_or_else(|| format!("the emulated library lacks {name:?}"))
    }

    /// Takes a kernel that a launcher or a product launches.
    unsafe extern "C" fn enqueue(stream: cudaStream_t, kernel: *const c_void, work: *mut c_void) {
        let run = move || {
            let _one = super::hold();
            let run = symbol(c"hz_emulated_run").expect("it is in library.cc");
            // SAFETY: in library.cc it takes work, and this work was not done before.
            unsafe { mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(run.as_ptr())(work) };
        };
        let queued = stream_of(stream)
            .and_then(|(device, number)| device.launch(number, kernel.addr(), Work(Box::new(run))));
        // What launching a kernel leaves, and the launcher then returns.
        note(queued.err().unwrap_or(0));
    }
}

#[cfg(not(hz_cuda))]
mod library {
    use std::ffi::{CStr, c_void};
    use std::ptr::NonNull;

    pub fn symbol(name: &CStr) -> Result<NonNull<c_void>, String> {
        Err(format!("there is no {name:?}: this build has no kernels to emulate"))
    }
}

/// The launchers.
///
/// # Panics
/// If the library cannot be made: the toolkit that compiled the kernels is all it needs beside a C++ compiler.
pub fn launchers() -> Launchers {
    // SAFETY: the library is made of csrc's launchers.
    unsafe { Launchers::find(library::symbol) }.unwrap_or_else(|error| panic!("{error}"))
}

/// The functions of the emulated cuBLASLt.
///
/// # Panics
/// As [`launchers`].
pub fn products() -> CublasLtFunctions {
    // SAFETY: the library has these functions of cublasLt.h.
    unsafe { CublasLtFunctions::find(library::symbol) }.unwrap_or_else(|error| panic!("{error}"))
}

/// Chooses the schedule of the emulated kernels that follow.
///
/// # Panics
/// As [`launchers`].
pub fn seed(schedule: u64) {
    let seed = library::symbol(c"hz_emulated_seed").unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: in library.cc it takes a number; no kernel runs meanwhile.
    unsafe {
        std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn(u64)>(seed.as_ptr())(schedule);
    }
}
