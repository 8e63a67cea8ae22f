//! Fault injection: a table of CUDA functions that forwards every call to another table, except
//! calls that fail.
//!
//! Faults belong to a device: calls are counted for threads whose current device it is. A failing
//! call is not forwarded. As in CUDA, a runtime failure is also the thread's last error: until it
//! is cleared, the next launcher reports it as its own.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr::{self, NonNull};

use horizon::cuda_functions;
use horizon::sys::cuda::bindings::*;
use horizon::sys::cuda::{Api, CublasLtFunctions, DriverFunctions, Launchers, Runtime};
use horizon::sys::cuda_status as codes;
use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use super::delays::{Delays, delayed};
use super::device::CURRENT;
use super::emulated;

/// A call that fails without being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The function; `None` for any function except [`UNCOUNTED`].
    pub function: Option<&'static str>,
    /// The number of the failing call, counted from 1.
    pub call: u64,
    /// The status it returns.
    pub code: u32,
}

impl Fault {
    /// Fails the n-th call of a function, with a status that is typical for it.
    pub fn of(function: &'static str, call: u64) -> Fault {
        let code = match function {
            "cudaMalloc" | "cudaHostAlloc" | "cudaHostRegister" => codes::MEMORY_ALLOCATION,
            "cudaSetDevice" => codes::DEVICES_UNAVAILABLE,
            // CUBLAS_STATUS_ALLOC_FAILED, CUBLAS_STATUS_EXECUTION_FAILED.
            "cublasLtMatmul" => 13,
            name if name.starts_with("cublasLt") => 3,
            _ => codes::LAUNCH_FAILURE,
        };
        Fault { function: Some(function), call, code }
    }
}

/// Faults and delays of a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Injection {
    /// The call that fails.
    pub fault: Option<Fault>,
    /// The seed of random delays of CUDA streams, which simulate a slow link or slow kernels.
    pub delays: Option<u64>,
}

/// The calls of a device.
#[derive(Debug, Default)]
struct Calls {
    all: u64,
    by_name: HashMap<&'static str, u64>,
    fault: Option<Fault>,
    delays: Option<Delays>,
}

static CALLS: Mutex<Option<HashMap<usize, Calls>>> = Mutex::new(None);

fn of<T>(device: usize, change: impl FnOnce(&mut Calls) -> T) -> T {
    change(CALLS.lock().get_or_insert_default().entry(device).or_default())
}

/// Injects faults into the calls of a device, counted from now on. Replaces earlier injections.
pub fn inject(device: usize, injection: Injection) {
    let Injection { fault, delays } = injection;
    let delays = delays.map(Delays::new);
    of(device, |calls| *calls = Calls { fault, delays, ..Calls::default() });
}

/// Number of calls of a device so far, except [`UNCOUNTED`].
pub fn calls(device: usize) -> u64 {
    of(device, |calls| calls.all)
}

/// Number of calls of one function so far.
pub fn calls_of(device: usize, function: &'static str) -> u64 {
    of(device, |calls| calls.by_name.get(function).copied().unwrap_or(0))
}

/// Removes the record of a device.
pub fn forget(device: usize) {
    CALLS.lock().get_or_insert_default().remove(&device);
}

/// Number of delays of a device's CUDA streams.
pub fn delays_of(device: usize) -> u32 {
    of(device, |calls| calls.delays.as_ref().map_or(0, Delays::count))
}

/// Draws whether to delay a CUDA stream of a device; if so, returns the word to wait for and its
/// value.
pub fn draw_delay(device: usize) -> Option<(u64, u32)> {
    of(device, |calls| calls.delays.as_mut()?.draw())
}

/// Calls that are not counted: those whose number depends on timing or on which thread comes first,
/// and those that free something, whose failure would leak it.
const UNCOUNTED: [&str; 8] = [
    "cudaSetDevice",
    "cudaStreamQuery",
    "cudaEventQuery",
    "cudaFree",
    "cudaFreeHost",
    "cudaHostUnregister",
    "cudaStreamDestroy",
    "cudaEventDestroy",
];

