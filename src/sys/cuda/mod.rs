//! CUDA: safe wrappers for the runtime, the driver, cuBLASLt and our kernels, over one [table](Api) of C functions.
//!
//! Compiled in every build. Without a table of functions, or without a driver, [`device_count`] returns 0 and everything
//! else returns an error. Wrappers own their CUDA objects and turn statuses into errors with CUDA's name and description.
//!
//! Every thread that creates or uses CUDA objects calls [`set_device`] first.
//!
//! No wrapper blocks inside CUDA until work is done: waits [`poll`]. A waiting thread thus holds a driver lock, or is
//! blocked by one, only for the duration of a query.

/// The names of `cuda.h`, `cuda_runtime_api.h` and `cublasLt.h` that the crate uses, and all of `csrc/kernels.h`: generated
/// by `build.rs` from the toolkit's headers, or the committed snapshot in a build without kernels. Declares only the
/// functions that are linked.
#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, clippy::all)]
#[macro_use]
pub mod bindings {
    #[cfg(hz_cuda)]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
    #[cfg(not(hz_cuda))]
    include!("bindings.rs");

    macro_rules! declare {
        ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
            unsafe extern "C" { $(pub fn $name($($argument: $type),*) -> $result;)* }
        };
    }

    cuda_functions!(runtime, declare);
    cuda_functions!(kernels, declare);
    cuda_functions!(scratch, declare);
}

mod api;
pub mod cublaslt;
mod driver;
mod library;
mod memory;
mod runtime;
mod search;

pub use crate::sys::cuda_status::Versions;
#[doc(hidden)]
pub use api::install;
pub use api::{Api, CublasLtFunctions, DriverFunctions, Launchers, Runtime, api};
pub use driver::Driver;
pub use memory::{
    DeviceMemory, Direction, Matrix, PinnedMemory, copy, copy_rows, device_address, fill, register,
    unregister,
};
pub use runtime::{
    Event, Stream, compute_capability, device_count, memory_info, need_device, pci_bus_id, poll, set_device,
    versions,
};
pub use search::{CUBLASLT_VARIABLE, cublaslt_places};

use std::ffi::{CStr, c_char, c_int};
use std::fmt;

use crate::base::{Error, Result};
use crate::sys::cuda_status;

/// Turns a runtime or driver status (their codes agree) into a result; the error says "cannot `what`".
fn check(code: bindings::cudaError_t, what: impl fmt::Display) -> Result<()> {
    if code == bindings::cudaSuccess {
        return Ok(());
    }
    let text = name_and_text(code)?;
    forget();
    Err(cuda_status::error(code, what, text))
}

/// Clears the calling thread's last runtime error, which has been handled: otherwise a launcher would report it as an
/// error of its kernel.
fn forget() {
    if let Ok(api) = api() {
        // SAFETY: reads and clears a number of this thread.
        unsafe { (api.runtime.cudaGetLastError)() };
    }
}

// The codes in `cuda_status` equal the header's.
const _: () = {
    use cuda_status as known;
    assert!(bindings::cudaSuccess == known::SUCCESS);
    assert!(bindings::cudaErrorMemoryAllocation == known::MEMORY_ALLOCATION);
    assert!(bindings::cudaErrorInsufficientDriver == known::INSUFFICIENT_DRIVER);
    assert!(bindings::cudaErrorDevicesUnavailable == known::DEVICES_UNAVAILABLE);
    assert!(bindings::cudaErrorNoDevice == known::NO_DEVICE);
    assert!(bindings::cudaErrorInvalidDevice == known::INVALID_DEVICE);
    assert!(bindings::cudaErrorNoKernelImageForDevice == known::NO_KERNEL_IMAGE);
    assert!(bindings::cudaErrorECCUncorrectable == known::ECC_UNCORRECTABLE);
    assert!(bindings::cudaErrorNvlinkUncorrectable == known::NVLINK_UNCORRECTABLE);
    assert!(bindings::cudaErrorContained == known::CONTAINED);
    assert!(bindings::cudaErrorIllegalAddress == known::ILLEGAL_ADDRESS);
    assert!(bindings::cudaErrorLaunchTimeout == known::LAUNCH_TIMEOUT);
    assert!(bindings::cudaErrorHostMemoryAlreadyRegistered == known::HOST_MEMORY_REGISTERED);
    assert!(bindings::cudaErrorLaunchFailure == known::LAUNCH_FAILURE);
    assert!(bindings::cudaErrorNotPermitted == known::NOT_PERMITTED);
    assert!(bindings::cudaErrorNotSupported == known::NOT_SUPPORTED);
    assert!(bindings::cudaErrorSystemNotReady == known::SYSTEM_NOT_READY);
    assert!(bindings::cudaErrorSystemDriverMismatch == known::DRIVER_MISMATCH);
    assert!(bindings::cudaErrorUnknown == known::UNKNOWN);
};

/// CUDA's name and description of a status, e.g. `cudaErrorNoDevice (no CUDA-capable device is detected)`.
fn name_and_text(code: bindings::cudaError_t) -> Result<String> {
    let runtime = &api()?.runtime;
    // SAFETY: the runtime returns a string for any number, which lives as long as the process.
    let (name, text) = unsafe { ((runtime.cudaGetErrorName)(code), (runtime.cudaGetErrorString)(code)) };
    // SAFETY: the two strings come from the call above.
    Ok(unsafe { format!("{} ({})", string(name), string(text)) })
}

/// Copies a C string; "no text" for null.
///
/// # Safety
/// `text` is null or a terminated string that is valid during the call.
unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return "no text".to_string();
    }
    // SAFETY: not null, so the caller guarantees a terminated string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Turns the status that a launcher of `csrc/kernels.h` returned into a result. `launcher` is its name.
pub fn launched(status: c_int, launcher: &str) -> Result<()> {
    match status {
        0 => Ok(()),
        bindings::HZK_ERROR_SHAPE => Err(Error::internal(format!(
            "{launcher}: a size, stride or scalar is outside the limits stated in csrc/kernels.h"
        ))),
        bindings::HZK_ERROR_ALIGNMENT => {
            Err(Error::internal(format!("{launcher}: a pointer is not aligned as csrc/kernels.h requires")))
        }
        code => check(code.unsigned_abs(), format_args!("launch {launcher}")),
    }
}
