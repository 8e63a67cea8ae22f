//! CUDA's runtime and driver functions for fake devices.

// CUDA's constants occur in patterns.
#![allow(non_upper_case_globals)]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;

use horizon::sys::cuda::Runtime;
use horizon::sys::cuda::bindings::*;
use horizon::sys::cuda_status as codes;

use super::device::{CURRENT, Device, presence};
use super::faults::{note, take_last};
use super::machine::{EventState, Op, Pointer, Taken, Work};

/// Alignment of CUDA allocations.
const ALIGNMENT: usize = 256;
/// New memory is poisoned up to this size; poisoning more would take too long.
const POISONED_MAX: usize = 64 << 20;

// cudaErrorInvalidValue, cudaErrorInvalidResourceHandle.
const INVALID_VALUE: u32 = 1;
const INVALID_HANDLE: u32 = 400;

type Outcome<T = ()> = Result<T, u32>;

/// Returns the status of a runtime call; an error becomes the thread's last error.
fn status(outcome: Outcome) -> cudaError_t {
    note(outcome.err().unwrap_or(0))
}

/// Returns the thread's current device.
fn current() -> Outcome<Arc<Device>> {
    CURRENT.get().and_then(Device::find).ok_or(codes::INVALID_DEVICE)
}

/// Makes a handle from a device's ordinal and a number: never null, never an address.
fn handle<T>(ordinal: usize, number: usize) -> *mut T {
    std::ptr::without_provenance_mut(ordinal << 32 | number << 4 | 1)
}

fn resolve<T>(handle: *mut T) -> Outcome<(Arc<Device>, usize)> {
    let bits = handle.addr();
    let device = Device::find(bits >> 32).filter(|_| bits & 1 == 1).ok_or(INVALID_HANDLE)?;
    Ok((device, (bits & 0xffff_ffff) >> 4))
}

/// Returns the device and number of a CUDA stream. The default one belongs to the current device.
pub fn stream_of(stream: cudaStream_t) -> Outcome<(Arc<Device>, usize)> {
    if stream.is_null() {
        return Ok((current()?, 0));
    }
    let (device, number) = resolve(stream)?;
    if CURRENT.get() != Some(device.ordinal) {
        let violation = "work was queued by a thread with another current device";
        device.look().violations.push(violation.into());
        return Err(INVALID_HANDLE);
    }
    Ok((device, number))
}

fn enqueue(stream: cudaStream_t, op: Op) -> Outcome {
    let (device, number) = stream_of(stream)?;
    device.enqueue(number, op)
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), ALIGNMENT).expect("a size")
}

/// Allocates device memory, or pinned host memory.
fn take(device: &Device, bytes: usize, pinned: bool) -> Outcome<*mut c_void> {
    let mut machine = device.enter()?;
    let setting = &device.setting;
    let refused = match pinned {
        true => setting.pin_error.filter(|_| bytes > 4096),
        false => {
            let free = setting.memory - setting.memory_of_others - machine.device_bytes;
            (bytes > free).then_some(codes::MEMORY_ALLOCATION)
        }
    };
    refused.map_or(Ok(()), Err)?;
    let layout = layout(bytes);
    // SAFETY: the size is not zero.
    let base = unsafe { if bytes <= POISONED_MAX { alloc(layout) } else { alloc_zeroed(layout) } };
    assert!(!base.is_null(), "no memory for a fake device");
    if bytes <= POISONED_MAX {
        // SAFETY: the new allocation has `bytes` bytes.
        unsafe { base.write_bytes(0xa5, bytes) };
    }
    machine.made += 1;
    machine.live += 1;
    match pinned {
        true => machine.pinned.push(base.addr()..base.addr() + bytes),
        false => machine.device_bytes += bytes,
    }
    machine.memory.push(Taken { base: base.addr(), layout, bytes });
    Ok(base.cast())
}

