//! CUDA runtime: devices, CUDA streams and events.

use std::ffi::{CStr, c_int, c_uint};
use std::time::Duration;
use std::{hint, ptr, thread};

use parking_lot::Mutex;

use crate::base::{Error, Name, Result};
use crate::sys::cuda::{api, bindings as cu, check, forget, name_and_text};
use crate::sys::cuda_status::{Presence, Versions};

/// The versions of driver and runtime.
pub fn versions() -> Result<Versions> {
    let (runtime, mut versions) = (&api()?.runtime, Versions { driver: 0, runtime: 0 });
    // SAFETY: the runtime writes one int.
    check(unsafe { (runtime.cudaDriverGetVersion)(&mut versions.driver) }, "read the driver's version")?;
    // SAFETY: writes one int; needs no driver.
    check(unsafe { (runtime.cudaRuntimeGetVersion)(&mut versions.runtime) }, "read the runtime's version")?;
    Ok(versions)
}

/// Queries CUDA for a driver and devices.
fn presence() -> Result<Presence> {
    let mut count: c_int = 0;
    // SAFETY: the runtime writes one int, on success.
    let code = unsafe { (api()?.runtime.cudaGetDeviceCount)(&mut count) };
    forget();
    let count = usize::try_from(count).unwrap_or(0);
    Ok(Presence { versions: versions()?, code, text: name_and_text(code)?, count })
}

/// The number of CUDA devices: 0 if there is no device, no driver, a driver that is too old, or no
/// kernels in this build.
pub fn device_count() -> Result<usize> {
    if api().is_err() { Ok(0) } else { presence()?.devices() }
}

/// Refuses a device that does not exist or a build without kernels (`DeviceUnavailable`).
pub fn need_device(device: usize) -> Result<()> {
    if let Err(error) = api() {
        return Err(error.map(|message| {
            format!("{} cannot be used: {message}{}", Name::cuda_device(device), Name::without_gpu())
        }));
    }
    presence()?.admit(device)
}

/// Makes a device the calling thread's current device. Fast if it is current already.
pub fn set_device(device: usize) -> Result<()> {
    let number = c_int::try_from(device).unwrap_or(c_int::MAX);
    // SAFETY: takes a number and returns a status.
    let code = unsafe { (api()?.runtime.cudaSetDevice)(number) };
    let outcome = check(code, format_args!("use device cuda:{device}"));
    if outcome.is_err() {
        need_device(device)?;
    }
    outcome
}

/// Free and total bytes of the current device's memory.
pub fn memory_info() -> Result<(usize, usize)> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the runtime writes two sizes.
    let code = unsafe { (api()?.runtime.cudaMemGetInfo)(&mut free, &mut total) };
    check(code, "read the device's free memory")?;
    Ok((free, total))
}

fn attribute(device: usize, attribute: cu::cudaDeviceAttr, name: &str) -> Result<i32> {
    let mut value: c_int = 0;
    // SAFETY: the runtime writes one int, or fails if there is no such device.
    let code = unsafe { (api()?.runtime.cudaDeviceGetAttribute)(&mut value, attribute, device as c_int) };
    check(code, format_args!("read the {name} of cuda:{device}"))?;
    Ok(value)
}

/// The compute capability, e.g. (9, 0) for an H200.
pub fn compute_capability(device: usize) -> Result<(i32, i32)> {
    let major = attribute(device, cu::cudaDevAttrComputeCapabilityMajor, "compute capability")?;
    Ok((major, attribute(device, cu::cudaDevAttrComputeCapabilityMinor, "compute capability")?))
}

/// The device's PCI bus id in sysfs notation: `0000:3b:00.0`.
pub fn pci_bus_id(device: usize) -> Result<String> {
    let mut id = [0u8; 32];
    let (text, length) = (id.as_mut_ptr().cast(), id.len() as c_int);
    // SAFETY: the runtime writes at most the stated number of bytes, with a terminator.
    let code = unsafe { (api()?.runtime.cudaDeviceGetPCIBusId)(text, length, device as c_int) };
    check(code, format_args!("read the bus id of cuda:{device}"))?;
    let id = CStr::from_bytes_until_nul(&id).map_err(|_| Error::internal("the bus id is not terminated"))?;
    Ok(id.to_string_lossy().to_lowercase())
}

/// Polls before a waiter sleeps: some microseconds.
const SPINS: usize = 64;
/// Sleep between later polls.
const SLEEP: Duration = Duration::from_micros(30);

/// Waits until `arrived` returns true: spins for some microseconds, then sleeps between polls.
/// Errors: those of `arrived`.
pub fn poll(mut arrived: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..SPINS {
        if arrived()? {
            return Ok(());
        }
        hint::spin_loop();
    }
    while !arrived()? {
        thread::sleep(SLEEP);
    }
    Ok(())
}

/// Commands between two marks of a CUDA stream.
const MARK_COMMANDS: u64 = 50;
/// Marks of a CUDA stream. With [`MARK_COMMANDS`] this bounds the outstanding commands to 250. A
/// command launches up to four kernels (attention backward), and CUDA's own queue of about 1000
/// entries blocks the caller inside the driver when full.
const MARKS: usize = 4;

/// A CUDA stream of the device that was current when it was created. Dropping it lets its work
/// finish.
#[derive(Debug)]
pub struct Stream {
    raw: cu::cudaStream_t,
    queue: Mutex<Queue>,
}

/// The commands issued to a CUDA stream, and its marks.
#[derive(Debug, Default)]
struct Queue {
    commands: u64,
    /// A ring buffer of events; one is recorded at every [`MARK_COMMANDS`]-th command.
    marks: Vec<Event>,
}

