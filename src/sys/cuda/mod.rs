//! CUDA's names: the runtime, the driver, cuBLASLt and our kernels, as one [table](Api) of C functions.
//!
//! In every build. Where the table has no functions, or the machine no driver, [`device_count`] is 0 and everything
//! else fails with an error. Wrappers own what they name and turn statuses into errors that carry CUDA's own name
//! and text for them.
//!
//! A thread works on its current device: [`set_device`] first, on every thread that makes or uses the rest.
//!
//! No wrapper blocks in CUDA until work is done: waits [`poll`], so that a thread that waits holds no lock of the
//! driver's, and is held up by none, for longer than a question takes.

/// The names of `cuda.h`, `cuda_runtime_api.h`, `cublasLt.h` that the crate uses, and all of `csrc/kernels.h`: as
/// `build.rs` made them of the toolkit's headers, or the committed snapshot in a build without kernels. The functions
/// are those that are linked.
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

/// The error of a runtime or driver call (their numbers agree) that failed to do `what`.
fn check(code: bindings::cudaError_t, what: impl fmt::Display) -> Result<()> {
    if code == bindings::cudaSuccess {
        return Ok(());
    }
    let text = name_and_text(code)?;
    forget();
    Err(cuda_status::error(code, what, text))
}

/// Ends the calling thread's last error of the runtime, which has been dealt with: a launcher would report it as that
/// of its kernel.
fn forget() {
    if let Ok(api) = api() {
        // SAFETY: reads and clears a number of this thread's.
        unsafe { (api.runtime.cudaGetLastError)() };
    }
}

// The numbers that have a meaning of their own, from the header.
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

/// For example `cudaErrorNoDevice (no CUDA-capable device is detected)`.
fn name_and_text(code: bindings::cudaError_t) -> Result<String> {
    let runtime = &api()?.runtime;
    // SAFETY: the runtime answers any number with a string that lives as long as the process.
    let (name, text) = unsafe { ((runtime.cudaGetErrorName)(code), (runtime.cudaGetErrorString)(code)) };
    // SAFETY: the two strings come from the call above.
    Ok(unsafe { format!("{} ({})", string(name), string(text)) })
}

/// # Safety
/// `text` is null or a terminated string that stays.
unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return "no text".to_string();
    }
    // SAFETY: not null, so by the caller's word it is a terminated string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What a launcher of `csrc/kernels.h` returned, as a result. `launcher` is its name.
pub fn launched(status: c_int, launcher: &str) -> Result<()> {
    match status {
        0 => Ok(()),
        bindings::HZK_ERROR_SHAPE => Err(Error::internal(format!(
            "{launcher}: a size, stride or scalar is outside the limits of csrc/kernels.h"
        ))),
        bindings::HZK_ERROR_ALIGNMENT => {
            Err(Error::internal(format!("{launcher}: a pointer is not aligned as csrc/kernels.h asks")))
        }
        code => check(code.unsigned_abs(), format_args!("launch {launcher}")),
    }
}
