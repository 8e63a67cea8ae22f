//! The table of the foreign functions that CUDA's part of the crate calls; `sys::cuda::bindings` lists them.
//!
//! The table is the process's. Unless another is [installed](install) first, it holds the functions that are linked
//! into a build with kernels; a build without kernels has none. The driver's functions are found through the
//! runtime, and cuBLASLt's by opening the library, unless the table brings its own.

use std::ffi::{CStr, c_void};
use std::mem;
use std::ptr::NonNull;

use once_cell::sync::OnceCell;

use crate::base::{Error, Result, Status};
use crate::sys::cuda::bindings::*;

/// Declares the table of a group.
macro_rules! table {
    ($(#[$about:meta])* $table:ident; $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(#[$about])*
        #[allow(missing_docs, non_snake_case)]
        #[derive(Clone, Copy, Debug)]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($argument: $type),*) -> $result,)*
        }

        impl $table {
            /// The functions at the addresses that `symbol` gives for their names, or its first error.
            ///
            /// # Safety
            /// What lies at an address is the function of that name, and stays as long as it is called.
            pub unsafe fn find<E>(
                mut symbol: impl FnMut(&'static CStr) -> Result<NonNull<c_void>, E>,
            ) -> Result<Self, E> {
                Ok($table {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        let name = CStr::from_bytes_with_nul(name).expect("one zero byte, at the end");
                        let address = symbol(name)?.as_ptr();
                        // SAFETY: by the caller's word the function of this name, whose type the header states.
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
    /// The functions of the CUDA runtime.
    Runtime;);
cuda_functions!(driver, table
    /// The functions of the driver, which are looked up through the runtime.
    DriverFunctions;);
cuda_functions!(kernels, table
    /// The launchers of `csrc/kernels.h`, which states the contract of each.
    Launchers;);
cuda_functions!(cublaslt, table
    /// The functions of cuBLASLt.
    CublasLtFunctions;);

/// The table of foreign functions.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// The CUDA runtime.
    pub runtime: Runtime,
    /// Our kernels.
    pub kernels: Launchers,
    /// Whether attention by wgmma is among the kernels: they are built for `sm_90a`.
    pub wgmma: bool,
    /// cuBLASLt; `None`: it is opened at run time.
    pub cublaslt: Option<CublasLtFunctions>,
}

/// A table whose functions are the linked ones.
#[cfg(hz_cuda)]
macro_rules! linked {
    ($table:ident; $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $table { $($name,)* }
    };
}

impl Api {
    /// The functions that are linked into this library; `None` in a build without kernels.
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

/// The process's table. Errors: this build has no kernels (`DeviceUnavailable`).
pub fn api() -> Result<&'static Api> {
    API.get_or_init(Api::linked).as_ref().ok_or_else(|| {
        Error::new(
            Status::DeviceUnavailable,
            "this library was built without CUDA kernels: build it where a CUDA toolkit is found, whose folder CUDA_HOME \
             names (HZ_CUDA=require says why one is not)",
        )
    })
}

/// Makes a table the process's, for tests. Errors: one is in use already (`InvalidState`).
///
/// # Safety
/// The functions keep the contracts of those they are named after.
#[doc(hidden)]
pub unsafe fn install(api: Api) -> Result<()> {
    API.set(Some(api))
        .map_err(|_| Error::new(Status::InvalidState, "a table of CUDA's functions is in use already"))
}
