//! Fake CUDA: a table of C functions over devices whose streams, events, words and memory behave as CUDA's contract
//! says and as unkindly as it allows.
//!
//! Each [`FakeCuda`] is a device, by its ordinal; as many are there at a time as tests run. Work is queued and runs when
//! somebody waits for it (`Lazy`: only what that needs, as late as can be), at once (`Eager`), or when chance wants
//! (`Random`). It runs one piece at a time, on whatever thread drives it or on the device's own. Copies are two pieces,
//! and an event is reached some time after the work before it. The n-th [call](Fault) can be made to fail, and the n-th
//! piece of work to take the device down, from when on every call fails.
//!
//! A stream's queue holds 1000 commands and blocks whoever enqueues more. A kernel that is launched for the first time
//! is loaded: that takes the lock of the context, which keeps all other threads out of CUDA, until the device is idle.
//! Threads that wait for each other for good are noted, and let go by the loss of the device.
//!
//! What a correct user never does is noted in [`FakeCuda::violations`]: work from threads whose current device is
//! another, copies of memory that is not page-locked, memory given back while work is queued, deadlocks.
//!
//! Kernels are those of `tests/emulator` where a toolkit is there, and otherwise (and sooner) the CPU's, by [`backend`].

mod calls;
mod delays;
mod device;
pub mod emulated;
mod faults;
mod kernels;
mod machine;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use horizon::base::Result;
use horizon::sys::cuda::{Api, Stream, install};
use horizon::sys::cuda_status::{self, Presence};

use device::{Device, PRESENCE};
pub use faults::{FUNCTIONS, Fault, Injection};
pub use kernels::backend;
use machine::Work;

/// When queued work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As soon as nothing holds it.
    Eager,
    /// When somebody waits for it.
    Lazy,
    /// When a seed says so.
    Random(u64),
}

/// Properties of a fake device.
#[derive(Clone, Debug)]
pub struct Setting {
    pub manner: Manner,
    /// The call that fails.
    pub fault: Option<Fault>,
    /// The piece of work that fails, counted from 1, and the status of every call from then on.
    pub failing_work: Option<(u64, u32)>,
    /// Whether streams can wait for words.
    pub words: bool,
    /// Device memory, and how much of it others have.
    pub memory: usize,
    pub memory_of_others: usize,
    /// The status of page-locking host memory, where that fails.
    pub pins: Option<u32>,
    /// What the calling thread is shown of drivers and devices until the last [`FakeCuda`] of this device is dropped.
    pub presence: Option<Presence>,
    pub compute_capability: (i32, i32),
    /// How long threads may wait for each other before that counts as a deadlock.
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
            pins: None,
            presence: None,
            compute_capability: (9, 0),
            patience: Duration::from_secs(30),
        }
    }
}

/// A fake device. Clones share it.
#[derive(Clone)]
pub struct FakeCuda(Arc<Asking>);

/// Somebody asks about a device, which therefore stays.
struct Asking(Arc<Device>);

impl Drop for Asking {
    fn drop(&mut self) {
        if self.0.setting.presence.is_some() {
            PRESENCE.set(None);
        }
        self.0.asked.store(false, Ordering::Release);
        self.0.retire_if_left();
    }
}

/// Makes fake CUDA the process's.
///
/// # Panics
/// If another table is in use.
fn install_fake() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the fake's functions keep the contracts that the crate relies on, as far as it shows.
        unsafe { install(faults::around_fake(calls::runtime())) }.expect("no other CUDA is in use");
    });
}

/// Makes fake CUDA the process's, with one device and the emulated kernels, where `HZ_FAKE_CUDA=1` asks for it: a
/// rehearsal of what is meant for a GPU. Called before anything of CUDA; gives the device.
pub fn install_if_asked() -> Option<&'static FakeCuda> {
    let asked = std::env::var_os("HZ_FAKE_CUDA").is_some_and(|value| value == "1");
    asked.then(rehearsal)
}

