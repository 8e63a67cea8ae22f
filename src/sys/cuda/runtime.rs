//! Devices, streams and events of the CUDA runtime.

use std::ffi::{CStr, c_int, c_uint};
use std::time::Duration;
use std::{hint, ptr, thread};

use parking_lot::Mutex;

use crate::base::{Error, Result};
use crate::sys::cuda::{api, bindings as cu, check, forget, name_and_text};
use crate::sys::cuda_status::{Presence, Versions};

/// The versions of driver and runtime.
pub fn versions() -> Result<Versions> {
    let (runtime, mut versions) = (&api()?.runtime, Versions { driver: 0, runtime: 0 });
    // SAFETY: the runtime writes one int.
    check(unsafe { (runtime.cudaDriverGetVersion)(&mut versions.driver) }, "read the driver's version")?;
    // SAFETY: writes one int; no driver is asked.
    check(unsafe { (runtime.cudaRuntimeGetVersion)(&mut versions.runtime) }, "read the runtime's version")?;
    Ok(versions)
}

/// What CUDA says of drivers and devices.
fn presence() -> Result<Presence> {
    let mut count: c_int = 0;
    // SAFETY: the runtime writes one int, on success.
    let code = unsafe { (api()?.runtime.cudaGetDeviceCount)(&mut count) };
    forget();
    let count = usize::try_from(count).unwrap_or(0);
    Ok(Presence { versions: versions()?, code, text: name_and_text(code)?, count })
}

/// Number of CUDA devices: 0 where there is none, no driver, one that is too old, or no kernels.
pub fn device_count() -> Result<usize> {
    if api().is_err() { Ok(0) } else { presence()?.devices() }
}

/// Refuses a device that is not there, with what is (`DeviceUnavailable`).
pub fn need_device(device: usize) -> Result<()> {
    if let Err(error) = api() {
        let message = error.message();
        return Err(Error::new(
            error.status(),
            format!("device cuda:{device} cannot be used: {message}; --device cpu runs without"),
        ));
    }
    presence()?.admit(device)
}

/// Makes a device the calling thread's current one; quick where it is that already.
pub fn set_device(device: usize) -> Result<()> {
    let number = c_int::try_from(device).unwrap_or(c_int::MAX);
    // SAFETY: takes a number and gives a status.
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
    // SAFETY: the runtime writes one int, unless there is no such device.
    let code = unsafe { (api()?.runtime.cudaDeviceGetAttribute)(&mut value, attribute, device as c_int) };
    check(code, format_args!("read the {name} of cuda:{device}"))?;
    Ok(value)
}

/// For example (9, 0) for an H200.
pub fn compute_capability(device: usize) -> Result<(i32, i32)> {
    let major = attribute(device, cu::cudaDevAttrComputeCapabilityMajor, "compute capability")?;
    Ok((major, attribute(device, cu::cudaDevAttrComputeCapabilityMinor, "compute capability")?))
}

/// The device's place on the bus, as sysfs names it: `0000:3b:00.0`.
pub fn pci_bus_id(device: usize) -> Result<String> {
    let mut id = [0u8; 32];
    let (text, length) = (id.as_mut_ptr().cast(), id.len() as c_int);
    // SAFETY: the runtime writes at most the stated number of bytes, with an end.
    let code = unsafe { (api()?.runtime.cudaDeviceGetPCIBusId)(text, length, device as c_int) };
    check(code, format_args!("read the bus id of cuda:{device}"))?;
    let id = CStr::from_bytes_until_nul(&id).map_err(|_| Error::internal("a bus id without an end"))?;
    Ok(id.to_string_lossy().to_lowercase())
}

/// Looks before a waiter sleeps: some microseconds.
const LOOKS: usize = 64;
/// Sleep between later looks.
const NAP: Duration = Duration::from_micros(30);

/// Waits until `arrived` says so: looks for a moment, then sleeps between looks. Errors: those of `arrived`.
pub fn poll(mut arrived: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..LOOKS {
        if arrived()? {
            return Ok(());
        }
        hint::spin_loop();
    }
    while !arrived()? {
        thread::sleep(NAP);
    }
    Ok(())
}

/// Commands from one mark of a stream to the next.
const MARK_COMMANDS: u64 = 50;
/// Marks of a stream. With [`MARK_COMMANDS`] this bounds the outstanding commands to 250. A command is up to four kernels
/// (attention backward), and CUDA's own queue, of about 1000, blocks the caller inside the driver when it is full.
const MARKS: usize = 4;

/// A queue of work on the device that was current when it was made. Dropping it lets its work finish.
#[derive(Debug)]
pub struct Stream {
    raw: cu::cudaStream_t,
    queue: Mutex<Queue>,
}

/// How far a stream's commands are.
#[derive(Debug, Default)]
struct Queue {
    commands: u64,
    /// Events behind every [`MARK_COMMANDS`]-th command, in turn.
    marks: Vec<Event>,
}

