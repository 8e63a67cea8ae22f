//! Devices, streams and events of the CUDA runtime.

use std::ffi::{CStr, c_int, c_uint};
use std::ptr;

use crate::base::{Error, Result};
use crate::sys::cuda::{bindings as cu, check, name_and_text};
use crate::sys::cuda_status::{Presence, Versions};

/// The versions of driver and runtime.
pub fn versions() -> Result<Versions> {
    let mut versions = Versions { driver: 0, runtime: 0 };
    // SAFETY: the runtime writes one int.
    check(unsafe { cu::cudaDriverGetVersion(&mut versions.driver) }, "read the driver's version")?;
    // SAFETY: writes one int; no driver is asked.
    check(unsafe { cu::cudaRuntimeGetVersion(&mut versions.runtime) }, "read the runtime's version")?;
    Ok(versions)
}

/// What CUDA says of drivers and devices.
pub fn presence() -> Result<Presence> {
    let mut count: c_int = 0;
    // SAFETY: the runtime writes one int, on success.
    let code = unsafe { cu::cudaGetDeviceCount(&mut count) };
    let count = usize::try_from(count).unwrap_or(0);
    Ok(Presence { versions: versions()?, code, text: name_and_text(code), count })
}

/// Number of CUDA devices: 0 where there is none, no driver, or one that is too old.
pub fn device_count() -> Result<usize> {
    presence()?.devices()
}

/// Refuses a device that is not there, with what is (`DeviceUnavailable`).
pub fn need_device(device: usize) -> Result<()> {
    presence()?.admit(device)
}

/// Makes a device the calling thread's current one; quick where it is that already.
pub fn set_device(device: usize) -> Result<()> {
    let number = c_int::try_from(device).unwrap_or(c_int::MAX);
    // SAFETY: takes a number and gives a status.
    let code = unsafe { cu::cudaSetDevice(number) };
    if code != cu::cudaSuccess {
        need_device(device)?;
    }
    check(code, format_args!("use device cuda:{device}"))
}

/// The calling thread's current device.
pub fn current_device() -> Result<usize> {
    let mut device: c_int = 0;
    // SAFETY: one int, which is the thread's own setting.
    check(unsafe { cu::cudaGetDevice(&mut device) }, "read the current device")?;
    Ok(usize::try_from(device).unwrap_or(0))
}

/// Waits until the current device has nothing left to do; gives the first error of its work.
pub fn synchronize() -> Result<()> {
    // SAFETY: blocks, and takes nothing.
    check(unsafe { cu::cudaDeviceSynchronize() }, "wait for the device")
}

/// Free and total bytes of the current device's memory.
pub fn memory_info() -> Result<(usize, usize)> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the runtime writes two sizes.
    check(unsafe { cu::cudaMemGetInfo(&mut free, &mut total) }, "read the device's free memory")?;
    Ok((free, total))
}

fn attribute(device: usize, attribute: cu::cudaDeviceAttr, name: &str) -> Result<i32> {
    need_device(device)?;
    let mut value: c_int = 0;
    // SAFETY: the runtime writes one int, for a device that is there.
    let code = unsafe { cu::cudaDeviceGetAttribute(&mut value, attribute, device as c_int) };
    check(code, format_args!("read the {name} of cuda:{device}"))?;
    Ok(value)
}

/// For example (9, 0) for an H200.
pub fn compute_capability(device: usize) -> Result<(i32, i32)> {
    let major = attribute(device, cu::cudaDevAttrComputeCapabilityMajor, "compute capability")?;
    Ok((major, attribute(device, cu::cudaDevAttrComputeCapabilityMinor, "compute capability")?))
}

