//! Fake devices: the registry by ordinal, the thread's current device, and the thread that runs a
//! device's work on its own.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use horizon::sys::cuda_status::{self, Presence, Versions};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::machine::{Machine, Op, QUEUE, Work};
use super::{Manner, Setting, faults};

/// After this long without a new command, lazy work runs on its own, because a thread may wait in a
/// way that fake CUDA cannot see.
const IDLE: Duration = Duration::from_micros(150);
/// Interval between checks for progress of other threads.
const NAP: Duration = Duration::from_micros(30);

/// A fake device.
pub struct Device {
    pub ordinal: usize,
    pub setting: Setting,
    machine: Mutex<Machine>,
    /// Signals that a command was queued or run, or that the context was unlocked.
    changed: Condvar,
    /// True while a [`FakeCuda`](super::FakeCuda) refers to the device.
    pub in_use: AtomicBool,
    retired: AtomicBool,
}

/// All devices ever added, by ordinal.
static DEVICES: RwLock<Vec<Option<Arc<Device>>>> = RwLock::new(Vec::new());

thread_local! {
    /// The calling thread's current device. CUDA starts with device 0; the tests do not rely on that.
    pub static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    /// Overrides the driver versions and devices that this thread sees.
    pub static PRESENCE: RefCell<Option<Presence>> = const { RefCell::new(None) };
}

/// The driver versions and devices that the calling thread sees.
pub fn presence() -> Presence {
    PRESENCE.with_borrow(Clone::clone).unwrap_or_else(|| Presence {
        versions: Versions { driver: 13000, runtime: 13000 },
        code: cuda_status::SUCCESS,
        text: String::new(),
        count: DEVICES.read().len(),
    })
}

impl Device {
    /// Adds a device with the next ordinal.
    pub fn add(setting: Setting) -> Arc<Device> {
        let mut devices = DEVICES.write();
        let device = Arc::new(Device {
            ordinal: devices.len(),
            machine: Mutex::new(Machine::new(&setting)),
            setting,
            changed: Condvar::new(),
            in_use: AtomicBool::new(true),
            retired: AtomicBool::new(false),
        });
        devices.push(Some(device.clone()));
        let runner = device.clone();
        thread::Builder::new().name("fake-cuda".into()).spawn(move || runner.run()).expect("a thread");
        device
    }

    /// Returns the device of an ordinal, unless it was removed.
    pub fn find(ordinal: usize) -> Option<Arc<Device>> {
        DEVICES.read().get(ordinal).cloned().flatten()
    }

    /// Removes the device if it is no longer in use and has no live objects.
    pub fn retire_if_left(&self) {
        if !self.in_use.load(Ordering::Acquire) && self.machine.lock().live == 0 {
            self.retired.store(true, Ordering::Release);
            self.changed.notify_all();
            DEVICES.write()[self.ordinal] = None;
            faults::forget(self.ordinal);
        }
    }

    /// Locks the state without waiting for the context.
    pub fn look(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    /// Starts a call: waits while another thread holds the lock of the context. Errors: the device
    /// is lost.
    pub fn enter(&self) -> Result<MutexGuard<'_, Machine>, u32> {
        let mut machine = self.machine.lock();
        self.wait_until(&mut machine, "a call waits while a kernel is loaded", |machine| {
            !machine.is_locked()
        })?;
        Ok(machine)
    }

    /// Waits until `done`, running work meanwhile. Errors: the device is lost, or the wait takes
    /// too long.
    fn wait_until(
        &self,
        machine: &mut MutexGuard<'_, Machine>,
        what: &str,
        done: impl Fn(&Machine) -> bool,
    ) -> Result<(), u32> {
        let start = Instant::now();
        while machine.lost.is_none() && !done(machine) {
            if machine.is_locked() || !machine.advance_any() {
                self.changed.wait_for(machine, NAP);
            }
            if start.elapsed() > self.setting.patience && machine.lost.is_none() {
                machine.deadlock(what);
            }
        }
        machine.lost.map_or(Ok(()), Err)
    }

    /// Appends a command to a CUDA stream, once its queue has space.
    pub fn enqueue(&self, stream: usize, op: Op) -> Result<(), u32> {
        let mut machine = self.enter()?;
        self.append(&mut machine, stream, op)
    }

    fn append(&self, machine: &mut MutexGuard<'_, Machine>, stream: usize, op: Op) -> Result<(), u32> {
        self.wait_until(machine, "the queue of a CUDA stream stays full", |machine| {
            machine.streams[stream].len() < QUEUE
        })?;
        machine.push(stream, op);
        self.changed.notify_all();
        Ok(())
    }

    /// Launches a kernel. The first launch of each kernel loads it: that locks the context and
    /// waits until the device is idle.
    pub fn launch(&self, stream: usize, kernel: usize, work: Work) -> Result<(), u32> {
        let mut machine = self.enter()?;
        if machine.loads_now(kernel) {
            machine.loading = Some(thread::current().id());
            let idle = self.wait_until(
                &mut machine,
                "a kernel is loaded but the device does not become idle",
                |machine| !machine.has_work(),
            );
            machine.loading = None;
            self.changed.notify_all();
            idle?;
        }
        self.append(&mut machine, stream, Op::Work(work))
    }

    /// Runs all queued work, as CUDA does before it frees memory. Records a violation if there was
    /// any.
    pub fn drain(&self, what: &str) -> Result<MutexGuard<'_, Machine>, u32> {
        let mut machine = self.enter()?;
        machine.note_work(what);
        self.wait_until(&mut machine, "memory is freed while queued work cannot run", |machine| {
            !machine.has_work()
        })?;
        Ok(machine)
    }

    /// Answers a query whether something is done. Queries also advance the work.
    pub fn query(&self, stream: usize, done: impl Fn(&Machine) -> bool) -> Result<bool, u32> {
        let mut machine = self.enter()?;
        if !done(&machine) {
            machine.advance_for(stream);
        }
        machine.lost.map_or_else(|| Ok(done(&machine)), Err)
    }

    /// While held, no work runs.
    pub fn hold(&self, held: bool) {
        self.machine.lock().held = held;
        self.changed.notify_all();
    }

    /// The loop of the device's own thread.
    fn run(&self) {
        let mut machine = self.machine.lock();
        while !self.retired.load(Ordering::Acquire) {
            if machine.lost.is_some() || machine.held || !machine.has_work() {
                self.changed.wait(&mut machine);
                continue;
            }
            let before = machine.progress_at;
            match self.setting.manner {
                Manner::Eager => machine.run_all(),
                Manner::Lazy if machine.enqueued_at.elapsed() < IDLE => {}
                Manner::Lazy => drop(machine.advance_any()),
                Manner::Random(_) => machine.run_some(),
            }
            if before.elapsed() > self.setting.patience && machine.progress_at == before {
                machine.deadlock("CUDA streams wait for something that no command does");
            }
            self.changed.notify_all();
            self.changed.wait_for(&mut machine, NAP);
        }
    }
}
