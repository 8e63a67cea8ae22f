//! Functions that only the driver has: device names, and CUDA stream waits on a word of memory.
//! They are looked up through the runtime, so the library does not link against `libcuda`.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};

use crate::base::{Error, Result, Status};
use crate::sys::cuda::{DriverFunctions, Stream, api, bindings as cu, check};

/// The CUDA version of the driver functions that are looked up.
const VERSION: u32 = 12000;

/// The driver.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    functions: DriverFunctions,
}

impl Driver {
    /// Looks the functions up. Errors: no driver, or one without a needed function
    /// (`DeviceUnavailable`).
    pub fn open() -> Result<Self> {
        // SAFETY: the driver returns addresses of its own functions, which stay loaded.
        Ok(Driver { functions: unsafe { DriverFunctions::find(entry_point)? } })
    }

    /// The device's display name, e.g. `NVIDIA H200`.
    pub fn device_name(&self, device: usize) -> Result<String> {
        let mut name = [0u8; 256];
        let (text, length) = (name.as_mut_ptr().cast(), name.len() as c_int);
        // SAFETY: the driver writes at most `length` bytes. Device i of the runtime is device i of
        // the driver.
        let code = unsafe { (self.functions.cuDeviceGetName)(text, length, device as c_int) };
        check(code, format_args!("read the name of cuda:{device}"))?;
        let name = CStr::from_bytes_until_nul(&name)
            .map_err(|_| Error::internal("the device name is not terminated"))?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// Makes later work of the CUDA stream wait until `word`, compared modulo 2^32, has reached
    /// `value`.
    ///
    /// # Safety
    /// `word` is the device address of a 4-byte-aligned word that lives until the wait has
    /// completed.
    pub unsafe fn wait_value(&self, stream: &Stream, word: NonNull<u8>, value: u32) -> Result<()> {
        let (flags, stream): (cu::CUstreamWaitValue_flags, _) =
            (cu::CU_STREAM_WAIT_VALUE_GEQ, stream.command()?);
        let word = word.as_ptr() as u64;
        // SAFETY: the caller guarantees that the word stays valid; the CUDA stream is live.
        let code = unsafe { (self.functions.cuStreamWaitValue32_v2)(stream, word, value, flags) };
        check(code, "make a CUDA stream wait for a word")
    }

    /// Enqueues a write of `value` to `word`, ordered after all writes of earlier work on the
    /// CUDA stream.
    ///
    /// # Safety
    /// `word` is the device address of a 4-byte-aligned word that lives until the write; other
    /// accesses are atomic.
    pub unsafe fn write_value(&self, stream: &Stream, word: NonNull<u8>, value: u32) -> Result<()> {
        let flags: cu::CUstreamWriteValue_flags = cu::CU_STREAM_WRITE_VALUE_DEFAULT;
        let (stream, word) = (stream.command()?, word.as_ptr() as u64);
        // SAFETY: the caller guarantees that the word stays valid; the default flag puts a fence
        // before the write.
        let code = unsafe { (self.functions.cuStreamWriteValue32_v2)(stream, word, value, flags) };
        check(code, "make a CUDA stream write a word")
    }
}

/// Finds a function by its name in the header. A `_v2` suffix is dropped: the driver picks it from
/// the CUDA version.
fn entry_point(name: &CStr) -> Result<NonNull<c_void>> {
    let name = name.to_string_lossy();
    let name = std::ffi::CString::new(name.trim_end_matches("_v2")).expect("no zero byte");
    let (mut address, mut found) = (ptr::null_mut(), cu::cudaDriverEntryPointSymbolNotFound);
    let find = api()?.runtime.cudaGetDriverEntryPointByVersion;
    let flags: cu::cudaGetDriverEntryPointFlags = cu::cudaEnableDefault;
    // SAFETY: the runtime reads a terminated name and writes an address and a status.
    let code = unsafe { find(name.as_ptr(), &mut address, VERSION, flags.into(), &mut found) };
    let name = name.to_string_lossy();
    check(code, format_args!("find {name} in the CUDA driver"))?;
    NonNull::new(address).filter(|_| found == cu::cudaDriverEntryPointSuccess).ok_or_else(|| {
        Error::new(
            Status::DeviceUnavailable,
            format!("the CUDA driver has no {name}; install a driver for CUDA {}.0 or later", VERSION / 1000),
        )
    })
}
