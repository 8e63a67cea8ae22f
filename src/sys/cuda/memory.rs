//! Device memory, pinned host memory, and copies between them.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use crate::base::{Error, Result};
use crate::sys::cuda::{Stream, api, bindings as cu, check, forget, name_and_text};
use crate::sys::cuda_status::pinning_error;

/// An allocation on the device that was current when it was made. Dropping it waits for the device
/// and frees it.
#[derive(Debug)]
pub struct DeviceMemory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: device addresses are the same on every thread, and this value gives no access by itself.
unsafe impl Send for DeviceMemory {}
// SAFETY: a shared handle only returns its address and length.
unsafe impl Sync for DeviceMemory {}

impl DeviceMemory {
    /// Allocates `bytes` bytes (not 0), aligned to 256 bytes, with undefined content.
    pub fn take(bytes: usize) -> Result<Self> {
        let mut base = ptr::null_mut();
        // SAFETY: the runtime writes a new address, on success.
        let code = unsafe { (api()?.runtime.cudaMalloc)(&mut base, bytes) };
        check(code, format_args!("allocate {bytes} bytes of device memory"))?;
        let base = NonNull::new(base.cast()).ok_or_else(|| Error::internal("cudaMalloc gave null"))?;
        Ok(DeviceMemory { base, bytes })
    }

    /// The device address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `take`, freed once; the call waits for work in flight.
        let freed = api().map(|api| unsafe { (api.runtime.cudaFree)(self.base.as_ptr().cast()) });
        // Fails only on a lost device, where nothing can be freed.
        let _ = freed.and_then(|code| check(code, "free device memory"));
    }
}

/// Pinned host memory allocated by the CUDA runtime: portable to every device, cached (not
/// write-combined), mapped into the device's address space. The runtime chooses the pages.
#[derive(Debug)]
pub struct PinnedMemory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain host memory, valid on every thread.
unsafe impl Send for PinnedMemory {}
// SAFETY: a shared handle returns only the address and length of the memory.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// Allocates `bytes` bytes (not 0) of pinned memory.
    pub fn take(bytes: usize) -> Result<Self> {
        let mut base = ptr::null_mut();
        let flags = cu::cudaHostAllocPortable | cu::cudaHostAllocMapped;
        // SAFETY: the runtime writes the address of a new allocation.
        let code = unsafe { (api()?.runtime.cudaHostAlloc)(&mut base, bytes, flags) };
        host_check(code, format_args!("allocate {bytes} bytes of pinned host memory"))?;
        let base = NonNull::new(base.cast()).ok_or_else(|| Error::internal("cudaHostAlloc gave null"))?;
        Ok(PinnedMemory { base, bytes })
    }

    /// The host address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by cudaHostAlloc, freed once.
        let freed = api().map(|api| unsafe { (api.runtime.cudaFreeHost)(self.base.as_ptr().cast()) });
        let _ = freed.and_then(|code| check(code, "free pinned host memory"));
    }
}

/// Pins existing host memory, for every device.
///
/// # Safety
/// The memory is mapped, readable and writable, and stays so until [`unregister`] or the end of the
/// process.
pub unsafe fn register(base: NonNull<u8>, bytes: usize) -> Result<()> {
    let flags = cu::cudaHostRegisterPortable | cu::cudaHostRegisterMapped;
    // SAFETY: the caller keeps the pages mapped.
    let code = unsafe { (api()?.runtime.cudaHostRegister)(base.as_ptr().cast(), bytes, flags) };
    host_check(code, format_args!("pin {bytes} bytes of host memory"))
}

/// Unpins memory that was pinned by [`register`] at this address.
///
/// # Safety
/// No copy from or to this memory is in flight.
pub unsafe fn unregister(base: NonNull<u8>) -> Result<()> {
    // SAFETY: the runtime looks the address up in its table; an unknown address is an error.
    let code = unsafe { (api()?.runtime.cudaHostUnregister)(base.as_ptr().cast()) };
    host_check(code, "unpin host memory")
}

