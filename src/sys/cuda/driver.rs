//! What only the driver has: device names, and streams that wait for a word of memory. Reached through the
//! runtime, so that nothing links against `libcuda`.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};

use crate::base::{Error, Result, Status};
use crate::sys::cuda::{DriverFunctions, Stream, api, bindings as cu, check};

/// The CUDA version whose driver functions are asked for.
const VERSION: u32 = 12000;

/// The driver.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    functions: DriverFunctions,
}

impl Driver {
    /// Looks the functions up. Errors: `DeviceUnavailable` where there is no driver, or one that lacks a function.
    pub fn open() -> Result<Self> {
        // SAFETY: the driver gives the addresses of its own functions, which stay.
        Ok(Driver { functions: unsafe { DriverFunctions::find(entry_point)? } })
    }

    /// The device's name for people, e.g. `NVIDIA H200`.
    pub fn device_name(&self, device: usize) -> Result<String> {
        let mut name = [0u8; 256];
        let (text, length) = (name.as_mut_ptr().cast(), name.len() as c_int);
        // SAFETY: the driver writes at most so many bytes; without visible reordering, device i of the runtime is
        // device i of the driver.
        let code = unsafe { (self.functions.cuDeviceGetName)(text, length, device as c_int) };
        check(code, format_args!("read the name of cuda:{device}"))?;
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Error::internal("a name without an end"))?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// Later work of the stream waits until `word`, counted round its 2^32 values, has reached `value`.
    ///
    /// # Safety
    /// `word` is the device's address of a 4-byte-aligned word that lives until the stream has passed the wait.
    pub unsafe fn wait_value(&self, stream: &Stream, word: NonNull<u8>, value: u32) -> Result<()> {
        let (flags, stream): (cu::CUstreamWaitValue_flags, _) =
            (cu::CU_STREAM_WAIT_VALUE_GEQ, stream.command()?);
        let word = word.as_ptr() as u64;
        // SAFETY: the word is there, by the caller's word; the stream is live.
        let code = unsafe { (self.functions.cuStreamWaitValue32_v2)(stream, word, value, flags) };
        check(code, "make a stream wait for a word")
    }

    /// When the stream gets there, `word` becomes `value`, after all writes of the work before it.
    ///
    /// # Safety
    /// `word` is the device's address of a 4-byte-aligned word that lives until then; others use it atomically.
    pub unsafe fn write_value(&self, stream: &Stream, word: NonNull<u8>, value: u32) -> Result<()> {
        let flags: cu::CUstreamWriteValue_flags = cu::CU_STREAM_WRITE_VALUE_DEFAULT;
        let (stream, word) = (stream.command()?, word.as_ptr() as u64);
        // SAFETY: the caller keeps the word; the default flag puts a fence before the write.
        let code = unsafe { (self.functions.cuStreamWriteValue32_v2)(stream, word, value, flags) };
        check(code, "make a stream write a word")
    }
}

/// Finds a function by its name in the header, whose `_v2` the driver leaves to the version that is asked for.
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
            format!(
                "the CUDA driver has no {name} of CUDA {}.0; a driver of that or a later version has",
                VERSION / 1000
            ),
        )
    })
}
