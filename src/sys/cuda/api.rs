//! The function table through which the crate calls CUDA; `sys::cuda::bindings` lists the
//! functions.
//!
//! There is one table per process. Unless a test [installs](install) another first, it holds the
//! functions linked into a build with kernels; a build without kernels has no table. Driver
//! functions are looked up through the runtime. cuBLASLt functions come from the table if it has
//! them, otherwise from the library, opened at run time.

use std::ffi::{CStr, c_void};
use std::mem;
use std::ptr::NonNull;

use once_cell::sync::OnceCell;

use crate::base::{Error, Result, Status};
use crate::sys::cuda::bindings::*;

/// Declares the function table of a group.
macro_rules! table {
    ($(#[$about:meta])* $table:ident; $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(#[$about])*
        #[allow(missing_docs, non_snake_case)]
        #[derive(Clone, Copy, Debug)]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($argument: $type),*) -> $result,)*
        }

        impl $table {
            /// Looks up every function by name with `symbol`. Returns the first error of `symbol`.
            ///
            /// # Safety
            /// `symbol` returns the address of the function of that name, which stays loaded as
            /// long as it is called.
            pub unsafe fn find<E>(
                mut symbol: impl FnMut(&'static CStr) -> Result<NonNull<c_void>, E>,
            ) -> Result<Self, E> {
                Ok($table {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        let name = CStr::from_bytes_with_nul(name).expect("one zero byte, at the end");
                        let address = symbol(name)?.as_ptr();
                        // SAFETY: the caller guarantees that this is the function of this name; the
                        // header states its type.
                        unsafe {
                            mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $result>(address)
                        }
                    },)*
                })
            }
        }
    };
}

cuda_functions!(runtime, table
    /// Functions of the CUDA runtime.
    Runtime;);
cuda_functions!(driver, table
    /// Functions of the driver, looked up through the runtime.
    DriverFunctions;);
cuda_functions!(kernels, table
    /// Launchers of `csrc/kernels.h`, which states their contracts.
    Launchers;);
cuda_functions!(cublaslt, table
    /// Functions of cuBLASLt.
    CublasLtFunctions;);

/// The function table.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// The CUDA runtime.
    pub runtime: Runtime,
    /// The kernel launchers.
    pub kernels: Launchers,
    /// True if the kernels were built for `sm_90a` and include the wgmma attention.
    pub wgmma: bool,
    /// cuBLASLt; `None` if the library is opened at run time.
    pub cublaslt: Option<CublasLtFunctions>,
}

/// A table of the linked functions.
#[cfg(hz_cuda)]
macro_rules! linked {
    ($table:ident; $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $table { $($name,)* }
    };
}

impl Api {
    /// The functions linked into this library; `None` in a build without kernels.
    pub fn linked() -> Option<Api> {
        #[cfg(hz_cuda)]
        return Some(Api {
            runtime: cuda_functions!(runtime, linked Runtime;),
            kernels: cuda_functions!(kernels, linked Launchers;),
            wgmma: cfg!(hz_wgmma),
            cublaslt: None,
        });
        #[cfg(not(hz_cuda))]
        None
    }
}

static API: OnceCell<Option<Api>> = OnceCell::new();

/// The table of this process. Errors: this build has no kernels (`DeviceUnavailable`).
pub fn api() -> Result<&'static Api> {
    API.get_or_init(Api::linked).as_ref().ok_or_else(|| {
        Error::new(
            Status::DeviceUnavailable,
            "this library was built without CUDA kernels: rebuild it with a CUDA toolkit (CUDA_HOME names its folder; \
             HZ_CUDA=require reports why none is found)",
        )
    })
}

/// Installs a table for this process, for tests. Errors: a table is already in use
/// (`InvalidState`).
///
/// # Safety
/// Every function keeps the contract of the CUDA function whose name it has.
#[doc(hidden)]
pub unsafe fn install(api: Api) -> Result<()> {
    API.set(Some(api))
        .map_err(|_| Error::new(Status::InvalidState, "a table of CUDA functions is already in use"))
}
