//! Device memory, pinned host memory, and copies between them.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use crate::base::{Error, Result};
use crate::sys::cuda::{Stream, api, bindings as cu, check, forget, name_and_text};
use crate::sys::cuda_status::pinning_error;

/// Memory of the device that was current when it was taken. Dropping it waits for the device and frees it.
#[derive(Debug)]
pub struct DeviceMemory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: device addresses mean the same on every thread, and this value gives no access by itself.
unsafe impl Send for DeviceMemory {}
// SAFETY: a shared handle only tells its address and length.
unsafe impl Sync for DeviceMemory {}

impl DeviceMemory {
    /// Takes `bytes` of memory, aligned to 256 bytes, with any content. `bytes` is not 0.
    pub fn take(bytes: usize) -> Result<Self> {
        let mut base = ptr::null_mut();
        // SAFETY: the runtime writes a new address, on success.
        let code = unsafe { (api()?.runtime.cudaMalloc)(&mut base, bytes) };
        check(code, format_args!("take {bytes} bytes of device memory"))?;
        let base = NonNull::new(base.cast()).ok_or_else(|| Error::internal("cudaMalloc gave null"))?;
        Ok(DeviceMemory { base, bytes })
    }

    /// The first byte's address, for the device alone.
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
        // SAFETY: taken by `take`, freed once; the call waits for work in flight.
        let freed = api().map(|api| unsafe { (api.runtime.cudaFree)(self.base.as_ptr().cast()) });
        // A device that is lost frees nothing.
        let _ = freed.and_then(|code| check(code, "free device memory"));
    }
}

/// Page-locked host memory from the runtime: for every device, cached (never write-combined), reachable from
/// kernels. Zeroed pages of the kernel's choice.
#[derive(Debug)]
pub struct PinnedMemory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain host memory, which any thread may use by its address.
unsafe impl Send for PinnedMemory {}
// SAFETY: a shared handle only tells where the memory is.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// Takes `bytes` of page-locked memory. `bytes` is not 0.
    pub fn take(bytes: usize) -> Result<Self> {
        let mut base = ptr::null_mut();
        let flags = cu::cudaHostAllocPortable | cu::cudaHostAllocMapped;
        // SAFETY: the runtime writes the address of a new allocation.
        let code = unsafe { (api()?.runtime.cudaHostAlloc)(&mut base, bytes, flags) };
        host_check(code, format_args!("take {bytes} bytes of page-locked memory"))?;
        let base = NonNull::new(base.cast()).ok_or_else(|| Error::internal("cudaHostAlloc gave null"))?;
        Ok(PinnedMemory { base, bytes })
    }

    /// The first byte's address on the host.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes were taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: taken by cudaHostAlloc, given back once.
        let freed = api().map(|api| unsafe { (api.runtime.cudaFreeHost)(self.base.as_ptr().cast()) });
        let _ = freed.and_then(|code| check(code, "free page-locked memory"));
    }
}

/// Page-locks somebody else's host memory, for every device.
///
/// # Safety
/// The memory is mapped, readable and writable, and stays so until [`unregister`] or the end of the process.
pub unsafe fn register(base: NonNull<u8>, bytes: usize) -> Result<()> {
    let flags = cu::cudaHostRegisterPortable | cu::cudaHostRegisterMapped;
    // SAFETY: the caller keeps the pages there.
    let code = unsafe { (api()?.runtime.cudaHostRegister)(base.as_ptr().cast(), bytes, flags) };
    host_check(code, format_args!("page-lock {bytes} bytes for the device"))
}

/// Undoes a [`register`] of this address.
///
/// # Safety
/// No copy of this memory is under way.
pub unsafe fn unregister(base: NonNull<u8>) -> Result<()> {
    // SAFETY: the runtime looks the address up in its table; one that is not there is an error.
    let code = unsafe { (api()?.runtime.cudaHostUnregister)(base.as_ptr().cast()) };
    host_check(code, "end the page-lock of memory")
}

/// As [`check`], of calls that page-lock host memory.
fn host_check(code: cu::cudaError_t, what: impl std::fmt::Display) -> Result<()> {
    if code == cu::cudaSuccess {
        return Ok(());
    }
    let text = name_and_text(code)?;
    forget();
    Err(pinning_error(code, what, text))
}

/// The address under which the device knows page-locked host memory.
pub fn device_address(host: NonNull<u8>) -> Result<NonNull<u8>> {
    let mut address: *mut c_void = ptr::null_mut();
    // SAFETY: the runtime looks the address up in its table; memory that is not page-locked is an error.
    let code = unsafe { (api()?.runtime.cudaHostGetDevicePointer)(&mut address, host.as_ptr().cast(), 0) };
    check(code, "find the device's address of host memory")?;
    NonNull::new(address.cast())
        .ok_or_else(|| Error::internal("page-locked memory has no address on the device"))
}

/// Where a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From host to device.
    HostToDevice,
    /// From device to host.
    DeviceToHost,
    /// Within the device.
    DeviceToDevice,
}

/// Queues a copy of `bytes` bytes. With pageable host memory it may block, and be done when it returns.
///
/// # Safety
/// Both ends are `bytes` long, of the stated kinds, and live until the stream has passed the copy; until then
/// nobody writes `from`, and nobody uses `to`, without order.
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
    // SAFETY: lengths, kinds and lifetimes are the caller's word.
    let code = unsafe { (api()?.runtime.cudaMemcpyAsync)(to, from, bytes, kind, stream.command()?) };
    check(code, format_args!("copy {bytes} bytes"))
}

/// Queues setting `bytes` bytes of device memory to `value`.
///
/// # Safety
/// The memory is the device's, lives until the stream has passed this, and is used by nobody until then.
pub unsafe fn fill(to: NonNull<u8>, value: u8, bytes: usize, stream: &Stream) -> Result<()> {
    let (set, to, stream) = (api()?.runtime.cudaMemsetAsync, to.as_ptr().cast(), stream.command()?);
    // SAFETY: the caller owns the bytes for the length of the work.
    let code = unsafe { set(to, value.into(), bytes, stream) };
    check(code, format_args!("set {bytes} bytes"))
}