// SAFETY: CUDA streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: the runtime synchronizes concurrent use of one CUDA stream.
unsafe impl Sync for Stream {}

impl Stream {
    /// Creates a CUDA stream that does not synchronize with the default CUDA stream.
    pub fn new() -> Result<Self> {
        let marks = (0..MARKS).map(|_| Event::new(false)).collect::<Result<_>>()?;
        let (create, mut stream) = (api()?.runtime.cudaStreamCreateWithFlags, ptr::null_mut());
        // SAFETY: the runtime writes a new handle.
        let code = unsafe { create(&mut stream, cu::cudaStreamNonBlocking) };
        check(code, "create a CUDA stream")?;
        Ok(Stream { raw: stream, queue: Mutex::new(Queue { commands: 0, marks }) })
    }

    /// The default CUDA stream of the current device. Its commands are not bounded.
    pub fn default_stream() -> Self {
        Stream { raw: ptr::null_mut(), queue: Mutex::default() }
    }

    /// Returns the handle for enqueuing one command. Sleeps while 250 or more commands are
    /// outstanding.
    pub fn command(&self) -> Result<cu::cudaStream_t> {
        let Queue { commands, marks } = &mut *self.queue.lock();
        *commands += 1;
        if commands.is_multiple_of(MARK_COMMANDS) && !marks.is_empty() {
            let mark = &marks[(*commands / MARK_COMMANDS) as usize % MARKS];
            mark.synchronize()?;
            mark.record_behind(self.raw)?;
        }
        Ok(self.raw)
    }

    /// Makes later work of this CUDA stream wait for the event.
    pub fn wait(&self, event: &Event) -> Result<()> {
        let (wait, stream) = (api()?.runtime.cudaStreamWaitEvent, self.command()?);
        // SAFETY: both handles are live, held by the borrows; flags must be 0.
        check(unsafe { wait(stream, event.0, 0) }, "make a CUDA stream wait")
    }

    /// Returns true if all enqueued work is done. Errors: the first error of the device's work.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: queries a live CUDA stream without blocking.
        done(unsafe { (api()?.runtime.cudaStreamQuery)(self.raw) }, "query a CUDA stream")
    }

    /// Waits until all enqueued work is done. Errors: the first error of the device's work.
    pub fn synchronize(&self) -> Result<()> {
        poll(|| self.is_done())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: created by `new`, destroyed once; work in flight completes.
            let destroyed = api().map(|api| unsafe { (api.runtime.cudaStreamDestroy)(self.raw) });
            // A failure repeats an error that was reported already.
            let _ = destroyed.and_then(|code| check(code, "destroy a CUDA stream"));
        }
    }
}

/// Turns the status of a query into true (done) or false (`cudaErrorNotReady`).
fn done(code: cu::cudaError_t, what: &str) -> Result<bool> {
    if code == cu::cudaErrorNotReady {
        // The runtime records it as the last error.
        forget();
        return Ok(false);
    }
    check(code, what).map(|()| true)
}

/// A CUDA event.
#[derive(Debug)]
pub struct Event(cu::cudaEvent_t);

// SAFETY: any thread may record, query and wait for an event.
unsafe impl Send for Event {}
// SAFETY: the runtime synchronizes concurrent calls on one event.
unsafe impl Sync for Event {}

impl Event {
    /// Creates an event of the current device. [`Event::ns_since`] needs `timing`, which makes
    /// events slower.
    pub fn new(timing: bool) -> Result<Self> {
        let flags: c_uint = if timing { 0 } else { cu::cudaEventDisableTiming };
        let mut event = ptr::null_mut();
        // SAFETY: the runtime writes a new handle of the current device.
        let code = unsafe { (api()?.runtime.cudaEventCreateWithFlags)(&mut event, flags) };
        check(code, "create a CUDA event").map(|()| Event(event))
    }

    /// Records the event after all work enqueued so far.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.record_behind(stream.command()?)
    }

    fn record_behind(&self, stream: cu::cudaStream_t) -> Result<()> {
        // SAFETY: event and CUDA stream are live, held by their owners' borrows.
        check(unsafe { (api()?.runtime.cudaEventRecord)(self.0, stream) }, "record a CUDA event")
    }

    /// Returns true if the work before the event is done, or if the event was never recorded.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: queries a live event without blocking.
        done(unsafe { (api()?.runtime.cudaEventQuery)(self.0) }, "query a CUDA event")
    }

    /// Waits until the work before the event is done.
    pub fn synchronize(&self) -> Result<()> {
        poll(|| self.is_done())
    }

    /// Nanoseconds from `earlier` to this event, with a resolution of about 0.5 µs; negative if
    /// this event came first. Both events are done and were created with timing.
    pub fn ns_since(&self, earlier: &Event) -> Result<i64> {
        // CUDA does not document that the start event may be the later one.
        let swapped = |error| elapsed_ms(self, earlier).map(|ms| -ms).map_err(|_| error);
        let ms = elapsed_ms(earlier, self).or_else(swapped)?;
        Ok((f64::from(ms) * 1e6) as i64)
    }
}

fn elapsed_ms(start: &Event, end: &Event) -> Result<f32> {
    let mut ms = 0.0f32;
    // SAFETY: the runtime writes one float about two live events.
    let code = unsafe { (api()?.runtime.cudaEventElapsedTime)(&mut ms, start.0, end.0) };
    check(code, "read the time between CUDA events").map(|()| ms)
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once; pending waits on it still complete.
        let destroyed = api().map(|api| unsafe { (api.runtime.cudaEventDestroy)(self.0) });
        let _ = destroyed.and_then(|code| check(code, "destroy a CUDA event"));
    }
}
