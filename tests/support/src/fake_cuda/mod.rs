//! Fake CUDA: a table of C functions over fake devices. CUDA streams, events, words and memory
//! follow CUDA's contract and use all the freedom it allows.
//!
//! Each [`FakeCuda`] is a device with its own ordinal; concurrent tests use separate devices.
//! Queued work runs when a thread waits for it (`Lazy`: only what is needed, as late as possible),
//! at once (`Eager`), or at random (`Random`). Commands run one at a time, on the thread that
//! drives them or on the device's own thread. A copy is two commands, and an event is reached some
//! time after the work before it. Fault injection can make the n-th [call](Fault) fail, or lose the
//! device at the n-th kernel or copy; from then on every call fails.
//!
//! The queue of a CUDA stream holds 1000 commands; enqueueing more blocks. The first launch of a
//! kernel loads it: this locks the context, which blocks all other calls, until the device is idle.
//! Deadlocks are recorded and resolved by losing the device.
//!
//! [`FakeCuda::violations`] records incorrect use: work from threads with another current device,
//! copies of memory that is not pinned, freeing memory while work is queued, deadlocks.
//!
//! The kernels are those of `tests/emulator`, or the CPU's with [`backend`], which is faster and
//! needs no toolkit.

mod calls;
mod delays;
mod device;
pub mod emulated;
mod faults;
mod kernels;
mod machine;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};
use std::time::Duration;

use horizon::base::Result;
use horizon::sys::cuda::{Api, Stream, install};
use horizon::sys::cuda_status::{self, Presence};
use once_cell::sync::OnceCell;

use device::{Device, PRESENCE};
pub use faults::{FUNCTIONS, Fault, Injection};
pub use kernels::{backend, backend_around};
use machine::Work;

/// The time at which queued work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As soon as possible.
    Eager,
    /// When a thread waits for it.
    Lazy,
    /// At random, by a seed.
    Random(u64),
}

/// Properties of a fake device.
#[derive(Clone, Debug)]
pub struct Setting {
    pub manner: Manner,
    /// The call that fails.
    pub fault: Option<Fault>,
    /// The number of the kernel or copy that fails, counted from 1, and the status of every call
    /// from then on.
    pub failing_work: Option<(u64, u32)>,
    /// True if CUDA streams can wait for words.
    pub words: bool,
    /// Device memory, and the share that other processes use.
    pub memory: usize,
    pub memory_of_others: usize,
    /// The status of pinning host memory, if it fails.
    pub pin_error: Option<u32>,
    /// Overrides the driver versions and devices that the calling thread sees, until the last
    /// [`FakeCuda`] of this device is dropped.
    pub presence: Option<Presence>,
    pub compute_capability: (i32, i32),
    /// The wait after which a deadlock is assumed.
    pub patience: Duration,
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            manner: Manner::Eager,
            fault: None,
            failing_work: None,
            words: true,
            memory: 1 << 30,
            memory_of_others: 0,
            pin_error: None,
            presence: None,
            compute_capability: (9, 0),
            patience: Duration::from_secs(30),
        }
    }
}

/// A fake device. Clones share it.
#[derive(Clone)]
pub struct FakeCuda(Arc<InUse>);

/// Keeps a device in use until dropped.
struct InUse(Arc<Device>);

impl Drop for InUse {
    fn drop(&mut self) {
        if self.0.setting.presence.is_some() {
            PRESENCE.set(None);
        }
        self.0.in_use.store(false, Ordering::Release);
        self.0.retire_if_left();
    }
}

/// Installs fake CUDA for this process.
///
/// # Panics
/// If another table is in use.
fn install_fake() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the fake functions keep the contracts that the crate relies on.
        unsafe { install(faults::around_fake(calls::runtime())) }.expect("no other CUDA is in use");
    });
}

/// Installs fake CUDA with one device and the emulated kernels if `HZ_FAKE_CUDA=1` requests a
/// rehearsal of a GPU run; returns the device. Must be called before any CUDA function.
pub fn install_if_asked() -> Option<&'static FakeCuda> {
    let asked = std::env::var_os("HZ_FAKE_CUDA").is_some_and(|value| value == "1");
    asked.then(rehearsal)
}

/// The device of rehearsals.
fn rehearsal() -> &'static FakeCuda {
    static DEVICE: OnceCell<FakeCuda> = OnceCell::new();
    DEVICE.get_or_init(|| FakeCuda::new(Setting { memory: 64 << 30, ..Setting::default() }))
}