/// Frees memory after running all queued work, as CUDA does.
fn give_back(address: *mut c_void, pinned: bool) -> Outcome {
    let device = current()?;
    // A lost device frees nothing, but its fake memory is freed.
    let (mut machine, drained) = match device.drain("memory was freed") {
        Ok(machine) => (machine, Ok(())),
        Err(code) => (device.look(), Err(code)),
    };
    let at = machine.memory.iter().position(|taken| taken.base == address.addr()).ok_or(INVALID_VALUE)?;
    let taken = machine.memory.swap_remove(at);
    machine.live -= 1;
    match pinned {
        true => machine.pinned.retain(|range| range.start != taken.base),
        false => machine.device_bytes -= taken.bytes,
    }
    // SAFETY: allocated with this layout and freed once; no queued work uses it, or the device is lost.
    unsafe { dealloc(address.cast(), taken.layout) };
    drop(machine);
    device.retire_if_left();
    drained
}

unsafe extern "C" fn driver_version(version: *mut c_int) -> cudaError_t {
    // SAFETY: the caller passes a valid pointer.
    unsafe { *version = presence().versions.driver };
    0
}

unsafe extern "C" fn runtime_version(version: *mut c_int) -> cudaError_t {
    // SAFETY: the caller passes a valid pointer.
    unsafe { *version = presence().versions.runtime };
    0
}

unsafe extern "C" fn error_name(code: cudaError_t) -> *const c_char {
    match code {
        codes::SUCCESS => c"cudaSuccess",
        codes::MEMORY_ALLOCATION => c"cudaError2",
        codes::INSUFFICIENT_DRIVER => c"cudaError35",
        codes::DEVICES_UNAVAILABLE => c"cudaError46",
        codes::NO_DEVICE => c"cudaError100",
        codes::INVALID_DEVICE => c"cudaError101",
        codes::ECC_UNCORRECTABLE => c"cudaError214",
        INVALID_HANDLE => c"cudaError400",
        codes::ILLEGAL_ADDRESS => c"cudaError700",
        codes::LAUNCH_TIMEOUT => c"cudaError702",
        codes::LAUNCH_FAILURE => c"cudaError719",
        codes::NOT_SUPPORTED => c"cudaError801",
        codes::DRIVER_MISMATCH => c"cudaError803",
        codes::UNKNOWN => c"cudaError999",
        _ => c"cudaErrorOther",
    }
    .as_ptr()
}

unsafe extern "C" fn error_string(_: cudaError_t) -> *const c_char {
    c"an error of fake CUDA".as_ptr()
}

unsafe extern "C" fn last_error() -> cudaError_t {
    take_last()
}

unsafe extern "C" fn device_count(count: *mut c_int) -> cudaError_t {
    let presence = presence();
    // SAFETY: the caller passes a valid pointer.
    unsafe { *count = presence.count as c_int };
    note(presence.code)
}

unsafe extern "C" fn set_device(device: c_int) -> cudaError_t {
    // The wrapper in `faults` sets the current device, because it counts calls by it.
    let found = usize::try_from(device).ok().and_then(Device::find).ok_or(codes::INVALID_DEVICE);
    status(found.map(drop))
}

unsafe extern "C" fn attribute(value: *mut c_int, attribute: cudaDeviceAttr, device: c_int) -> cudaError_t {
    let Some(device) = usize::try_from(device).ok().and_then(Device::find) else {
        return note(codes::INVALID_DEVICE);
    };
    let (major, minor) = device.setting.compute_capability;
    // SAFETY: the caller passes a valid pointer.
    unsafe {
        *value = match attribute {
            cudaDevAttrComputeCapabilityMajor => major,
            cudaDevAttrComputeCapabilityMinor => minor,
            _ => 132,
        };
    }
    0
}

unsafe extern "C" fn bus_id(id: *mut c_char, length: c_int, _: c_int) -> cudaError_t {
    const ID: &CStr = c"0000:00:00.0";
    assert!(length as usize > ID.count_bytes());
    // SAFETY: the buffer is long enough, as just checked.
    unsafe { id.copy_from_nonoverlapping(ID.as_ptr(), ID.count_bytes() + 1) };
    0
}

unsafe extern "C" fn memory_info(free: *mut usize, total: *mut usize) -> cudaError_t {
    status(current().and_then(|device| {
        let (machine, setting) = (device.enter()?, &device.setting);
        // SAFETY: the caller passes two valid pointers.
        unsafe {
            *total = setting.memory;
            *free = setting.memory - setting.memory_of_others - machine.device_bytes;
        }
        Ok(())
    }))
}

