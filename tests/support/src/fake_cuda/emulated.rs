//! The kernels and the cuBLASLt of `tests/emulator`, run on the CUDA streams of fake devices.

use horizon::sys::cuda::{CublasLtFunctions, Launchers};
use parking_lot::{ReentrantMutex, ReentrantMutexGuard};

/// The emulator has global state, so kernels run one at a time.
static EMULATOR: ReentrantMutex<()> = ReentrantMutex::new(());

/// Prevents other threads from running emulated kernels.
pub fn hold() -> ReentrantMutexGuard<'static, ()> {
    EMULATOR.lock()
}

/// Returns true if emulated kernels are available: the build has a toolkit, and `HZ_NO_EMULATOR`
/// (for machines without a C++ compiler) is not set.
pub fn is_there() -> bool {
    cfg!(hz_cuda) && std::env::var_os("HZ_NO_EMULATOR").is_none()
}

#[cfg(hz_cuda)]
mod library {
    use std::ffi::{CStr, CString, c_void};
    use std::mem;
    use std::os::unix::ffi::OsStrExt;
    use std::ptr::NonNull;

    use horizon::sys::cuda::bindings::cudaStream_t;
    use once_cell::sync::OnceCell;

    use crate::emulator;
    use crate::fake_cuda::calls::stream_of;
    use crate::fake_cuda::faults::note;
    use crate::fake_cuda::machine::Work;

    /// Looks up a symbol of the library, which is opened once and never closed.
    pub fn symbol(name: &CStr) -> Result<NonNull<c_void>, String> {
        static LIBRARY: OnceCell<usize> = OnceCell::new();
        let library = *LIBRARY.get_or_init(|| {
            let path = CString::new(emulator::library().as_os_str().as_bytes()).expect("a path");
            // SAFETY: the initialisers of this library have no preconditions.
            let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            assert!(!library.is_null(), "{path:?} cannot be opened");
            // SAFETY: library.cc declares it with this type.
            unsafe {
                type SetEnqueue =
                    unsafe extern "C" fn(unsafe extern "C" fn(cudaStream_t, *const c_void, *mut c_void));
                let set = libc::dlsym(library, c"hz_emulated_enqueue".as_ptr());
                assert!(!set.is_null(), "{path:?} has no symbol hz_emulated_enqueue");
                mem::transmute::<*mut c_void, SetEnqueue>(set)(enqueue);
            }
            library.expose_provenance()
        });
        // SAFETY: an open library and a terminated name.
        let found = unsafe { libc::dlsym(std::ptr::with_exposed_provenance_mut(library), name.as_ptr()) };
        NonNull::new(found).ok_or_else(|| format!("the emulated library has no symbol {name:?}"))
    }

    /// Queues a kernel that a launcher or a GEMM launches.
    unsafe extern "C" fn enqueue(stream: cudaStream_t, kernel: *const c_void, work: *mut c_void) {
        let run = move || {
            let _lock = super::hold();
            let run = symbol(c"hz_emulated_run").expect("it is in library.cc");
            // SAFETY: library.cc declares it with this type; each work runs once.
            unsafe { mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(run.as_ptr())(work) };
        };
        let queued = stream_of(stream)
            .and_then(|(device, number)| device.launch(number, kernel.addr(), Work(Box::new(run))));
        // As a failed CUDA launch does, so that the launcher returns it.
        note(queued.err().unwrap_or(0));
    }
}

#[cfg(not(hz_cuda))]
mod library {
    use std::ffi::{CStr, c_void};
    use std::ptr::NonNull;

    pub fn symbol(name: &CStr) -> Result<NonNull<c_void>, String> {
        Err(format!("no symbol {name:?}: this build has no kernels to emulate"))
    }
}

/// The emulated launchers.
///
/// # Panics
/// If the library cannot be built; it needs a C++ compiler and the toolkit that compiled the
/// kernels.
pub fn launchers() -> Launchers {
    // SAFETY: the library is built from csrc's launchers.
    unsafe { Launchers::find(library::symbol) }.unwrap_or_else(|error| panic!("{error}"))
}

/// The functions of the emulated cuBLASLt.
///
/// # Panics
/// As [`launchers`].
pub fn cublaslt() -> CublasLtFunctions {
    // SAFETY: the library defines these functions of cublasLt.h.
    unsafe { CublasLtFunctions::find(library::symbol) }.unwrap_or_else(|error| panic!("{error}"))
}

/// Selects the schedule of the following emulated kernels.
///
/// # Panics
/// As [`launchers`].
pub fn seed(schedule: u64) {
    let seed = library::symbol(c"hz_emulated_seed").unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: library.cc declares it with this type; no kernel runs meanwhile.
    unsafe {
        std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn(u64)>(seed.as_ptr())(schedule);
    }
}
