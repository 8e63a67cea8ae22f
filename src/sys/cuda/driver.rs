//! What only the driver has: device names, and streams that wait for a word of memory. Reached through the
//! runtime, so that nothing links against `libcuda`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};

use crate::base::{Error, Result, Status};
use crate::sys::cuda::{Stream, bindings as cu, check};

type GetName = unsafe extern "C" fn(*mut c_char, c_int, cu::CUdevice) -> cu::CUresult;
type OnValue = unsafe extern "C" fn(cu::CUstream, cu::CUdeviceptr, cu::cuuint32_t, u32) -> cu::CUresult;

// The header's declarations, so that the types above cannot differ from them. Nothing links against these names.
const _: GetName = cu::cuDeviceGetName;
const _: OnValue = cu::cuStreamWaitValue32_v2;
const _: OnValue = cu::cuStreamWriteValue32_v2;

/// The CUDA version whose driver functions are asked for.
const VERSION: u32 = 12000;

/// The driver's functions.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    get_name: GetName,
    wait_value: OnValue,
    write_value: OnValue,
}

impl Driver {
    /// Looks the functions up. Errors: `DeviceUnavailable` where there is no driver, or one that lacks a function.
    pub fn open() -> Result<Self> {
        let get_name = entry_point(c"cuDeviceGetName")?;
        let wait_value = entry_point(c"cuStreamWaitValue32")?;
        let write_value = entry_point(c"cuStreamWriteValue32")?;
        // SAFETY: the driver gave the addresses of these very functions, whose types the header states.
        unsafe {
            Ok(Driver {
                get_name: mem::transmute::<*mut c_void, GetName>(get_name),
                wait_value: mem::transmute::<*mut c_void, OnValue>(wait_value),
                write_value: mem::transmute::<*mut c_void, OnValue>(write_value),
            })
        }
    }

    /// The device's name for people, e.g. `NVIDIA H200`.
    pub fn device_name(&self, device: usize) -> Result<String> {
        let mut name = [0u8; 256];
        // SAFETY: the driver writes at most so many bytes; without visible reordering, device i of the runtime is
        // device i of the driver.
        let code = unsafe { (self.get_name)(name.as_mut_ptr().cast(), name.len() as c_int, device as c_int) };
        check(code, format_args!("read the name of cuda:{device}"))?;
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Error::internal("a name without an end"))?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// Later work of the stream waits until `word`, counted round its 2^32 values, has reached `value`.
    ///
    /// # Safety
    /// `word` is the device's address of a 4-byte-aligned word that lives until the stream has passed the wait.
    pub unsafe fn wait_value(&self, stream: &Stream, word: NonNull<u8>, value: u32) -> Result<()> {
        let flags: cu::CUstreamWaitValue_flags = cu::CU_STREAM_WAIT_VALUE_GEQ;
        // SAFETY: the word is there, by the caller's word; the stream is live.
        let code = unsafe { (self.wait_value)(stream.raw(), word.as_ptr() as u64, value, flags) };
        check(code, "make a stream wait for a word")
    }

    /// When the stream gets there, `word` becomes `value`, after all writes of the work before it.
    ///
    /// # Safety
    /// `word` is the device's address of a 4-byte-aligned word that lives until then; others use it atomically.
    pub unsafe fn write_value(&self, stream: &Stream, word: NonNull<u8>, value: u32) -> Result<()> {
        let flags: cu::CUstreamWriteValue_flags = cu::CU_STREAM_WRITE_VALUE_DEFAULT;
        // SAFETY: the caller keeps the word; the default flag puts a fence before the write.
        let code = unsafe { (self.write_value)(stream.raw(), word.as_ptr() as u64, value, flags) };
        check(code, "make a stream write a word")
    }
}

fn entry_point(name: &CStr) -> Result<*mut c_void> {
    let (mut address, mut found) = (ptr::null_mut(), cu::cudaDriverEntryPointSymbolNotFound);
    // SAFETY: the runtime reads a terminated name and writes an address and a status.
    let code = unsafe {
        let flags: cu::cudaGetDriverEntryPointFlags = cu::cudaEnableDefault;
        cu::cudaGetDriverEntryPointByVersion(name.as_ptr(), &mut address, VERSION, flags.into(), &mut found)
    };
    let name = name.to_string_lossy();
    check(code, format_args!("find {name} in the CUDA driver"))?;
    if found != cu::cudaDriverEntryPointSuccess || address.is_null() {
        return Err(Error::new(
            Status::DeviceUnavailable,
            format!(
                "the CUDA driver has no {name} of CUDA {}.0; a driver of that or a later version has",
                VERSION / 1000
            ),
        ));
    }
    Ok(address)
}