/// Returns true if this process's tests run on a GPU: there is one, and `HZ_FAKE_CUDA=1` does not
/// request a rehearsal. Its calls can then be made to fail. Otherwise installs fake CUDA and prints
/// why.
///
/// # Panics
/// If there is none and `HZ_REQUIRE_GPU` is 1.
pub fn has_gpu() -> bool {
    static GPU: OnceCell<std::result::Result<(), String>> = OnceCell::new();
    let found = GPU.get_or_init(|| {
        let found = linked_gpu();
        match &found {
            // SAFETY: the linked functions; every call is forwarded or fails.
            Ok(api) => unsafe { install(faults::around(*api)) }.expect("nothing is in use"),
            Err(_) => drop(rehearsal()),
        }
        found.map(drop)
    });
    let Err(why) = found else { return true };
    let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!must, "HZ_REQUIRE_GPU=1, but no GPU was found: {why}");
    println!("skipped tests on a GPU: {why}");
    false
}

/// Returns the linked functions if they find a GPU and no rehearsal is requested.
fn linked_gpu() -> std::result::Result<Api, String> {
    if install_if_asked().is_some() {
        return Err("HZ_FAKE_CUDA=1 requests a rehearsal".into());
    }
    let api = Api::linked().ok_or("this build has no kernels")?;
    let mut count = 0;
    // SAFETY: a valid pointer.
    match unsafe { (api.runtime.cudaGetDeviceCount)(&mut count) } {
        0 if count > 0 => Ok(api),
        code => Err(format!("cudaGetDeviceCount returned status {code} and {count} devices")),
    }
}

/// Injects faults into the calls of a device, counted from now on; the default injects nothing.
pub fn inject(ordinal: usize, injection: Injection) {
    faults::inject(ordinal, injection);
}

/// Number of calls of a function by a device since [`inject`].
pub fn calls_of(ordinal: usize, function: &'static str) -> u64 {
    faults::calls_of(ordinal, function)
}

/// Number of delays of a device's CUDA streams since [`inject`].
pub fn delays_of(ordinal: usize) -> u32 {
    faults::delays_of(ordinal)
}

/// Launches a closure as a kernel. The first launch of a name loads the kernel.
pub fn launch(stream: &Stream, kernel: &'static str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let failed = |code| cuda_status::error(code, "launch a kernel", format!("cudaError{code}"));
    if let Some(code) = faults::before("launch") {
        return Err(failed(code));
    }
    let stream = stream.command()?;
    let queued = calls::stream_of(stream)
        .and_then(|(device, number)| device.launch(number, kernel.as_ptr().addr(), Work(Box::new(work))));
    queued.map_err(failed)?;
    match faults::take_last() {
        0 => Ok(()),
        code => Err(failed(code).within("an error that was not cleared")),
    }
}

impl FakeCuda {
    pub fn new(setting: Setting) -> FakeCuda {
        install_fake();
        if let Some(presence) = &setting.presence {
            PRESENCE.set(Some(presence.clone()));
        }
        let fault = setting.fault;
        let device = Device::add(setting);
        faults::inject(device.ordinal, Injection { fault, delays: None });
        FakeCuda(Arc::new(InUse(device)))
    }

    pub fn in_manner(manner: Manner) -> FakeCuda {
        FakeCuda::new(Setting { manner, ..Setting::default() })
    }

    fn device(&self) -> &Device {
        &self.0.0
    }

    pub fn ordinal(&self) -> usize {
        self.device().ordinal
    }

    /// Recorded violations of CUDA's contract.
    pub fn violations(&self) -> Vec<String> {
        self.device().look().violations.clone()
    }

    /// Number of calls so far, except those whose number depends on timing and those that free
    /// something.
    pub fn calls(&self) -> u64 {
        faults::calls(self.ordinal())
    }

    /// CUDA streams, events and allocations made so far.
    pub fn made(&self) -> usize {
        self.device().look().made
    }

    /// Kernels and copies run so far; a copy counts twice.
    pub fn worked(&self) -> u64 {
        self.device().look().worked
    }

    /// Kernels loaded so far.
    pub fn loads(&self) -> u64 {
        self.device().look().loads
    }

    /// Returns true while a kernel is being loaded.
    pub fn is_loading(&self) -> bool {
        self.device().look().loading.is_some()
    }

    /// Length of the longest queue.
    pub fn queued(&self) -> usize {
        self.device().look().streams.iter().map(|queue| queue.len()).max().unwrap_or(0)
    }

    /// Number of waits for words and writes of words so far.
    pub fn words_used(&self) -> u64 {
        self.device().look().words_used
    }

    /// Bytes of device memory currently allocated.
    pub fn device_bytes(&self) -> usize {
        self.device().look().device_bytes
    }

    /// Number of pinned ranges of host memory.
    pub fn pinned(&self) -> usize {
        self.device().look().pinned.len()
    }

    /// While held, no work runs.
    pub fn hold(&self, held: bool) {
        self.device().hold(held);
    }
}