/// Counts a call; returns its status if it fails.
pub fn before(function: &'static str) -> Option<u32> {
    let device = CURRENT.get()?;
    of(device, |calls| {
        let own = calls.by_name.entry(function).or_default();
        *own += 1;
        let (own, counted) = (*own, !UNCOUNTED.contains(&function));
        calls.all += u64::from(counted);
        let fault = calls.fault?;
        let number = match fault.function {
            None if counted => calls.all,
            Some(name) if name == function => own,
            _ => return None,
        };
        (number == fault.call).then_some(fault.code)
    })
}

thread_local! {
    /// The thread's last error.
    static LAST: Cell<u32> = const { Cell::new(0) };
}

/// Stores an error as the thread's last error; returns the status.
pub fn note(code: u32) -> u32 {
    if code != 0 {
        LAST.set(code);
    }
    code
}

/// Returns and clears the thread's last error.
pub fn take_last() -> u32 {
    LAST.take()
}

/// The names of a group of functions.
macro_rules! names {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => { &[$(stringify!($name)),*] };
}

/// The names of the runtime's functions, the driver's, our launchers, and cuBLASLt's.
pub const FUNCTIONS: [&[&str]; 4] = [
    cuda_functions!(runtime, names),
    cuda_functions!(driver, names),
    cuda_functions!(kernels, names),
    cuda_functions!(cublaslt, names),
];

/// The return type of a CUDA function.
trait Returned: Sized {
    /// The value that reports a failure, if the type has one.
    fn failure(code: u32) -> Option<Self>;

    /// The value that the caller gets.
    fn seen(self) -> Self {
        self
    }
}

impl Returned for u32 {
    fn failure(code: u32) -> Option<u32> {
        Some(code)
    }
}

/// The return type of launchers.
impl Returned for c_int {
    fn failure(code: u32) -> Option<c_int> {
        Some(code as c_int)
    }

    fn seen(self) -> c_int {
        if self == 0 { take_last() as c_int } else { self }
    }
}

impl Returned for usize {
    fn failure(_: u32) -> Option<usize> {
        None
    }
}

impl Returned for *const c_char {
    fn failure(_: u32) -> Option<*const c_char> {
        None
    }
}

static RUNTIME: OnceCell<Runtime> = OnceCell::new();
static KERNELS: OnceCell<Launchers> = OnceCell::new();

pub fn runtime_of() -> &'static Runtime {
    RUNTIME.get().expect("a table is wrapped before its functions are called")
}

fn kernels_of() -> &'static Launchers {
    KERNELS.get_or_init(emulated::launchers)
}

fn blas_of() -> &'static CublasLtFunctions {
    static BLAS: OnceCell<CublasLtFunctions> = OnceCell::new();
    BLAS.get_or_init(emulated::cublaslt)
}

/// Looks up a driver function in the wrapped table.
fn look_up(name: &CStr) -> Result<NonNull<c_void>, u32> {
    let (mut address, mut found) = (ptr::null_mut(), cudaDriverEntryPointSymbolNotFound);
    let name = name.to_string_lossy();
    let name = CString::new(name.trim_end_matches("_v2")).expect("no zero byte");
    // SAFETY: a terminated name and two valid pointers.
    let code = unsafe {
        (runtime_of().cudaGetDriverEntryPointByVersion)(name.as_ptr(), &mut address, 12000, 0, &mut found)
    };
    NonNull::new(address).filter(|_| code == 0).ok_or(code)
}

/// The driver functions of the wrapped table.
pub fn driver_of() -> &'static DriverFunctions {
    static DRIVER: OnceCell<DriverFunctions> = OnceCell::new();
    DRIVER.get_or_init(|| {
        // SAFETY: the driver's functions, looked up by name.
        unsafe { DriverFunctions::find(look_up) }.expect("callers have looked the functions up before")
    })
}

/// Defines wrappers for a group of functions, and their table. `$real` is the table that gets
/// forwarded calls; `$last` is true if a failure becomes the thread's last error.
macro_rules! wrap {
    ($group:ident $table:ident, $real:expr, $last:literal;
     $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        mod $group {
            use super::*;

            $(
                #[allow(non_snake_case)]
                unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                    let fault = before(stringify!($name));
                    if let Some((code, failure)) = fault.and_then(|code| Some((code, <$result>::failure(code)?))) {
                        if $last {
                            note(code);
                        }
                        return failure;
                    }
                    // SAFETY: the caller's arguments, forwarded to the function of the same name.
                    unsafe { ($real.$name)($($argument),*) }.seen()
                }
            )*

            pub fn table() -> $table {
                $table { $($name),* }
            }
        }
    };
}