unsafe extern "C" fn malloc(address: *mut *mut c_void, bytes: usize) -> cudaError_t {
    // SAFETY: the caller passes a valid pointer.
    status(current().and_then(|device| take(&device, bytes, false)).map(|base| unsafe { *address = base }))
}

unsafe extern "C" fn free(address: *mut c_void) -> cudaError_t {
    status(give_back(address, false))
}

unsafe extern "C" fn host_alloc(address: *mut *mut c_void, bytes: usize, _: c_uint) -> cudaError_t {
    // SAFETY: the caller passes a valid pointer.
    status(current().and_then(|device| take(&device, bytes, true)).map(|base| unsafe { *address = base }))
}

unsafe extern "C" fn free_host(address: *mut c_void) -> cudaError_t {
    status(give_back(address, true))
}

unsafe extern "C" fn host_register(address: *mut c_void, bytes: usize, _: c_uint) -> cudaError_t {
    status(current().and_then(|device| {
        let mut machine = device.enter()?;
        device.setting.pin_error.map_or(Ok(()), Err)?;
        machine.pinned.push(address.addr()..address.addr() + bytes);
        machine.live += 1;
        Ok(())
    }))
}

unsafe extern "C" fn host_unregister(address: *mut c_void) -> cudaError_t {
    status(current().and_then(|device| {
        let (mut machine, drained) = match device.drain("memory was unpinned") {
            Ok(machine) => (machine, Ok(())),
            Err(code) => (device.look(), Err(code)),
        };
        let Some(at) = machine.pinned.iter().position(|range| range.start == address.addr()) else {
            machine.violations.push("memory was unpinned that was not pinned".into());
            return Err(INVALID_VALUE);
        };
        machine.pinned.swap_remove(at);
        machine.live -= 1;
        drop(machine);
        device.retire_if_left();
        drained
    }))
}