/// The device of rehearsals.
fn rehearsal() -> &'static FakeCuda {
    static DEVICE: OnceLock<FakeCuda> = OnceLock::new();
    DEVICE.get_or_init(|| FakeCuda::new(Setting { memory: 64 << 30, ..Setting::default() }))
}

/// Whether this process's tests work on a GPU: one is there, and `HZ_FAKE_CUDA=1` does not ask for a rehearsal. The
/// GPU's calls can then be made to fail. Otherwise fake CUDA is the process's from now on, and that is said.
///
/// # Panics
/// If there is none and `HZ_REQUIRE_GPU` is 1.
pub fn has_gpu() -> bool {
    static GPU: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let found = GPU.get_or_init(|| {
        let found = linked_gpu();
        match &found {
            // SAFETY: the linked functions, with every call passed on or failed.
            Ok(api) => unsafe { install(faults::around(*api)) }.expect("nothing is in use"),
            Err(_) => drop(rehearsal()),
        }
        found.map(drop)
    });
    let Err(why) = found else { return true };
    let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!must, "HZ_REQUIRE_GPU=1, but there is no GPU: {why}");
    println!("skipped on a GPU: {why}");
    false
}

/// The linked functions, if they see a GPU and a rehearsal is not asked for.
fn linked_gpu() -> std::result::Result<Api, String> {
    if install_if_asked().is_some() {
        return Err("HZ_FAKE_CUDA=1 asks for a rehearsal".into());
    }
    let api = Api::linked().ok_or("this build has no kernels")?;
    let mut count = 0;
    // SAFETY: a place for a number.
    match unsafe { (api.runtime.cudaGetDeviceCount)(&mut count) } {
        0 if count > 0 => Ok(api),
        code => Err(format!("counting devices gave status {code} and {count}")),
    }
}

/// Injects faults into the calls of the device of this ordinal, counted from now on; the default ends that.
pub fn inject(ordinal: usize, injection: Injection) {
    faults::inject(ordinal, injection);
}

/// Calls of one function that the device of this ordinal has had since [`inject`].
pub fn calls_of(ordinal: usize, function: &'static str) -> u64 {
    faults::calls_of(ordinal, function)
}

/// How often streams of the device of this ordinal were held up since [`inject`].
pub fn delays_of(ordinal: usize) -> u32 {
    faults::delays_of(ordinal)
}

/// Launches a kernel that is a closure. The first launch of a name is that of a kernel which is loaded then.
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
        code => Err(failed(code).within("an error that nobody cleared")),
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
        FakeCuda(Arc::new(Asking(device)))
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

    /// What was done that must not be.
    pub fn violations(&self) -> Vec<String> {
        self.device().look().violations.clone()
    }

    /// Calls so far, but for those whose number depends on time, and those that give something back.
    pub fn calls(&self) -> u64 {
        faults::calls(self.ordinal())
    }

    /// Streams, events and pieces of memory made so far.
    pub fn made(&self) -> usize {
        self.device().look().made
    }

    /// Pieces of work done so far.
    pub fn worked(&self) -> u64 {
        self.device().look().worked
    }

    /// Kernels loaded so far.
    pub fn loads(&self) -> u64 {
        self.device().look().loads
    }

    /// Whether a kernel is being loaded.
    pub fn is_loading(&self) -> bool {
        self.device().look().loading.is_some()
    }

    /// Commands in the longest queue.
    pub fn queued(&self) -> usize {
        self.device().look().streams.iter().map(|queue| queue.len()).max().unwrap_or(0)
    }

    /// Waits for words and writes of words so far.
    pub fn words_used(&self) -> u64 {
        self.device().look().words_used
    }

    /// Bytes of device memory taken and not given back.
    pub fn device_bytes(&self) -> usize {
        self.device().look().device_bytes
    }

    /// Pieces of host memory that are page-locked now.
    pub fn pinned(&self) -> usize {
        self.device().look().pinned.len()
    }

    /// Whether nothing runs until this is taken back.
    pub fn hold(&self, held: bool) {
        self.device().hold(held);
    }
}