cuda_functions!(runtime, wrap runtime Runtime, runtime_of(), true;);
cuda_functions!(kernels, wrap kernels Launchers, kernels_of(), false;);
cuda_functions!(cublaslt, wrap cublaslt CublasLtFunctions, blas_of(), false;);
cuda_functions!(driver, wrap driver DriverFunctions, driver_of(), false;);

unsafe extern "C" fn last_error() -> cudaError_t {
    // SAFETY: cudaGetLastError has no arguments and no preconditions.
    let real = unsafe { (runtime_of().cudaGetLastError)() };
    match take_last() {
        0 => real,
        own => own,
    }
}

unsafe extern "C" fn set_device(device: c_int) -> cudaError_t {
    let before = CURRENT.replace(usize::try_from(device).ok());
    // SAFETY: cudaSetDevice takes an integer and returns an error for an invalid device.
    let code = unsafe { (runtime::table().cudaSetDevice)(device) };
    if code != 0 {
        CURRENT.set(before);
    }
    code
}

/// Returns the wrapper of a driver function if the wrapped table has the function.
unsafe extern "C" fn entry_point(
    symbol: *const c_char,
    address: *mut *mut c_void,
    version: c_uint,
    flags: c_ulonglong,
    found: *mut cudaDriverEntryPointQueryResult,
) -> cudaError_t {
    let find = runtime::table().cudaGetDriverEntryPointByVersion;
    // SAFETY: the caller's arguments, forwarded.
    let code = unsafe { find(symbol, address, version, flags, found) };
    // SAFETY: the caller passes a terminated name, and the call just wrote both pointers.
    unsafe {
        if code == 0 && !(*address).is_null() {
            let wrapped = driver::table();
            *address = match CStr::from_ptr(symbol).to_bytes() {
                b"cuDeviceGetName" => wrapped.cuDeviceGetName as *mut c_void,
                b"cuStreamWaitValue32" => wrapped.cuStreamWaitValue32_v2 as *mut c_void,
                b"cuStreamWriteValue32" => wrapped.cuStreamWriteValue32_v2 as *mut c_void,
                _ => *address,
            };
        }
    }
    code
}

/// A wrapper of a function whose last argument is a CUDA stream, which may be delayed before the
/// call.
macro_rules! with_delay {
    ($name:ident($($argument:ident: $type:ty),*; $stream:ident)) => {{
        unsafe extern "C" fn with_delay($($argument: $type,)* $stream: cudaStream_t) -> cudaError_t {
            delayed($stream);
            // SAFETY: the caller's arguments, forwarded to the function of the same name.
            unsafe { (runtime::table().$name)($($argument,)* $stream) }
        }
        with_delay
    }};
}

fn wrapped() -> Runtime {
    Runtime {
        cudaEventRecord: with_delay!(cudaEventRecord(event: cudaEvent_t; stream)),
        cudaMemcpyAsync: with_delay!(cudaMemcpyAsync(
            to: *mut c_void, from: *const c_void, bytes: usize, kind: cudaMemcpyKind; stream
        )),
        cudaMemsetAsync: with_delay!(cudaMemsetAsync(to: *mut c_void, value: c_int, bytes: usize; stream)),
        cudaGetLastError: last_error,
        cudaSetDevice: set_device,
        cudaGetDriverEntryPointByVersion: entry_point,
        ..runtime::table()
    }
}

/// Wraps the linked functions. Once per process.
pub fn around(api: Api) -> Api {
    assert!(
        RUNTIME.set(api.runtime).is_ok() && KERNELS.set(api.kernels).is_ok(),
        "a table is already wrapped"
    );
    Api { runtime: wrapped(), kernels: kernels::table(), ..api }
}

/// Wraps fake CUDA and the emulated kernels; the latter are built when first called. Once per
/// process.
pub fn around_fake(fake: Runtime) -> Api {
    assert!(RUNTIME.set(fake).is_ok(), "a table is already wrapped");
    let cublaslt = emulated::is_there().then(cublaslt::table);
    Api { runtime: wrapped(), kernels: kernels::table(), wgmma: true, cublaslt }
}