unsafe extern "C" fn device_pointer(seen: *mut *mut c_void, host: *mut c_void, _: c_uint) -> cudaError_t {
    status(current().and_then(|device| {
        let machine = device.enter()?;
        if !machine.pinned.iter().any(|range| range.contains(&host.addr())) {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller passes a valid pointer.
        unsafe { *seen = host };
        Ok(())
    }))
}

unsafe extern "C" fn copy(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    kind: cudaMemcpyKind,
    stream: cudaStream_t,
) -> cudaError_t {
    let host = match kind {
        cudaMemcpyHostToDevice => Some(from.addr()),
        cudaMemcpyDeviceToHost => Some(to.addr()),
        _ => None,
    };
    let chunk = |start: usize, bytes: usize| {
        Op::Work(Work(Box::new(move || {
            // SAFETY: the caller keeps source and destination until the CUDA stream has run the copy.
            unsafe { from.cast::<u8>().add(start).copy_to_nonoverlapping(to.cast::<u8>().add(start), bytes) }
        })))
    };
    status(stream_of(stream).and_then(|(device, number)| {
        if let Some(host) = host {
            let mut machine = device.look();
            if !machine.pinned.iter().any(|range| range.start <= host && host + bytes <= range.end) {
                machine
                    .violations
                    .push(format!("a copy of {bytes} bytes from or to memory that is not pinned"));
            }
        }
        let half = bytes / 2;
        device.enqueue(number, chunk(0, half))?;
        device.enqueue(number, chunk(half, bytes - half))
    }))
}

/// Only copies within the device are supported.
unsafe extern "C" fn copy_rows(
    to: *mut c_void,
    to_stride: usize,
    from: *const c_void,
    from_stride: usize,
    bytes: usize,
    rows: usize,
    kind: cudaMemcpyKind,
    stream: cudaStream_t,
) -> cudaError_t {
    if kind != cudaMemcpyDeviceToDevice || bytes > to_stride.min(from_stride) {
        return note(INVALID_VALUE);
    }
    let work = move || {
        for row in 0..rows {
            // SAFETY: the caller keeps all rows until the CUDA stream has run the copy.
            unsafe {
                let from = from.cast::<u8>().add(row * from_stride);
                from.copy_to_nonoverlapping(to.cast::<u8>().add(row * to_stride), bytes);
            }
        }
    };
    status(enqueue(stream, Op::Work(Work(Box::new(work)))))
}

unsafe extern "C" fn fill(to: *mut c_void, value: c_int, bytes: usize, stream: cudaStream_t) -> cudaError_t {
    // SAFETY: the caller keeps the memory until the CUDA stream has run the command.
    let work = move || unsafe { to.cast::<u8>().write_bytes(value as u8, bytes) };
    status(enqueue(stream, Op::Work(Work(Box::new(work)))))
}

unsafe extern "C" fn stream_create(stream: *mut cudaStream_t, _: c_uint) -> cudaError_t {
    status(current().and_then(|device| {
        let mut machine = device.enter()?;
        machine.streams.push(Default::default());
        machine.made += 1;
        machine.live += 1;
        // SAFETY: the caller passes a valid pointer.
        unsafe { *stream = handle(device.ordinal, machine.streams.len() - 1) };
        Ok(())
    }))
}

/// Counts a destroyed object.
fn release(device: &Device) {
    device.look().live -= 1;
    device.retire_if_left();
}

unsafe extern "C" fn stream_destroy(stream: cudaStream_t) -> cudaError_t {
    status(resolve(stream).map(|(device, _)| release(&device)))
}

/// The status of a query.
fn answer(done: Outcome<bool>) -> cudaError_t {
    status(done.and_then(|done| if done { Ok(()) } else { Err(cudaErrorNotReady) }))
}

unsafe extern "C" fn stream_query(stream: cudaStream_t) -> cudaError_t {
    let queried = if stream.is_null() { current().map(|device| (device, 0)) } else { resolve(stream) };
    answer(queried.and_then(|(device, number)| {
        device.query(number, |machine| match stream.is_null() {
            true => !machine.has_work(),
            false => machine.streams[number].is_empty(),
        })
    }))
}

unsafe extern "C" fn stream_wait(stream: cudaStream_t, event: cudaEvent_t, _: c_uint) -> cudaError_t {
    status(resolve(event).and_then(|(device, event)| {
        let recorded = device.enter()?.events[event].recorded;
        enqueue(stream, Op::WaitEvent(event, recorded))
    }))
}

unsafe extern "C" fn event_create(event: *mut cudaEvent_t, flags: c_uint) -> cudaError_t {
    status(current().and_then(|device| {
        let mut machine = device.enter()?;
        let timing = flags & cudaEventDisableTiming == 0;
        machine.events.push(EventState { timing, ..EventState::default() });
        machine.made += 1;
        machine.live += 1;
        // SAFETY: the caller passes a valid pointer.
        unsafe { *event = handle(device.ordinal, machine.events.len() - 1) };
        Ok(())
    }))
}

unsafe extern "C" fn event_destroy(event: cudaEvent_t) -> cudaError_t {
    status(resolve(event).map(|(device, _)| release(&device)))
}

unsafe extern "C" fn event_record(event: cudaEvent_t, stream: cudaStream_t) -> cudaError_t {
    status(resolve(event).and_then(|(device, event)| {
        let (other, number) = stream_of(stream)?;
        if !Arc::ptr_eq(&device, &other) {
            return Err(INVALID_HANDLE);
        }
        let (recording, late) = {
            let mut machine = device.enter()?;
            let late = machine.lateness();
            let state = &mut machine.events[event];
            state.recorded += 1;
            state.stream = number;
            (state.recorded, late)
        };
        device.enqueue(number, Op::Record(event, recording, late))
    }))
}

unsafe extern "C" fn event_query(event: cudaEvent_t) -> cudaError_t {
    answer(resolve(event).and_then(|(device, event)| {
        let stream = device.look().events[event].stream;
        device.query(stream, |machine| machine.events[event].is_done())
    }))
}

/// As documented by CUDA for an earlier and a later event; refuses the reverse order.
unsafe extern "C" fn elapsed(ms: *mut f32, start: cudaEvent_t, end: cudaEvent_t) -> cudaError_t {
    status(resolve(start).and_then(|(device, start)| {
        let (_, end) = resolve(end)?;
        let machine = device.enter()?;
        let (start, end) = (&machine.events[start], &machine.events[end]);
        if !start.timing || !end.timing {
            return Err(INVALID_HANDLE);
        }
        if !start.is_done() || !end.is_done() {
            return Err(cudaErrorNotReady);
        }
        let ns = end.at_ns.checked_sub(start.at_ns).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller passes a valid pointer.
        unsafe { *ms = (ns as f64 / 1e6) as f32 };
        Ok(())
    }))
}

unsafe extern "C" fn entry_point(
    symbol: *const c_char,
    address: *mut *mut c_void,
    _: c_uint,
    _: c_ulonglong,
    found: *mut cudaDriverEntryPointQueryResult,
) -> cudaError_t {
    if presence().versions.driver == 0 {
        return note(codes::INSUFFICIENT_DRIVER);
    }
    // SAFETY: the caller passes a terminated name and two valid pointers.
    unsafe {
        *address = match CStr::from_ptr(symbol).to_bytes() {
            b"cuDeviceGetName" => device_name as *mut c_void,
            b"cuStreamWaitValue32" => wait_word as *mut c_void,
            b"cuStreamWriteValue32" => write_word as *mut c_void,
            _ => std::ptr::null_mut(),
        };
        *found = u32::from((*address).is_null());
    }
    0
}

unsafe extern "C" fn device_name(name: *mut c_char, length: c_int, device: CUdevice) -> CUresult {
    const NAME: &CStr = c"fake CUDA";
    if usize::try_from(device).ok().and_then(Device::find).is_none() {
        return codes::INVALID_DEVICE;
    }
    assert!(length as usize > NAME.count_bytes());
    // SAFETY: the buffer is long enough, as just checked.
    unsafe { name.copy_from_nonoverlapping(NAME.as_ptr(), NAME.count_bytes() + 1) };
    0
}

/// Queues a command on a word. Driver errors do not become the thread's last error.
fn on_word(stream: cudaStream_t, op: Op) -> CUresult {
    let done = stream_of(stream).and_then(|(device, number)| {
        if !device.setting.words {
            return Err(codes::NOT_SUPPORTED);
        }
        device.enqueue(number, op)?;
        device.look().words_used += 1;
        Ok(())
    });
    done.err().unwrap_or(0)
}

unsafe extern "C" fn wait_word(stream: CUstream, word: CUdeviceptr, value: u32, _: c_uint) -> CUresult {
    on_word(stream, Op::WaitWord(Pointer(std::ptr::with_exposed_provenance_mut(word as usize)), value))
}

unsafe extern "C" fn write_word(stream: CUstream, word: CUdeviceptr, value: u32, _: c_uint) -> CUresult {
    on_word(stream, Op::WriteWord(Pointer(std::ptr::with_exposed_provenance_mut(word as usize)), value))
}

/// The runtime table of fake devices.
pub fn runtime() -> Runtime {
    Runtime {
        cudaDriverGetVersion: driver_version,
        cudaRuntimeGetVersion: runtime_version,
        cudaGetDriverEntryPointByVersion: entry_point,
        cudaGetErrorName: error_name,
        cudaGetErrorString: error_string,
        cudaGetLastError: last_error,
        cudaGetDeviceCount: device_count,
        cudaSetDevice: set_device,
        cudaDeviceGetAttribute: attribute,
        cudaDeviceGetPCIBusId: bus_id,
        cudaMemGetInfo: memory_info,
        cudaMalloc: malloc,
        cudaFree: free,
        cudaHostAlloc: host_alloc,
        cudaFreeHost: free_host,
        cudaHostRegister: host_register,
        cudaHostUnregister: host_unregister,
        cudaHostGetDevicePointer: device_pointer,
        cudaMemcpyAsync: copy,
        cudaMemcpy2DAsync: copy_rows,
        cudaMemsetAsync: fill,
        cudaStreamCreateWithFlags: stream_create,
        cudaStreamDestroy: stream_destroy,
        cudaStreamQuery: stream_query,
        cudaStreamWaitEvent: stream_wait,
        cudaEventCreateWithFlags: event_create,
        cudaEventDestroy: event_destroy,
        cudaEventRecord: event_record,
        cudaEventQuery: event_query,
        cudaEventElapsedTime: elapsed,
    }
}