// SAFETY: CUDA's streams may be used from any thread; the handle is only a name.
unsafe impl Send for Stream {}
// SAFETY: the runtime locks its own queues when two threads use one stream.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream that does not wait for the default stream.
    pub fn new() -> Result<Self> {
        let marks = (0..MARKS).map(|_| Event::new(false)).collect::<Result<_>>()?;
        let (create, mut stream) = (api()?.runtime.cudaStreamCreateWithFlags, ptr::null_mut());
        // SAFETY: the runtime writes a new handle.
        let code = unsafe { create(&mut stream, cu::cudaStreamNonBlocking) };
        check(code, "make a stream")?;
        Ok(Stream { raw: stream, queue: Mutex::new(Queue { commands: 0, marks }) })
    }

    /// The current device's default stream, which every device has without being asked. Its commands are not bounded.
    pub fn default_stream() -> Self {
        Stream { raw: ptr::null_mut(), queue: Mutex::default() }
    }

    /// The handle, for one command that is to be queued. Sleeps while 250 commands or more are outstanding.
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

    /// Later work of this stream starts when what was before the event's recording is done.
    pub fn wait(&self, event: &Event) -> Result<()> {
        let (wait, stream) = (api()?.runtime.cudaStreamWaitEvent, self.command()?);
        // SAFETY: both handles are live, held by the borrows; flags 0 is the only value.
        check(unsafe { wait(stream, event.0, 0) }, "make a stream wait")
    }

    /// Whether the stream's work is done. Errors: the first of the device's work.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: asks a stream that is live while it is borrowed, without blocking.
        done(unsafe { (api()?.runtime.cudaStreamQuery)(self.raw) }, "ask a stream")
    }

    /// Waits until the stream's work is done; gives the first error of the device's work.
    pub fn synchronize(&self) -> Result<()> {
        poll(|| self.is_done())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: made by `new`, destroyed once; work in flight goes on.
            let destroyed = api().map(|api| unsafe { (api.runtime.cudaStreamDestroy)(self.raw) });
            // A failure repeats an error already seen.
            let _ = destroyed.and_then(|code| check(code, "destroy a stream"));
        }
    }
}

/// The answer to whether work is done.
fn done(code: cu::cudaError_t, what: &str) -> Result<bool> {
    if code == cu::cudaErrorNotReady {
        // To the runtime it is an error like others.
        forget();
        return Ok(false);
    }
    check(code, what).map(|()| true)
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event(cu::cudaEvent_t);

// SAFETY: an event is a name that any thread may record, ask and wait for.
unsafe impl Send for Event {}
// SAFETY: the runtime orders concurrent calls on one event.
unsafe impl Sync for Event {}

impl Event {
    /// An event; `timing` says whether [`Event::ns_since`] may ask for its time, which makes it slower.
    pub fn new(timing: bool) -> Result<Self> {
        let flags: c_uint = if timing { 0 } else { cu::cudaEventDisableTiming };
        let mut event = ptr::null_mut();
        // SAFETY: the runtime writes a new handle of the current device.
        let code = unsafe { (api()?.runtime.cudaEventCreateWithFlags)(&mut event, flags) };
        check(code, "make an event").map(|()| Event(event))
    }

    /// The event is now the end of what the stream has been given so far.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.record_behind(stream.command()?)
    }

    fn record_behind(&self, stream: cu::cudaStream_t) -> Result<()> {
        // SAFETY: event and stream are live, held by their owners' borrows.
        check(unsafe { (api()?.runtime.cudaEventRecord)(self.0, stream) }, "record an event")
    }

    /// Whether the work before the event's recording is done; of an event that was never recorded it is.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: asks a live event, without blocking.
        done(unsafe { (api()?.runtime.cudaEventQuery)(self.0) }, "ask an event")
    }

    /// Waits until the work before the event's recording is done.
    pub fn synchronize(&self) -> Result<()> {
        poll(|| self.is_done())
    }

    /// Nanoseconds, to about half a microsecond, from another event to this one; negative when this one came first.
    /// Both are done and were made with timing.
    pub fn ns_since(&self, earlier: &Event) -> Result<i64> {
        // CUDA does not say that the first event may be the later one.
        let swapped = |error| elapsed_ms(self, earlier).map(|ms| -ms).map_err(|_| error);
        let ms = elapsed_ms(earlier, self).or_else(swapped)?;
        Ok((f64::from(ms) * 1e6) as i64)
    }
}

fn elapsed_ms(start: &Event, end: &Event) -> Result<f32> {
    let mut ms = 0.0f32;
    // SAFETY: the runtime writes one float about two live events.
    let code = unsafe { (api()?.runtime.cudaEventElapsedTime)(&mut ms, start.0, end.0) };
    check(code, "read the time between events").map(|()| ms)
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once; whoever waits for it still gets there.
        let destroyed = api().map(|api| unsafe { (api.runtime.cudaEventDestroy)(self.0) });
        let _ = destroyed.and_then(|code| check(code, "destroy an event"));
    }
}