/// As [`check`], for calls that pin host memory.
fn host_check(code: cu::cudaError_t, what: impl std::fmt::Display) -> Result<()> {
    if code == cu::cudaSuccess {
        return Ok(());
    }
    let text = name_and_text(code)?;
    forget();
    Err(pinning_error(code, what, text))
}

/// The device address of pinned host memory.
pub fn device_address(host: NonNull<u8>) -> Result<NonNull<u8>> {
    let mut address: *mut c_void = ptr::null_mut();
    // SAFETY: the runtime looks the address up in its table; memory that is not pinned is an error.
    let code = unsafe { (api()?.runtime.cudaHostGetDevicePointer)(&mut address, host.as_ptr().cast(), 0) };
    check(code, "find the device address of host memory")?;
    NonNull::new(address.cast()).ok_or_else(|| Error::internal("pinned host memory has no device address"))
}

/// The direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From host to device.
    HostToDevice,
    /// From device to host.
    DeviceToHost,
    /// Within the device.
    DeviceToDevice,
}

/// Enqueues a copy of `bytes` bytes. With pageable host memory the call may block until the copy is
/// done.
///
/// # Safety
/// Source and target are `bytes` long, of the stated kinds, and live until the copy has completed.
/// Until then no unordered access writes `from`, or reads or writes `to`.
pub unsafe fn copy(
    to: NonNull<u8>,
    from: NonNull<u8>,
    bytes: usize,
    direction: Direction,
    stream: &Stream,
) -> Result<()> {
    let kind = match direction {
        Direction::HostToDevice => cu::cudaMemcpyHostToDevice,
        Direction::DeviceToHost => cu::cudaMemcpyDeviceToHost,
        Direction::DeviceToDevice => cu::cudaMemcpyDeviceToDevice,
    };
    let (to, from) = (to.as_ptr().cast(), from.as_ptr().cast());
    // SAFETY: the caller guarantees lengths, kinds and lifetimes.
    let code = unsafe { (api()?.runtime.cudaMemcpyAsync)(to, from, bytes, kind, stream.command()?) };
    check(code, format_args!("copy {bytes} bytes"))
}

/// The shape of a copy of rows, with the same stride in source and target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Bytes copied per row.
    pub row_bytes: usize,
    /// Bytes from one row to the next, at least `row_bytes`.
    pub stride_bytes: usize,
}

/// Enqueues a copy of rows within the device.
///
/// # Safety
/// As for [`copy`], for each row.
pub unsafe fn copy_rows(to: NonNull<u8>, from: NonNull<u8>, matrix: Matrix, stream: &Stream) -> Result<()> {
    let Matrix { rows, row_bytes, stride_bytes } = matrix;
    let (to, from, kind) = (to.as_ptr().cast(), from.as_ptr().cast(), cu::cudaMemcpyDeviceToDevice);
    let (copy, stream) = (api()?.runtime.cudaMemcpy2DAsync, stream.command()?);
    // SAFETY: the caller guarantees rows, strides and lifetimes.
    let code = unsafe { copy(to, stride_bytes, from, stride_bytes, row_bytes, rows, kind, stream) };
    check(code, format_args!("copy {rows} rows of {row_bytes} bytes"))
}

/// Enqueues setting `bytes` bytes of device memory to `value`.
///
/// # Safety
/// The memory is device memory, lives until this has completed, and has no unordered access until
/// then.
pub unsafe fn fill(to: NonNull<u8>, value: u8, bytes: usize, stream: &Stream) -> Result<()> {
    let (set, to, stream) = (api()?.runtime.cudaMemsetAsync, to.as_ptr().cast(), stream.command()?);
    // SAFETY: the caller owns the bytes until the work is done.
    let code = unsafe { set(to, value.into(), bytes, stream) };
    check(code, format_args!("set {bytes} bytes"))
}