/// Number of multiprocessors.
pub fn multiprocessors(device: usize) -> Result<usize> {
    let count = attribute(device, cu::cudaDevAttrMultiProcessorCount, "number of multiprocessors")?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The device's place on the bus, as sysfs names it: `0000:3b:00.0`.
pub fn pci_bus_id(device: usize) -> Result<String> {
    need_device(device)?;
    let mut id = [0u8; 32];
    let (text, length) = (id.as_mut_ptr().cast(), id.len() as c_int);
    // SAFETY: the runtime writes at most the stated number of bytes, with an end.
    let code = unsafe { cu::cudaDeviceGetPCIBusId(text, length, device as c_int) };
    check(code, format_args!("read the bus id of cuda:{device}"))?;
    let id = CStr::from_bytes_until_nul(&id).map_err(|_| Error::internal("a bus id without an end"))?;
    Ok(id.to_string_lossy().to_lowercase())
}

/// A queue of work on the device that was current when it was made. Dropping it lets its work finish.
#[derive(Debug)]
pub struct Stream(cu::cudaStream_t);

// SAFETY: CUDA's streams may be used from any thread; the handle is only a name.
unsafe impl Send for Stream {}
// SAFETY: the runtime locks its own queues when two threads use one stream.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream that does not wait for the default stream.
    pub fn new() -> Result<Self> {
        let mut stream = ptr::null_mut();
        // SAFETY: the runtime writes a new handle.
        let code = unsafe { cu::cudaStreamCreateWithFlags(&mut stream, cu::cudaStreamNonBlocking) };
        check(code, "make a stream").map(|()| Stream(stream))
    }

    /// The current device's default stream, which every device has without being asked.
    pub fn default_stream() -> Self {
        Stream(ptr::null_mut())
    }

    /// The handle, for launchers and libraries.
    pub fn raw(&self) -> cu::cudaStream_t {
        self.0
    }

    /// Later work of this stream starts when what was before the event's recording is done.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: both handles are live, held by the borrows; flags 0 is the only value.
        check(unsafe { cu::cudaStreamWaitEvent(self.0, event.0, 0) }, "make a stream wait")
    }

    /// Blocks until the stream's work is done; gives the first error of the device's work.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is live while it is borrowed.
        check(unsafe { cu::cudaStreamSynchronize(self.0) }, "wait for a stream")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by `new`, destroyed once; work in flight goes on. A status here repeats an error already seen.
            unsafe { cu::cudaStreamDestroy(self.0) };
        }
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event(cu::cudaEvent_t);

// SAFETY: an event is a name that any thread may record, ask and wait for.
unsafe impl Send for Event {}
// SAFETY: the runtime orders concurrent calls on one event.
unsafe impl Sync for Event {}

impl Event {
    /// An event; `timing` says whether [`Event::ns_since`] may ask for its time, which makes it slower. A thread
    /// that waits for it sleeps.
    pub fn new(timing: bool) -> Result<Self> {
        let flags: c_uint = cu::cudaEventBlockingSync | if timing { 0 } else { cu::cudaEventDisableTiming };
        let mut event = ptr::null_mut();
        // SAFETY: the runtime writes a new handle of the current device.
        check(unsafe { cu::cudaEventCreateWithFlags(&mut event, flags) }, "make an event")
            .map(|()| Event(event))
    }

    /// The event is now the end of what the stream has been given so far.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: event and stream are live, held by their borrows.
        check(unsafe { cu::cudaEventRecord(self.0, stream.0) }, "record an event")
    }

    /// Whether the work before the event's recording is done.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: asks a live event, without blocking.
        match unsafe { cu::cudaEventQuery(self.0) } {
            cu::cudaErrorNotReady => Ok(false),
            code => check(code, "ask an event").map(|()| true),
        }
    }

    /// Blocks until the work before the event's recording is done.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: waits for a live event.
        check(unsafe { cu::cudaEventSynchronize(self.0) }, "wait for an event")
    }

    /// Nanoseconds, to about half a microsecond, from another event to this one; negative when this one came first.
    /// Both are done and were made with timing.
    pub fn ns_since(&self, earlier: &Event) -> Result<i64> {
        let mut ms = 0.0f32;
        // SAFETY: the runtime writes one float about two live events.
        check(
            unsafe { cu::cudaEventElapsedTime(&mut ms, earlier.0, self.0) },
            "read the time between events",
        )?;
        Ok((f64::from(ms) * 1e6) as i64)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once; whoever waits for it still gets there.
        unsafe { cu::cudaEventDestroy(self.0) };
    }
}
